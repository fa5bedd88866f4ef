import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type {
  Device,
  EndedBy,
  ExternalKey,
  SessionRecord,
  SessionSelection,
  Stored,
} from "../../engine/store.ts";
import { keepEnded, sweepStep, toAuthentication, toExternalId } from "../common.ts";
import type { BigInteger, SqlDatabase } from "./database.ts";
import { join, now, type Sql, sql } from "./statement.ts";

/** A row of `rpcsession_sessions`. Times are milliseconds since 1970 UTC; JSON is text. */
export interface SessionRow {
  readonly id: string;
  readonly user_id: string;
  readonly tenant_id: string | null;
  readonly transport: string;
  readonly salt: string;
  readonly root_hash: string | null;
  readonly last_salted: string | null;
  readonly bound_key: string | null;
  readonly secret_id: string;
  readonly former_secret_id: string | null;
  readonly generation: BigInteger;
  readonly confirmed_at: BigInteger | null;
  readonly rotated_at: BigInteger;
  /** Null, or before `rotated_at`, if an older version wrote the row. */
  readonly sent_at: BigInteger | null;
  /** Counts only if `sent_at` does. */
  readonly prolonged: BigInteger | null;
  readonly created_at: BigInteger;
  readonly auth_time: BigInteger;
  readonly idle_expires_at: BigInteger;
  readonly expires_at: BigInteger;
  readonly access_life: BigInteger | null;
  readonly idle_life: BigInteger | null;
  readonly lineage: string | null;
  readonly external_issuer: string | null;
  readonly external_sid: string | null;
  readonly external_sub: string | null;
  readonly authentication: string | null;
  readonly claims: string;
  readonly claims_version: BigInteger;
  readonly data: string;
  readonly version: BigInteger;
  readonly device: string;
  readonly last_seen_at: BigInteger;
  readonly revoked_at: BigInteger | null;
  readonly ended_by: string | null;
}

/** A row together with the store's time and history, returned by the same statement. */
export type Timed<Row> = Row & Moment;

/** See `Stored`. */
interface Moment {
  readonly store_now: BigInteger;
  readonly store_history: string | null;
}

/** The columns that make a {@link Timed} row. */
export function moment({ dialect }: Pick<SqlDatabase, "dialect">): Sql {
  return sql`${now} as store_now, ${dialect.history} as store_history`;
}

/** Reads a row as a session. */
export function toSession(row: SessionRow): SessionRecord {
  const rotatedAt = Number(row.rotated_at);
  const sentAt = Math.max(rotatedAt, Number(row.sent_at));
  return {
    id: row.id,
    userId: row.user_id,
    tenantId: row.tenant_id,
    transport: row.transport as TokenTransport,
    salt: row.salt,
    rootHash: row.root_hash,
    lastSalted: row.last_salted,
    boundKey: row.bound_key,
    secretId: row.secret_id,
    formerSecretId: row.former_secret_id,
    generation: Number(row.generation),
    confirmedAt: toNumber(row.confirmed_at),
    rotatedAt,
    sentAt,
    prolonged: sentAt > rotatedAt ? Number(row.prolonged ?? 0) : 0,
    createdAt: Number(row.created_at),
    authTime: Number(row.auth_time),
    idleExpiresAt: Number(row.idle_expires_at),
    expiresAt: Number(row.expires_at),
    accessLife: toNumber(row.access_life),
    idleLife: toNumber(row.idle_life),
    lineage: row.lineage,
    externalId: toExternalId(row.external_issuer, row.external_sid, row.external_sub),
    authentication: toAuthentication(row.authentication),
    claims: JSON.parse(row.claims) as JsonObject,
    claimsVersion: Number(row.claims_version),
    data: JSON.parse(row.data) as JsonObject,
    version: Number(row.version),
    device: JSON.parse(row.device) as Device,
    lastSeenAt: Number(row.last_seen_at),
    revokedAt: toNumber(row.revoked_at),
    endedBy: row.ended_by as EndedBy | null,
  };
}

/** Reads a row as a session with the store's time and history. */
export function toStored(row: Timed<SessionRow>): Stored<SessionRecord> {
  return { record: toSession(row), ...toMoment(row) };
}

function toMoment({ store_now, store_history }: Moment): Omit<Stored<unknown>, "record"> {
  return { now: Number(store_now), ...(store_history !== null && { history: store_history }) };
}

/** The same, if there is a row. Without one, asks for time and history alone. */
export async function storedOrNone(
  database: SqlDatabase,
  row: Timed<SessionRow> | undefined,
): Promise<Stored<SessionRecord | undefined>> {
  if (row !== undefined) {
    return toStored(row);
  }
  const found = (await database.row<Moment>`select ${moment(database)}`) as Moment;
  return { record: undefined, ...toMoment(found) };
}

function toNumber(value: BigInteger | null): number | null {
  return value === null ? null : Number(value);
}

/** The condition that a session has neither ended nor expired. */
export const live: Sql = sql`revoked_at is null and idle_expires_at > ${now} and expires_at > ${now}`;

/**
 * The condition that a session whose id is given has not ended. Use it beside `id = …`, in place of
 * `revoked_at is null`: PostgreSQL would otherwise consider the partial indexes with that condition. It
 * takes those of a new database for empty, and reads one in full instead of the primary key.
 */
export const notEnded: Sql = sql`coalesce(revoked_at, 0) = 0`;

/** {@link live} for a session whose id is given; see {@link notEnded}. */
export const liveById: Sql = sql`${notEnded} and idle_expires_at > ${now} and expires_at > ${now}`;

/** The condition that a session is selected. An owner with neither id selects nothing. */
export function selectedBy(selection: SessionSelection): Sql {
  if ("external" in selection) {
    return externalIs(selection.external);
  }
  const { userId, tenantId } = selection;
  const conditions = [
    ...(userId === null ? [] : [sql`user_id = ${userId}`]),
    ...(tenantId === null ? [] : [sql`tenant_id = ${tenantId}`]),
  ];
  return conditions.length === 0 ? sql`1 = 0` : join(conditions, " and ");
}

function externalIs({ by, issuer, id }: ExternalKey): Sql {
  switch (by) {
    case "sid":
      return sql`external_sid = ${id} and external_issuer = ${issuer}`;
    case "sub":
      return sql`external_sub = ${id} and external_issuer = ${issuer}`;
    case "subWithoutSid":
      return sql`external_sub = ${id} and external_issuer = ${issuer} and external_sid is null`;
  }
}

/** The condition that a session has one of the ids, of which there must be at least one. */
export function hasIdIn(ids: readonly string[]): Sql {
  return sql`id in (${join(ids, ", ")})`;
}

/** The value of `sweep_at` for a session that expires at `idleEnd`: rounded up to a multiple of 4 h. */
export function sweepTime(idleEnd: Sql): Sql {
  // SQLite divides into a fraction, which the cast cuts off; the end is written into the text only once.
  return sql`cast((${idleEnd} + ${keepEnded + sweepStep}) / ${step} as bigint) * ${step}`;
}

const step = sql`${sweepStep}`;

/** The smaller of two numbers. SQLite has `min`, PostgreSQL has `least`; both have `case`. */
export function smaller(a: Sql, b: Sql): Sql {
  return sql`case when ${a} < ${b} then ${a} else ${b} end`;
}
