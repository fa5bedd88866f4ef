import { type RawBuilder, sql } from "kysely";
import type { Changes } from "../session/store.ts";
import { formatCursor, parseCursor } from "./change-cursor.ts";
import { type ChangesRead, changeColumns, toChange } from "./sql-changes.ts";
import type { SqlDatabase } from "./sql-schema.ts";

/**
 * Reads the change log of a database in which transactions end in another order than they began:
 * neither the number of an entry nor its time tells whether an earlier one is still to appear. So
 * the cursor is the oldest transaction that had not ended at the read, and the next read returns
 * everything written by that one and by later ones, also what was returned before.
 *
 * Where the oldest transaction lies before the cursor, the database is another one than it was,
 * restored or failed over; then the whole window is read again, and changes may be lost. Who has no
 * cursor of before cannot tell.
 */
export async function readChangesByTransaction(
  database: SqlDatabase,
  read: ChangesRead,
): Promise<Changes> {
  const { store, cursor, window } = read;
  if (cursor !== undefined) {
    const seen = parseCursor(store, cursor);
    const changes = await readEntries(database, sql<boolean>`change.xid >= ${cursor}::xid8`);
    if (parseCursor(store, changes.cursor) >= seen) {
      return changes;
    }
  }
  const all = await readEntries(database, sql`change.at >= ${database.now()} - ${window}`);
  return cursor === undefined ? all : { ...all, lostAt: all.now };
}

async function readEntries(database: SqlDatabase, wanted: RawBuilder<boolean>): Promise<Changes> {
  // One statement, so that entries, cursor and time are of one moment, also when there is no entry.
  const rows = await database.db
    .selectFrom(sql<{ oldest: string }>`(select ${oldestTransaction} as oldest)`.as("moment"))
    .leftJoin("rpcsession_changes as change", (join) => join.on(wanted))
    .select([database.now().as("store_now"), "moment.oldest", ...changeColumns])
    .orderBy("change.number")
    .execute();
  return {
    entries: rows.flatMap((row) => toChange(row)),
    cursor: formatCursor(Number(rows[0]?.oldest)),
    now: Number(rows[0]?.store_now),
  };
}

const oldestTransaction = sql<string>`pg_snapshot_xmin(pg_current_snapshot())::text`;
