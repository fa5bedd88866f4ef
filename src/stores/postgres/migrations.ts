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
    // The default of `xid` also covers entries that are written by hand.
    `create table rpcsession_changes (
    number bigserial primary key,
    kind text not null,
    session text not null,
    ended_by text not null,
    at bigint not null,
    xid xid8 not null default pg_current_xact_id()
  )`,
    "create index rpcsession_changes_xid on rpcsession_changes (xid)",
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
    "alter table rpcsession_sessions add column access_life bigint",
    "alter table rpcsession_sessions add column idle_life bigint",
    "drop index rpcsession_sessions_user",
    // The order of lists: live sessions by time, then by the bytes of the id.
    `create index rpcsession_sessions_user
    on rpcsession_sessions (user_id, created_at, id collate "C")
    where revoked_at is null`,
    `create index rpcsession_sessions_tenant
    on rpcsession_sessions (tenant_id, created_at, id collate "C")
    where revoked_at is null`,
    "alter table rpcsession_changes add column claims_version bigint",
    "alter table rpcsession_changes alter column ended_by drop not null",
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
    // Room in each page for the next version of its rows, so that updates that change no indexed column
    // touch no index. Holds for pages that are written from now on.
    "alter table rpcsession_sessions set (fillfactor = 85)",
  ],
  afterwards: [
    { index: "rpcsession_sessions_sweep", on: "rpcsession_sessions (sweep_at)" },
    {
      index: "rpcsession_sessions_in_tenant",
      on: 'rpcsession_sessions (tenant_id, created_at, id collate "C") where tenant_id is not null and revoked_at is null',
    },
    { dropIndex: "rpcsession_sessions_end" },
    { dropIndex: "rpcsession_sessions_tenant" },
  ],
};

/** What became of the data: see `histories.ts`. */
const histories: MigrationStep = {
  name: "histories",
  compatibleFrom: 3,
  transaction: [
    `create table rpcsession_histories (
    number bigint primary key,
    id text not null,
    place text not null,
    began_at bigint not null,
    lost_at bigint
  )`,
  ],
};

/** The steps, from version 1 on. */
export const postgresMigrations: readonly MigrationStep[] = [
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
  histories,
  auditLog('id collate "C"'),
  boundKeys,
  leaseEnds,
];
