import type { Kysely } from "kysely";
import { keepChanges, keepEnded, pruneBatch } from "./retention.ts";
import type { SqlSchema } from "./sql-schema.ts";

/** Removes a few sessions that ended long ago. */
export async function pruneSessions(db: Kysely<SqlSchema>, now: number): Promise<void> {
  const limit = now - keepEnded;
  await db
    .deleteFrom("rpcsession_sessions")
    .where("id", "in", (query) =>
      query
        .selectFrom("rpcsession_sessions")
        .select("id")
        .where((row) => row.or([row("idle_expires_at", "<", limit), row("revoked_at", "<", limit)]))
        .limit(pruneBatch),
    )
    .execute();
}

/** Removes a few entries of the change log that are too old to matter. */
export async function pruneChanges(db: Kysely<SqlSchema>, now: number): Promise<void> {
  await db
    .deleteFrom("rpcsession_changes")
    .where("number", "in", (query) =>
      query
        .selectFrom("rpcsession_changes")
        .select("number")
        .where("at", "<", now - keepChanges)
        .orderBy("at")
        .limit(pruneBatch),
    )
    .execute();
}
