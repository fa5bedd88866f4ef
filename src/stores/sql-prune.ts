import { keepChanges, keepEnded, pruneBatch } from "./retention.ts";
import type { SqlDatabase } from "./sql-schema.ts";

// Two selects, so that each reads a few rows of an index; and on PostgreSQL past the rows that
// another transaction is removing or writing, so that nobody waits for anybody's cleaning.

/** Removes a few sessions that ended long ago. */
export async function pruneSessions({ db, dialect }: SqlDatabase, now: number): Promise<void> {
  const limit = now - keepEnded;
  const some = db.selectFrom("rpcsession_sessions").select("id").limit(pruneBatch);
  const expired = some.where("idle_expires_at", "<", limit).orderBy("idle_expires_at");
  const revoked = some.where("revoked_at", "<", limit).orderBy("revoked_at");
  await db
    .with("expired", () => expired.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .with("revoked", () => revoked.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_sessions")
    .where("id", "in", (query) =>
      query.selectFrom("expired").select("id").union(query.selectFrom("revoked").select("id")),
    )
    .execute();
}

/** Removes a few entries of the change log that are too old to matter. */
export async function pruneChanges({ db, dialect }: SqlDatabase, now: number): Promise<void> {
  const old = db
    .selectFrom("rpcsession_changes")
    .select("number")
    .where("at", "<", now - keepChanges)
    .orderBy("at")
    .limit(pruneBatch);
  await db
    .with("old", () => old.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_changes")
    .where("number", "in", (query) => query.selectFrom("old").select("number"))
    .execute();
}
