import { nextHistories } from "../common.ts";
import type {
  BigInteger,
  ChangeRow,
  ChangeRows,
  ChangesRead,
  SqlDatabase,
} from "../sql/database.ts";
import { now, type Sql, sql } from "../sql/statement.ts";
import {
  beginHistory,
  currentPlace,
  explainPlace,
  type History,
  type HistoryRow,
  knowsHistory,
  newestHistory,
  toHistory,
} from "./histories.ts";

/**
 * Reads the change log; see `SessionStore.changes`.
 *
 * Transactions end in another order than they began, so neither the number of an entry nor its time
 * shows whether an earlier one is still to appear. The cursor is therefore the snapshot of the read:
 * it states for every transaction whether it had ended. The next read returns the entries of all
 * transactions that this snapshot could not see.
 *
 * The cursor also names the server process and the history of the read; see `histories.ts`. In another
 * history, or after a restart, the snapshot means nothing, so the whole window is read again. The
 * histories that earlier reads have followed come after it: they are never followed again.
 */
export async function readChanges(database: SqlDatabase, read: ChangesRead): Promise<ChangeRows> {
  const { store, cursor, window } = read;
  const seen = cursor === undefined ? undefined : parseCursor(store, cursor);
  const inWindow = { ...byTime, where: sql`change.at >= ${now} - ${window}` };

  // 1. Read what the snapshot could not see. An entry from beyond the present came with a dump from
  // another cluster, and was read when the history began.
  const unseen =
    seen &&
    sql`change.xid >= pg_snapshot_xmin(${seen.snapshot}::pg_snapshot)
      and change.xid < pg_snapshot_xmax(pg_current_snapshot())
      and not pg_visible_in_snapshot(change.xid, ${seen.snapshot}::pg_snapshot)`;
  let found = await readEntries(
    database,
    unseen === undefined ? inWindow : { ...byTransaction, where: unseen },
  );
  let isWhole = unseen === undefined;

  // 2. Is this still the data that was read before? Otherwise record the loss, for all servers and for
  // those that start later, and read anew.
  if (found.history.place !== found.place || (await hasLost(database, store, { seen, found }))) {
    const isFirst = seen === undefined && found.history.number === 0;
    await beginHistory(database, found.history, !isFirst);
    found = await readEntries(database, inWindow);
    isWhole = true;
    // Another server may have begun it, or the database has moved on meanwhile.
    if (found.history.place !== found.place) {
      throw new Error(
        `${store}: the database failed over while the change log was read; try again`,
      );
    }
  }

  // 3. Read the whole window if the snapshot means nothing here.
  const { history } = found;
  if (!isWhole && !(seen?.server === found.server && seen.histories[0] === history.id)) {
    found = await readEntries(database, inWindow);
    assertSame(found, history);
  }
  const { server, snapshot } = found;
  const histories = nextHistories(store, history.id, seen?.histories ?? []);
  const { lostAt } = history;
  return {
    rows: found.rows,
    cursor: `${server}/${snapshot}/${histories.join(",")}`,
    now: found.now,
    history: history.id,
    ...(lostAt !== null && { lostAt }),
  };
}

/** What a read has found, and what the cursor says about the read before. */
interface Comparison {
  readonly seen: Cursor | undefined;
  readonly found: Entries;
}

/**
 * Whether the data lacks something that the last read has seen.
 * @throws Error if it is data that this server has left for other data: what is written to that meanwhile
 *   is not in it
 */
async function hasLost(
  database: SqlDatabase,
  store: string,
  { seen, found }: Comparison,
): Promise<boolean> {
  const { id, lostAt } = found.history;
  if (seen === undefined) {
    return false;
  }
  const [last = ""] = seen.histories;
  if (last === id) {
    // A restart that lost transactions, or a snapshot of the disk.
    return nextTransaction(found.snapshot) < nextTransaction(seen.snapshot);
  }
  nextHistories(store, id, seen.histories);
  // Data that was replaced. Whoever has noticed before has begun a history with the loss.
  return lostAt === null && !(await knowsHistory(database, last));
}

