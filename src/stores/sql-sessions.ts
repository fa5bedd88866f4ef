import { type RawBuilder, sql } from "kysely";
import type { EndedBy, NewSession, RefreshWrite, SessionRecord, Stored } from "../session/store.ts";
import { appendRevoked } from "./sql-changes.ts";
import { type SessionRow, type SqlDatabase, timeOf, toSession } from "./sql-schema.ts";

// Transactions begin with a write: SQLite refuses, at once and for good, one that has read before
// another connection wrote, and then wants to write.

/** Adds a session; see `SessionStore.insert`. `replaced` tells whether another one ended. */
export async function insertSession(
  database: SqlDatabase,
  session: NewSession,
): Promise<Stored<SessionRecord> & { readonly replaced: boolean }> {
  const { replaces } = session;
  if (replaces === null) {
    // One statement needs no transaction: that saves two round trips to the database.
    return { ...(await insertRow(database, session)), replaced: false };
  }
  return database.db.transaction().execute(async (trx) => {
    const within = { ...database, db: trx };
    const replaced = await end(within, replaces, "replaced");
    return { ...(await insertRow(within, session)), replaced: replaced !== undefined };
  });
}

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
  return row === undefined ? none(database) : toStored(row);
}

/** Writes a refresh; see `SessionStore.refresh`. */
export async function refreshSession(
  database: SqlDatabase,
  write: RefreshWrite,
): Promise<Stored<SessionRecord | undefined>> {
  const now = database.now();
  const idleEnd = sql<number>`${now} + ${write.idle}`;
  const row = await database.db
    .updateTable("rpcsession_sessions")
    .set({
      ...refreshed(write, now),
      last_seen_at: now,
      idle_expires_at: sql<number>`case when ${idleEnd} < expires_at then ${idleEnd} else expires_at end`,
    })
    .where("id", "=", write.id)
    .where("generation", "=", write.generation)
    .where("revoked_at", "is", null)
    .where("idle_expires_at", ">", now)
    .where("expires_at", ">", now)
    .returningAll()
    .returning(now.as("store_now"))
    .executeTakeFirst();
  return row === undefined ? none(database) : toStored(row);
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
  return database.db.transaction().execute(async (trx) => {
    const within = { ...database, db: trx };
    const ended = await end(within, id, endedBy);
    return ended === undefined
      ? { ...(await loadSession(within, id)), revoked: false }
      : { ...ended, revoked: true };
  });
}

async function insertRow(
  { db, now }: SqlDatabase,
  session: NewSession,
): Promise<Stored<SessionRecord>> {
  const time = now();
  const row = await db
    .insertInto("rpcsession_sessions")
    .values(newColumns(session, time))
    .returningAll()
    .returning(time.as("store_now"))
    .executeTakeFirstOrThrow();
  return toStored(row);
}

function newColumns(session: NewSession, now: RawBuilder<number>) {
  return {
    id: session.id,
    user_id: session.userId,
    tenant_id: session.tenantId,
    transport: session.transport,
    salt: session.salt,
    secret_id: session.secretId,
    generation: 0,
    rotated_at: now,
    created_at: now,
    auth_time: now,
    idle_expires_at: sql<number>`${now} + ${Math.min(session.idle, session.absolute)}`,
    expires_at: sql<number>`${now} + ${session.absolute}`,
    claims: JSON.stringify(session.claims),
    claims_version: 0,
    data: JSON.stringify(session.data),
    version: 0,
    device: JSON.stringify(session.device),
    last_seen_at: now,
  };
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
  await appendRevoked(database, { session: id, endedBy, at: Number(row.revoked_at) });
  return toStored(row);
}

function toStored(row: SessionRow & { readonly store_now: number }): Stored<SessionRecord> {
  return { record: toSession(row), now: Number(row.store_now) };
}

async function none(database: SqlDatabase): Promise<Stored<undefined>> {
  return { record: undefined, now: await timeOf(database) };
}
