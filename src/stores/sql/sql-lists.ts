import { sql } from "kysely";
import type { SessionOwner, SessionPage } from "../../engine/store.ts";
import { cutPage, parseListCursor } from "../list-order.ts";
import { idByBytes, isLive, ownedBy, type SqlDatabase, timeOf, toSession } from "./sql-schema.ts";

/** Which page of a list is asked for. */
export interface ListRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** Lists live sessions; see `SessionStore.list`. */
export async function listSessions(
  database: SqlDatabase,
  owner: SessionOwner,
  { store, cursor, limit }: ListRead,
): Promise<SessionPage> {
  const time = database.now();
  const id = idByBytes(database.dialect);
  let query = database.db
    .selectFrom("rpcsession_sessions")
    .selectAll()
    .select(time.as("store_now"))
    .where(ownedBy(owner))
    .where(isLive(time));
  if (cursor !== undefined) {
    const last = parseListCursor(store, cursor);
    query = query.where(sql<boolean>`(created_at, ${id}) < (${last.createdAt}, ${last.id})`);
  }
  const rows = await query
    .orderBy("created_at", "desc")
    .orderBy(id, "desc")
    .limit(limit + 1)
    .execute();
  const now = rows[0] === undefined ? await timeOf(database) : Number(rows[0].store_now);
  return { ...cutPage(rows.map(toSession), limit), now };
}
