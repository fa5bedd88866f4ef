import { type RawBuilder, sql } from "kysely";
import type { EndedBy, RevokeScope, SessionOwner } from "../../engine/store.ts";
import { appendRevoked } from "./changes.ts";
import { idByBytes, inTransaction, ownedBy, type SqlDatabase, timeOf } from "./schema.ts";

// Why there are locks: the end of all sessions of a user or a tenant, as a single update, would not
// see a session that is being inserted, and a count for a limit neither. There is no row that both
// could lock, for a user's first session has none beside it. So an insert holds its tenant and its
// user, shared, until it has committed; and who is about to end or count all of an owner's sessions
// holds the owner alone, and looks in a statement after that: by then every insert that came first is
// committed, and every other one waits.
//
// They are PostgreSQL's advisory locks of a transaction: nothing of them stays in the connection, so
// they work behind a pooler that shares it between transactions. SQLite has one writer at a time.
//
// No two transactions wait for each other: each takes at most one tenant and then at most one user,
// never the other way round, and the two kinds have numbers of their own. Two owners of the same
// hash, or of two schemas, share a lock: that costs time and nothing else. Rows are locked after.

/** Holds an owner until the transaction ends: an insert `shared`, who ends or counts all alone. */
export async function holdOwner(
  { db, dialect }: SqlDatabase,
  { userId, tenantId }: SessionOwner,
  user: Hold,
): Promise<void> {
  if (dialect !== "postgres") {
    return;
  }
  // Of a user within a tenant every insert holds the user, so to hold that one alone is enough.
  const tenant = userId === null ? "exclusive" : "shared";
  await sql`select ${onceHeld([
    ...(tenantId === null ? [] : [lockOf("tenant", tenantId, tenant)]),
    ...(userId === null ? [] : [lockOf("user", userId, user)]),
  ])}`.execute(db);
}

/** A value of an insert that is there once its owner is held, shared: in the same round trip. */
export function heldValue(
  { dialect }: SqlDatabase,
  { userId, tenantId }: SessionOwner & { readonly userId: string },
  value: string,
): RawBuilder<string> {
  return dialect === "postgres"
    ? onceHeld(
        [
          ...(tenantId === null ? [] : [lockOf("tenant", tenantId, "shared")]),
          lockOf("user", userId, "shared"),
        ],
        value,
      )
    : sql<string>`${value}`;
}

type Hold = "shared" | "exclusive";

// They mean nothing, and are this package's alone.
const numbers = { tenant: 1_850_417_267, user: 1_850_417_268 };

function lockOf(kind: keyof typeof numbers, id: string, hold: Hold): RawBuilder<unknown> {
  const key = sql`cast(${numbers[kind]} as integer), hashtext(${id})`;
  return hold === "shared"
    ? sql`pg_advisory_xact_lock_shared(${key})`
    : sql`pg_advisory_xact_lock(${key})`;
}

/** `case` evaluates its conditions in their order, and the value after them; none is ever null. */
function onceHeld(locks: readonly RawBuilder<unknown>[], value = ""): RawBuilder<string> {
  const conditions = locks.map((lock) => sql`when ${lock} is null then null`);
  return sql<string>`case ${sql.join(conditions, sql` `)} else ${value} end`;
}

/** What ended of some sessions, and when. */
export interface Ended {
  readonly revoked: readonly string[];
  readonly now: number;
}

/** Ends the sessions of an owner, or those of some ids; see `SessionStore.revokeAll`. */
export async function revokeSessions(
  database: SqlDatabase,
  scope: RevokeScope,
  endedBy: EndedBy,
): Promise<Ended> {
  if ("ids" in scope && scope.ids.length === 0) {
    return { revoked: [], now: await timeOf(database) };
  }
  return inTransaction(database, async (within) => {
    if ("ids" in scope) {
      return endSessions(within, among(scope.ids), endedBy);
    }
    await holdOwner(within, scope, "exclusive");
    return endOwned(within, scope, endedBy);
  });
}

/**
 * Ends what had not ended of some sessions, with their entries in the change log. Two statements,
 * however many they are; within a transaction.
 */
export async function endSessions(
  database: SqlDatabase,
  wanted: RawBuilder<boolean>,
  endedBy: EndedBy,
): Promise<Ended> {
  const { db, dialect } = database;
  const time = database.now();
  const due = db
    .selectFrom("rpcsession_sessions")
    .select("id")
    .where("revoked_at", "is", null)
    .where(wanted)
    // Everyone who locks many rows does so in this order, so that no two wait for each other.
    .orderBy("created_at")
    .orderBy(idByBytes(dialect));
  const rows = await db
    .with("due", () => due.$if(dialect === "postgres", (query) => query.forUpdate()))
    .updateTable("rpcsession_sessions")
    .set({ revoked_at: time, ended_by: endedBy })
    .where("id", "in", (query) => query.selectFrom("due").select("id"))
    .where("revoked_at", "is", null)
    .returning(["id", "revoked_at"])
    .execute();
  const [first] = rows;
  if (first === undefined) {
    return { revoked: [], now: await timeOf(database) };
  }
  const revoked = rows.map(({ id }) => id);
  const now = Number(first.revoked_at);
  await appendRevoked(database, revoked, { endedBy, at: now });
  return { revoked, now };
}

/** Whether a session is one of some. */
export function among(ids: readonly string[]): RawBuilder<boolean> {
  return sql<boolean>`id in (${sql.join(ids)})`;
}

// As many as a statement ends in a fraction of the time that it is given.
const batch = 10_000;

/** Ends all of an owner's sessions but one, the oldest first, in as many steps as it takes. */
async function endOwned(
  database: SqlDatabase,
  { except, ...owner }: Exclude<RevokeScope, { readonly ids: readonly string[] }>,
  endedBy: EndedBy,
): Promise<Ended> {
  const owned = ownedBy(owner);
  const wanted = except === null ? owned : sql<boolean>`${owned} and id <> ${except}`;
  const place = sql`created_at, ${idByBytes(database.dialect)}`;
  const revoked: string[] = [];
  let rest = wanted;
  for (;;) {
    const last = await batchEnd(database, rest);
    const step = last ? sql<boolean>`${rest} and (${place}) <= (${last})` : rest;
    const ended = await endSessions(database, step, endedBy);
    revoked.push(...ended.revoked);
    if (last === undefined) {
      return { revoked, now: ended.now };
    }
    rest = sql<boolean>`${wanted} and (${place}) > (${last})`;
  }
}

/** The place of the session that is the last of a batch; undefined where one batch holds all. */
async function batchEnd(
  { db, dialect }: SqlDatabase,
  wanted: RawBuilder<boolean>,
): Promise<RawBuilder<unknown> | undefined> {
  const row = await db
    .selectFrom("rpcsession_sessions")
    .select(["created_at", "id"])
    .where("revoked_at", "is", null)
    .where(wanted)
    .orderBy("created_at")
    .orderBy(idByBytes(dialect))
    .offset(batch - 1)
    .limit(1)
    .executeTakeFirst();
  return row && sql`${Number(row.created_at)}, ${row.id}`;
}
