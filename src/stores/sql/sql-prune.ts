import { sql } from "kysely";
import { keepChanges, keepEnded } from "../retention.ts";
import type { SqlDatabase } from "./sql-schema.ts";

// Each select reads a few rows of an index; and on PostgreSQL past the rows that another transaction
// is removing or writing, so that nobody waits for anybody's cleaning.

/** Removes outdated sessions and log entries; see `SessionStore.prune`. */
export async function prune(database: SqlDatabase, limit: number): Promise<number> {
  return database.db.transaction().execute(async (trx) => {
    const within = { ...database, db: trx };
    const sessions = await pruneSessions(within, limit);
    return sessions + (await pruneChanges(within, limit));
  });
}

async function pruneSessions({ db, dialect, now }: SqlDatabase, limit: number): Promise<number> {
  const before = sql<number>`${now()} - ${keepEnded}`;
  const some = db.selectFrom("rpcsession_sessions").select("id").limit(limit);
  const expired = some.where("idle_expires_at", "<", before).orderBy("idle_expires_at");
  const revoked = some.where("revoked_at", "<", before).orderBy("revoked_at");
  const gone = await db
    .with("expired", () => expired.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .with("revoked", () => revoked.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_sessions")
    .where("id", "in", (query) =>
      query
        .selectFrom("expired")
        .select("id")
        .union(query.selectFrom("revoked").select("id"))
        .limit(limit),
    )
    .returning("id")
    .execute();
  return gone.length;
}

async function pruneChanges({ db, dialect, now }: SqlDatabase, limit: number): Promise<number> {
  const old = db
    .selectFrom("rpcsession_changes")
    .select("number")
    .where("at", "<", sql<number>`${now()} - ${keepChanges}`)
    .orderBy("at")
    .limit(limit);
  const gone = await db
    .with("old", () => old.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_changes")
    .where("number", "in", (query) => query.selectFrom("old").select("number"))
    .returning("number")
    .execute();
  return gone.length;
}
