import type { MigrationStep } from "../database.ts";

// Steps of migration that are the same on SQLite and PostgreSQL. A released step never changes.

/** When a refresh token was last sent; and the index by which sessions are counted for a limit. */
export const sendsAndLimits: MigrationStep = {
  name: "sendsAndLimits",
  compatibleFrom: 3,
  transaction: [
    // Without a default: older servers go on writing rows, and mean `rotated_at`.
    "alter table rpcsession_sessions add column sent_at bigint",
    "alter table rpcsession_sessions add column prolonged bigint",
  ],
  afterwards: [
    {
      index: "rpcsession_sessions_user_tenant",
      on: "rpcsession_sessions (user_id, tenant_id) where revoked_at is null",
    },
  ],
};

/** Which sessions were forked from which. */
export const forks: MigrationStep = {
  name: "forks",
  compatibleFrom: 3,
  transaction: ["alter table rpcsession_sessions add column lineage text"],
};

/**
 * How tokens of format 2 are proven; and whether servers that cannot read them may use the tables. They
 * never did if there was no session and no server before this step.
 */
export const roots: MigrationStep = {
  name: "roots",
  compatibleFrom: 3,
  transaction: [
    // Older servers go on writing rows without them. The salt of such a row is its root.
    "alter table rpcsession_sessions add column root_hash text",
    "alter table rpcsession_sessions add column last_salted text",
    "alter table rpcsession_sessions add column former_secret_id text",
    "create table rpcsession_token_format (format bigint primary key)",
    `insert into rpcsession_token_format (format)
    select case
      when exists (select 1 from rpcsession_sessions) then 1
      when exists (select 1 from rpcsession_secrets) then 1
      when exists (select 1 from rpcsession_signing_keys) then 1
      else 2
    end`,
  ],
};

/** The ids of the secrets that servers have used. */
export const secrets: MigrationStep = {
  name: "secrets",
  compatibleFrom: 3,
  transaction: [
    `create table rpcsession_secrets (
    id text primary key,
    issuer text not null,
    seen_at bigint not null,
    dead_at bigint
  )`,
  ],
};

/** The ids of sessions and users at the system that authenticated them. */
export const externalIds: MigrationStep = {
  name: "externalIds",
  compatibleFrom: 3,
  transaction: [
    // Older servers go on writing rows without them, and keep them in the rows that they change.
    "alter table rpcsession_sessions add column external_issuer text",
    "alter table rpcsession_sessions add column external_sid text",
    "alter table rpcsession_sessions add column external_sub text",
  ],
  afterwards: [
    {
      index: "rpcsession_sessions_external_sid",
      on: "rpcsession_sessions (external_sid, external_issuer) where external_sid is not null and revoked_at is null",
    },
    {
      index: "rpcsession_sessions_external_sub",
      on: "rpcsession_sessions (external_sub, external_issuer) where external_sub is not null and revoked_at is null",
    },
  ],
};

/** How users authenticated, as JSON. */
export const authentications: MigrationStep = {
  name: "authentications",
  compatibleFrom: 3,
  // Older servers go on writing rows without it, and keep it in the rows that they change.
  transaction: ["alter table rpcsession_sessions add column authentication text"],
};

/**
 * The audit log.
 * @param idByBytes the id in the order of its bytes
 */
export function auditLog(idByBytes: string): MigrationStep {
  return {
    name: "auditLog",
    compatibleFrom: 3,
    transaction: [
      `create table rpcsession_audit (
    id text primary key,
    at bigint not null,
    ends_at bigint not null,
    user_id text,
    tenant_id text,
    session text not null,
    event text not null,
    detail text not null
  )`,
      `create index rpcsession_audit_user on rpcsession_audit (user_id, at, ${idByBytes})`,
      "create index rpcsession_audit_end on rpcsession_audit (ends_at)",
    ],
  };
}

/** The keys that sessions are bound to. */
export const boundKeys: MigrationStep = {
  name: "boundKeys",
  compatibleFrom: 3,
  // Older servers create sessions without one, and refuse the refresh tokens of sessions that have one.
  transaction: ["alter table rpcsession_sessions add column bound_key text"],
};

/** The ends of leases: tickets that were used leave one each. */
export const leaseEnds: MigrationStep = {
  name: "leaseEnds",
  compatibleFrom: 3,
  // Older servers remove none. They take and renew leases as before.
  transaction: [],
  afterwards: [{ index: "rpcsession_leases_end", on: "rpcsession_leases (expires_at)" }],
};
