import { type RawBuilder, sql } from "kysely";
import type { EndedBy, RefreshWrite, SessionRecord, Stored } from "../session/store.ts";
import { appendRevoked } from "./sql-changes.ts";
import { isLive, noRecord, type SqlDatabase, smaller, toStored } from "./sql-schema.ts";
import { inTransaction } from "./sql-transaction.ts";

/** Reads a session; see `SessionStore.load`. */
export async function loadSession(
  database: SqlDatabase,
  id: string,
): Promise<Stored<SessionRecord | undefined>> {
  const row = await database.db
    .selectFrom("rpcsession_sessions")
    .where("id", "=", id)
    .selectAll()
    .select(database.now().as("store_now"))
    .executeTakeFirst();
  return row === undefined ? noRecord(database) : toStored(row);
}

/** Writes a refresh; see `SessionStore.refresh`. */
export async function refreshSession(
  database: SqlDatabase,
  write: RefreshWrite,
): Promise<Stored<SessionRecord | undefined>> {
  const now = database.now();
  const row = await database.db
    .updateTable("rpcsession_sessions")
    .set({
      ...refreshed(write, now),
      last_seen_at: now,
      idle_expires_at: smaller(sql<number>`${now} + ${write.idle}`, sql<number>`expires_at`),
    })
    .where("id", "=", write.id)
    .where("generation", "=", write.generation)
    .where(isLive(now))
    .returningAll()
    .returning(now.as("store_now"))
    .executeTakeFirst();
  return row === undefined ? noRecord(database) : toStored(row);
}

/** Confirms a generation; see `SessionStore.confirm`. */
export async function confirmSession(
  { db, now }: SqlDatabase,
  use: { readonly id: string; readonly generation: number; readonly settle: number },
): Promise<boolean> {
  const time = now();
  const confirmed = await db
    .updateTable("rpcsession_sessions")
    .set({ confirmed_at: time })
    .where("id", "=", use.id)
    .where("generation", "=", use.generation)
    .where("revoked_at", "is", null)
    .where("confirmed_at", "is", null)
    .where(isSettled(use.settle, time))
    .returning("id")
    .executeTakeFirst();
  if (confirmed !== undefined) {
    return true;
  }
  const row = await db
    .selectFrom("rpcsession_sessions")
    .where("id", "=", use.id)
    .select(["generation", "confirmed_at", "revoked_at"])
    .executeTakeFirst();
  if (row === undefined || row.revoked_at !== null || Number(row.generation) > use.generation) {
    return true;
  }
  // A generation ahead of the row was lost by the store; it may be current again one day.
  return Number(row.generation) === use.generation && row.confirmed_at !== null;
}

/** Ends a session; see `SessionStore.revoke`. */
export async function revokeSession(
  database: SqlDatabase,
  id: string,
  endedBy: EndedBy,
): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }> {
  return inTransaction(database, async (within) => {
    const ended = await end(within, id, endedBy);
    return ended === undefined
      ? { ...(await loadSession(within, id)), revoked: false }
      : { ...ended, revoked: true };
  });
}

function refreshed(write: RefreshWrite, now: RawBuilder<number>) {
  if (write.kind !== "keep") {
    return {
      generation: write.kind === "advance" ? sql<number>`generation + 1` : write.to,
      confirmed_at: null,
      rotated_at: now,
      secret_id: write.secretId,
    };
  }
  if (write.settle === null) {
    return {};
  }
  const settled = isSettled(write.settle, now);
  return {
    confirmed_at: sql<number>`coalesce(confirmed_at, case when ${settled} then ${now} end)`,
  };
}

function isSettled(settle: number, now: RawBuilder<number>): RawBuilder<boolean> {
  // A negative age counts as 0, and 0 is enough where nothing is asked for.
  return settle <= 0 ? sql<boolean>`true` : sql<boolean>`rotated_at <= ${now} - ${settle}`;
}

async function end(database: SqlDatabase, id: string, endedBy: EndedBy) {
  const time = database.now();
  const row = await database.db
    .updateTable("rpcsession_sessions")
    .set({ revoked_at: time, ended_by: endedBy })
    .where("id", "=", id)
    .where("revoked_at", "is", null)
    .returningAll()
    .returning(time.as("store_now"))
    .executeTakeFirst();
  if (row === undefined) {
    return undefined;
  }
  await appendRevoked(database, [id], { endedBy, at: Number(row.revoked_at) });
  return toStored(row);
}