/** A cursor: the server process of a read, its snapshot, and the histories. */
interface Cursor {
  readonly server: string;
  /** In PostgreSQL's format: the oldest running transaction, the next one, those in between. */
  readonly snapshot: string;
  /** The one that was read, and those that earlier reads have followed, newest first. */
  readonly histories: readonly string[];
}

function parseCursor(store: string, cursor: string): Cursor {
  const [, server, snapshot, histories] = /^(\d+)\/(\d+:\d+:[\d,]*)\/([\w,-]*)$/.exec(cursor) ?? [];
  if (server === undefined || snapshot === undefined || histories === undefined) {
    throw new Error(
      `${store}: ${JSON.stringify(cursor)} is not a cursor of this change log; pass one that changes() returned`,
    );
  }
  return { server, snapshot, histories: histories.split(",") };
}

function nextTransaction(snapshot: string): number {
  return Number(snapshot.split(":")[1]);
}

const serverProcess = sql`floor(extract(epoch from pg_postmaster_start_time()) * 1000000)::text`;

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

/** The entries of a range, and the moment of their first page. */
interface Entries {
  readonly rows: readonly Entry[];
  readonly server: string;
  readonly snapshot: string;
  readonly now: number;
  readonly history: History;
  /** See {@link currentPlace}. */
  readonly place: string;
}

/** @throws Error if another database has answered: a read of two databases would prove nothing */
function assertSame({ history }: Pick<Page, "history">, first: History): void {
  if (history.id !== first.id) {
    throw new Error("postgresStore: two databases answered one read of the change log; try again");
  }
}

async function readEntries(database: SqlDatabase, range: Range): Promise<Entries> {
  const { column, type } = range;
  const first = await readPage(database, range, fromStart);
  const entries: Entry[] = [];
  let page = first;
  for (;;) {
    assertSame(page, first.history);
    // In another place than its history, all of it will be read anew. The database reads the next page
    // while this one is taken apart.
    const isFull = page.entries === pageSize && first.history.place === first.place;
    const last = isFull ? lastOf(page) : undefined;
    const next =
      last &&
      readPage(
        database,
        range,
        sql`(${column}, change.number) > (${last.key}::${type}, ${String(last.number)}::bigint)`,
      );
    for (const line of page.text === "" ? [] : page.text.split(endOfEntry)) {
      entries.push(toEntry(line));
    }
    if (next === undefined) {
      break;
    }
    page = await next;
  }
  return {
    rows: entries.sort((a, b) => a.number - b.number),
    // The first page's: a transaction that ends between two pages may belong to one already read.
    ...{ server: first.server, snapshot: first.snapshot },
    ...{ history: first.history, place: first.place },
    now: page.now,
  };
}

function lastOf({ text }: Page): Entry {
  return toEntry(text.slice(text.lastIndexOf(endOfEntry) + 1));
}

interface Page {
  /** How many entries the text has. */
  readonly entries: number;
  readonly text: string;
  readonly server: string;
  readonly snapshot: string;
  readonly now: number;
  readonly history: History;
  readonly place: string;
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
  const reading = database.row<PageRow>`select ${now} as store_now,
      ${serverProcess} as server, pg_current_snapshot()::text as snapshot, ${currentPlace} as place, history.*,
        found.entries, found.text
      from (select 1) as moment left join ${newestHistory} as history on true cross join (
        select count(*) as entries, string_agg(line, chr(30) order by place, number) as text from (
          select kind || chr(31) || coalesce(ended_by, '') || chr(31)
              || coalesce(claims_version::text, '') || chr(31) || at || chr(31) || number || chr(31)
              || ${column}::text || chr(31) || session as line, ${column} as place, number
            from rpcsession_changes as change
            where ${where} and ${after}
            order by ${column}, change.number
            limit ${pageSize}
        ) as lines
      ) as found`;
  const row = await reading.catch(explainPlace);
  return {
    entries: Number(row?.entries ?? 0),
    text: row?.text ?? "",
    server: row?.server ?? "",
    snapshot: row?.snapshot ?? "",
    now: Number(row?.store_now),
    history: toHistory(row),
    place: row?.place ?? "",
  };
}

interface PageRow extends HistoryRow {
  readonly store_now: BigInteger;
  readonly server: string;
  readonly snapshot: string;
  readonly place: string;
  readonly entries: BigInteger;
  readonly text: string | null;
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
