import type { MigrationStep } from "../sql/database.ts";
import {
  auditLog,
  authentications,
  boundKeys,
  externalIds,
  forks,
  leaseEnds,
  roots,
  secrets,
  sendsAndLimits,
} from "../sql/migration/steps.ts";

// Append only: a released step never changes, so that every server and every printed script agree.

/** The first version: sessions, change log and signing keys. */
const first: MigrationStep = {
  name: "first",
  compatibleFrom: 1,
  transaction: [
    `create table rpcsession_sessions (
    id text primary key,
    user_id text not null,
    tenant_id text,
    transport text not null,
    salt text not null,
    secret_id text not null,
    generation bigint not null,
    confirmed_at bigint,
    rotated_at bigint not null,
    created_at bigint not null,
    auth_time bigint not null,
    idle_expires_at bigint not null,
    expires_at bigint not null,
    claims text not null,
    claims_version bigint not null,
    data text not null,
    version bigint not null,
    device text not null,
    last_seen_at bigint not null,
    revoked_at bigint,
    ended_by text
  )`,
    "create index rpcsession_sessions_user on rpcsession_sessions (user_id, created_at)",
    // The idle end is never after the absolute one, so it alone shows which sessions have expired.
    "create index rpcsession_sessions_end on rpcsession_sessions (idle_expires_at)",
    `create index rpcsession_sessions_revoked
    on rpcsession_sessions (revoked_at)
    where revoked_at is not null`,
    `create table rpcsession_changes (
    number integer primary key autoincrement,
    kind text not null,
    session text not null,
    ended_by text not null,
    at bigint not null
  )`,
    "create index rpcsession_changes_at on rpcsession_changes (at)",
    `create table rpcsession_signing_keys (
    slot bigint primary key,
    kid text not null,
    alg text not null,
    public_jwk text not null,
    private_jwk text not null,
    created_at bigint not null
  )`,
  ],
};

/** Leases: work that only one process may do at a time. */
const leases: MigrationStep = {
  name: "leases",
  compatibleFrom: 2,
  transaction: [
    `create table rpcsession_leases (
    name text primary key,
    holder text not null,
    expires_at bigint not null
  )`,
  ],
};

/** Lifetimes per session, changed claims, and lists by owner. */
const ownersAndClaims: MigrationStep = {
  name: "ownersAndClaims",
  compatibleFrom: 3,
  transaction: [
    // One column at a time: SQLite takes no more.
    "alter table rpcsession_sessions add column access_life bigint",
    "alter table rpcsession_sessions add column idle_life bigint",
    "drop index rpcsession_sessions_user",
    // The order of lists: live sessions by time, then by id.
    `create index rpcsession_sessions_user
    on rpcsession_sessions (user_id, created_at, id)
    where revoked_at is null`,
    `create index rpcsession_sessions_tenant
    on rpcsession_sessions (tenant_id, created_at, id)
    where revoked_at is null`,
    "alter table rpcsession_changes add column claims_version bigint",
    // Lets `ended_by` be null. SQLite cannot change a column, so replace it.
    "alter table rpcsession_changes rename column ended_by to former_ended_by",
    "alter table rpcsession_changes add column ended_by text",
    "update rpcsession_changes set ended_by = former_ended_by",
    "alter table rpcsession_changes drop column former_ended_by",
  ],
};

/** A coarse time to look for expired sessions; no rows without a tenant in the index of tenants. */
const sweeps: MigrationStep = {
  name: "sweeps",
  compatibleFrom: 3,
  transaction: [
    // Older servers insert rows with 0 and do not move it; the sweeper corrects that. Their own sweeps
    // read the whole table from now on.
    "alter table rpcsession_sessions add column sweep_at bigint not null default 0",
  ],
  afterwards: [
    { index: "rpcsession_sessions_sweep", on: "rpcsession_sessions (sweep_at)" },
    {
      index: "rpcsession_sessions_in_tenant",
      on: "rpcsession_sessions (tenant_id, created_at, id) where tenant_id is not null and revoked_at is null",
    },
    { dropIndex: "rpcsession_sessions_end" },
    { dropIndex: "rpcsession_sessions_tenant" },
  ],
};

/** The steps, from version 1 on. */
export const sqliteMigrations: readonly MigrationStep[] = [
  first,
  leases,
  ownersAndClaims,
  sendsAndLimits,
  forks,
  secrets,
  externalIds,
  authentications,
  sweeps,
  roots,
  auditLog("id"),
  boundKeys,
  leaseEnds,
];
