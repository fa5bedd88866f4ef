import { type RawBuilder, sql } from "kysely";
import type { EndedBy, RevokeScope } from "../../engine/store.ts";
import { appendRevoked } from "./sql-changes.ts";
import { holdOwner } from "./sql-owner-locks.ts";
import { idByBytes, ownedBy, type SqlDatabase, timeOf } from "./sql-schema.ts";
import { inTransaction } from "./sql-transaction.ts";

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
