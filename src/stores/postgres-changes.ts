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
    const changes = await readEntries(database, { ...byTransaction, from: sql`${cursor}::xid8` });
    if (parseCursor(store, changes.cursor) >= seen) {
      return changes;
    }
  }
  const from = sql`${database.now()} - ${window}`;
  const all = await readEntries(database, { ...byTime, from });
  return cursor === undefined ? all : { ...all, lostAt: all.now };
}

/** Entries from a value of an indexed column on. */
interface Range {
  readonly column: RawBuilder<unknown>;
  readonly type: RawBuilder<unknown>;
  readonly from: RawBuilder<unknown>;
}

const byTransaction = { column: sql`change.xid`, type: sql`xid8` };
const byTime = { column: sql`change.at`, type: sql`bigint` };

/** Entries per statement: a long log is read in steps, of which none comes near its time limit. */
const pageSize = 20_000;

async function readEntries(database: SqlDatabase, range: Range): Promise<Changes> {
  const first = await readPage(database, range, sql`true`);
  const rows = [...first];
  let page = first;
  while (page.length === pageSize) {
    const { place, number } = page.at(-1) as (typeof page)[number];
    const { column, type } = range;
    page = await readPage(
      database,
      range,
      sql`(${column}, change.number) > (${place}::${type}, ${number}::bigint)`,
    );
    rows.push(...page);
  }
  return {
    entries: rows.sort((a, b) => Number(a.number) - Number(b.number)).flatMap(toChange),
    // Of the first: what ends between two pages may have its place in one that was read.
    cursor: formatCursor(Number(first[0]?.oldest)),
    now: Number(page[0]?.store_now),
  };
}

/** @param after keeps what follows the page before */
async function readPage(
  { db, now }: SqlDatabase,
  { column, from }: Range,
  after: RawBuilder<unknown>,
) {
  const page = db
    .selectFrom("rpcsession_changes as change")
    .selectAll()
    .where(sql<boolean>`${column} >= ${from} and ${after}`)
    .orderBy(column)
    .orderBy("change.number")
    .limit(pageSize);
  // One statement, so that entries, cursor and time are of one moment, also when there is no entry.
  return await db
    .selectFrom(sql<{ oldest: string }>`(select ${oldestTransaction} as oldest)`.as("moment"))
    .leftJoinLateral(page.as("change"), (join) => join.onTrue())
    .select([now().as("store_now"), "moment.oldest"])
    .select([...changeColumns, "change.number", sql<string>`${column}::text`.as("place")])
    .orderBy(column)
    .orderBy("change.number")
    .execute();
}

const oldestTransaction = sql<string>`pg_snapshot_xmin(pg_current_snapshot())::text`;
