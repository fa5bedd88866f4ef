import {
  type BigInteger,
  type ChangeRow,
  type ChangeRows,
  type ChangesRead,
  changeColumns,
  now,
  type Sql,
  type SqlDatabase,
  sql,
} from "../sql/database.ts";

/**
 * Reads the change log; see `SessionStore.changes`.
 *
 * Transactions end in another order than they began, so neither the number of an entry nor its time
 * shows whether an earlier one is still to appear. The cursor is therefore the snapshot of the read:
 * it states for every transaction whether it had ended. The next read returns the entries of all
 * transactions that this snapshot could not see.
 *
 * The cursor also identifies the server process, because after a failover another process may count
 * transactions from an older point, and then the snapshot means nothing. In that case the whole window
 * is read again. If that process counts from a point before the snapshot, changes were lost; without
 * an earlier cursor this cannot be detected.
 */
export async function readChanges(database: SqlDatabase, read: ChangesRead): Promise<ChangeRows> {
  const { store, cursor, window } = read;
  const seen = cursor === undefined ? undefined : parseCursor(store, cursor);

  // 1. Read what the snapshot could not see, if it still means something.
  if (seen !== undefined) {
    const where = sql`change.xid >= pg_snapshot_xmin(${seen.snapshot}::pg_snapshot)
      and not pg_visible_in_snapshot(change.xid, ${seen.snapshot}::pg_snapshot)`;
    const changes = await readEntries(database, { ...byTransaction, where });
    const found = parseCursor(store, changes.cursor);
    if (found.server === seen.server && found.next >= seen.next) {
      return changes;
    }
  }

  // 2. Otherwise read the whole window, and report a loss if the database went back.
  const where = sql`change.at >= ${now} - ${window}`;
  const all = await readEntries(database, { ...byTime, where });
  const wentBack = seen !== undefined && parseCursor(store, all.cursor).next < seen.next;
  return wentBack ? { ...all, lostAt: all.now } : all;
}

/** A cursor: the server process of a read, and the snapshot of that read. */
interface Snapshot {
  readonly server: string;
  /** In PostgreSQL's format: the oldest running transaction, the next one, those in between. */
  readonly snapshot: string;
  readonly next: number;
}

function parseCursor(store: string, cursor: string): Snapshot {
  const [, server, snapshot, next] = /^(\d+)\/(\d+:(\d+):[\d,]*)$/.exec(cursor) ?? [];
  if (server === undefined || snapshot === undefined) {
    throw new Error(
      `${store}: ${JSON.stringify(cursor)} is not a cursor of this change log; pass one that changes() returned`,
    );
  }
  return { server, snapshot, next: Number(next) };
}

const currentCursor = sql`floor(extract(epoch from pg_postmaster_start_time()) * 1000000)::text || '/' || pg_current_snapshot()::text`;

/** The entries that match a condition, in the order of an indexed column. */
interface Range {
  readonly column: Sql;
  readonly type: Sql;
  readonly where: Sql;
}

const byTransaction = { column: sql`change.xid`, type: sql`xid8` };
const byTime = { column: sql`change.at`, type: sql`bigint` };

/** Entries per statement. A long log is read in pages, so that no statement comes near its time limit. */
const pageSize = 20_000;

const fromStart = sql`true`;

async function readEntries(database: SqlDatabase, range: Range): Promise<ChangeRows> {
  const first = await readPage(database, range, fromStart);
  const rows = [...first];
  let page = first;
  while (page.length === pageSize) {
    const { key, number } = page.at(-1) as PageRow;
    const { column, type } = range;
    const afterLast = sql`(${column}, change.number) > (${key}::${type}, ${String(number)}::bigint)`;
    page = await readPage(database, range, afterLast);
    rows.push(...page);
  }
  return {
    rows: rows.sort((a, b) => Number(a.number) - Number(b.number)),
    // The first page's: a transaction that ends between two pages may belong to one already read.
    cursor: first[0]?.place ?? "",
    now: Number(page[0]?.store_now),
  };
}

interface PageRow extends ChangeRow {
  readonly store_now: BigInteger;
  readonly place: string;
  readonly number: BigInteger | null;
  /** The value of the column that orders the page. */
  readonly key: string | null;
}

/**
 * Reads a page. It is one statement, so that entries, cursor and time belong to one moment, and the
 * left join returns cursor and time even if there is no entry.
 *
 * @param after the condition for entries that follow the page before
 */
async function readPage(
  database: SqlDatabase,
  { column, where }: Range,
  after: Sql,
): Promise<readonly PageRow[]> {
  return database.rows<PageRow>`select ${now} as store_now, moment.place, ${changeColumns},
        change.number, ${column}::text as key
      from (select ${currentCursor} as place) as moment
      left join lateral (
        select * from rpcsession_changes as change
        where ${where} and ${after}
        order by ${column}, change.number
        limit ${pageSize}
      ) as change on true
      order by ${column}, change.number`;
}
