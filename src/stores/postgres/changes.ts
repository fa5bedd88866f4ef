import {
  type BigInteger,
  type ChangeRow,
  type ChangeRows,
  type ChangesRead,
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
  const entries = [...first.entries];
  let page = first;
  while (page.entries.length === pageSize) {
    const { key, number } = page.entries.at(-1) as Entry;
    const { column, type } = range;
    const afterLast = sql`(${column}, change.number) > (${key}::${type}, ${String(number)}::bigint)`;
    page = await readPage(database, range, afterLast);
    for (const entry of page.entries) {
      entries.push(entry);
    }
  }
  return {
    rows: entries.sort((a, b) => a.number - b.number),
    // The first page's: a transaction that ends between two pages may belong to one already read.
    cursor: first.cursor,
    now: page.now,
  };
}

interface Page {
  readonly entries: readonly Entry[];
  readonly cursor: string;
  readonly now: number;
}

interface Entry extends ChangeRow {
  readonly number: number;
  /** The value of the column that orders the page. */
  readonly key: string;
}

// Control characters, which are in no id.
const endOfField = "\u001f";
const endOfEntry = "\u001e";

/**
 * Reads a page. It is one statement, so that entries, cursor and time belong to one moment. The
 * entries are one text, because a row for each of a million entries would take several times as long.
 *
 * @param after the condition for entries that follow the page before
 */
async function readPage(
  database: SqlDatabase,
  { column, where }: Range,
  after: Sql,
): Promise<Page> {
  const row = await database.row<{
    readonly store_now: BigInteger;
    readonly place: string;
    readonly entries: string | null;
  }>`select ${now} as store_now, ${currentCursor} as place, (
        select string_agg(line, chr(30) order by place, number) from (
          select kind || chr(31) || coalesce(ended_by, '') || chr(31)
              || coalesce(claims_version::text, '') || chr(31) || at || chr(31) || number || chr(31)
              || ${column}::text || chr(31) || session as line, ${column} as place, number
            from rpcsession_changes as change
            where ${where} and ${after}
            order by ${column}, change.number
            limit ${pageSize}
        ) as lines
      ) as entries`;
  const text = row?.entries ?? "";
  return {
    entries: text === "" ? [] : text.split(endOfEntry).map(toEntry),
    cursor: row?.place ?? "",
    now: Number(row?.store_now),
  };
}

function toEntry(line: string): Entry {
  const [kind = "", endedBy = "", version = "", at = "", number, key = "", session = ""] =
    line.split(endOfField);
  return {
    kind,
    session,
    ended_by: endedBy === "" ? null : endedBy,
    claims_version: version === "" ? null : version,
    at,
    number: Number(number),
    key,
  };
}
