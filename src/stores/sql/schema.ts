import { type ColumnType, type Kysely, type RawBuilder, type Selectable, sql } from "kysely";
import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type {
  Device,
  EndedBy,
  SessionOwner,
  SessionRecord,
  Stored,
  StoredSigningKey,
} from "../../engine/store.ts";
import type { Push } from "../push.ts";

/** A 64-bit integer: drivers give it as number, string or bigint, so it is read through `Number()`. */
export type BigInteger = ColumnType<number | string | bigint, number, number>;

/** The tables of a SQL store. Times are milliseconds since 1970 UTC; JSON is text. */
export interface SqlSchema {
  rpcsession_migrations: MigrationTable;
  rpcsession_sessions: SessionTable;
  rpcsession_changes: ChangeTable;
  rpcsession_signing_keys: SigningKeyTable;
  rpcsession_leases: LeaseTable;
}

/** The SQL that a database speaks, where that makes a difference. */
export type SqlDialect = "sqlite" | "postgres";

/** A database, and what differs between one and another. */
export interface SqlDatabase {
  readonly db: Kysely<SqlSchema>;
  /** The store's clock in milliseconds, as SQL. Taken once for each statement. */
  readonly now: () => RawBuilder<number>;
  readonly dialect: SqlDialect;
  /** Does a unit of work, all of it or none, again where the database asks for that. */
  readonly attempt: <T>(work: () => Promise<T>) => Promise<T>;
  /** Begins to hear of what other processes append; absent where they cannot be heard. */
  readonly listen?: (wake: () => void) => Push;
}

/** A row of `rpcsession_sessions` as it is read. */
export type SessionRow = Selectable<SessionTable>;

/** The store's time. */
export async function timeOf({ db, now }: SqlDatabase): Promise<number> {
  const row = await db.selectNoFrom(now().as("store_now")).executeTakeFirstOrThrow();
  return Number(row.store_now);
}

/** Reads a row as a session. */
export function toSession(row: SessionRow): SessionRecord {
  return {
    id: row.id,
    userId: row.user_id,
    tenantId: row.tenant_id,
    transport: row.transport as TokenTransport,
    salt: row.salt,
    secretId: row.secret_id,
    generation: Number(row.generation),
    confirmedAt: toNumber(row.confirmed_at),
    rotatedAt: Number(row.rotated_at),
    createdAt: Number(row.created_at),
    authTime: Number(row.auth_time),
    idleExpiresAt: Number(row.idle_expires_at),
    expiresAt: Number(row.expires_at),
    accessLife: toNumber(row.access_life),
    idleLife: toNumber(row.idle_life),
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

/** Reads a row that a statement gave with the store's time. */
export function toStored(row: SessionRow & { readonly store_now: number }): Stored<SessionRecord> {
  return { record: toSession(row), now: Number(row.store_now) };
}

/** The answer where there is no record. */
export async function noRecord(database: SqlDatabase): Promise<Stored<undefined>> {
  return { record: undefined, now: await timeOf(database) };
}

/** Whether a session has neither been ended nor expired. */
export function isLive(now: RawBuilder<number>): RawBuilder<boolean> {
  return sql<boolean>`revoked_at is null and idle_expires_at > ${now} and expires_at > ${now}`;
}

/** Whether a session is an owner's. */
export function ownedBy({ userId, tenantId }: SessionOwner): RawBuilder<boolean> {
  const wanted = [
    ...(userId === null ? [] : [sql`user_id = ${userId}`]),
    ...(tenantId === null ? [] : [sql`tenant_id = ${tenantId}`]),
  ];
  // Never those of everybody.
  return wanted.length === 0 ? sql<boolean>`1 = 0` : sql<boolean>`${sql.join(wanted, sql` and `)}`;
}

/** The id in the order of its bytes: PostgreSQL sorts by the rules of a language unless told so. */
export function idByBytes(dialect: SqlDialect): RawBuilder<string> {
  return dialect === "postgres" ? sql<string>`id collate "C"` : sql<string>`id`;
}

/** The smaller of two numbers, in every dialect. */
export function smaller(a: RawBuilder<number>, b: RawBuilder<number>): RawBuilder<number> {
  return sql<number>`case when ${a} < ${b} then ${a} else ${b} end`;
}

/** Reads a row as a signing key. */
export function toSigningKey(row: Selectable<SigningKeyTable>): StoredSigningKey {
  return {
    slot: Number(row.slot),
    kid: row.kid,
    alg: row.alg,
    publicJwk: row.public_jwk,
    privateJwk: row.private_jwk,
    createdAt: Number(row.created_at),
  };
}

interface MigrationTable {
  version: BigInteger;
  applied_at: BigInteger;
}

interface SessionTable {
  id: string;
  user_id: string;
  tenant_id: string | null;
  transport: string;
  salt: string;
  secret_id: string;
  generation: BigInteger;
  confirmed_at: NullableBigInteger;
  rotated_at: BigInteger;
  created_at: BigInteger;
  auth_time: BigInteger;
  idle_expires_at: BigInteger;
  expires_at: BigInteger;
  access_life: NullableBigInteger;
  idle_life: NullableBigInteger;
  claims: string;
  claims_version: BigInteger;
  data: string;
  version: BigInteger;
  device: string;
  last_seen_at: BigInteger;
  revoked_at: NullableBigInteger;
  ended_by: string | null;
}

interface ChangeTable {
  /** Counts up: in SQLite in the order of the commits, in PostgreSQL in the order of the inserts. */
  number: ColumnType<number | string | bigint, never, never>;
  /** The transaction that wrote the entry; there in PostgreSQL alone, and filled in by it. */
  xid: ColumnType<string, never, never>;
  kind: string;
  session: string;
  /** Of the kind "revoked". */
  ended_by: ColumnType<string | null, string | undefined, never>;
  /** Of the kind "claims". */
  claims_version: NullableBigInteger;
  at: BigInteger;
}

interface SigningKeyTable {
  slot: BigInteger;
  kid: string;
  alg: string;
  public_jwk: string;
  private_jwk: string;
  created_at: BigInteger;
}

interface LeaseTable {
  name: string;
  holder: string;
  expires_at: BigInteger;
}

function toNumber(value: number | string | bigint | null): number | null {
  return value === null ? null : Number(value);
}

type NullableBigInteger = ColumnType<
  number | string | bigint | null,
  number | null | undefined,
  number | null
>;

/**
 * Does a unit of work in one transaction. Whatever the default of the database is, on PostgreSQL
 * each statement sees all that was committed before it began: who waited for a lock must see what
 * was done under it. On SQLite the transaction holds the one write lock from its beginning.
 */
export function inTransaction<T>(
  database: SqlDatabase,
  work: (within: SqlDatabase) => Promise<T>,
): Promise<T> {
  const transaction = database.db.transaction();
  const { dialect } = database;
  return (
    dialect === "postgres" ? transaction.setIsolationLevel("read committed") : transaction
  ).execute((trx) => work({ ...database, db: trx }));
}
