import { formatCursor, parseCursor } from "../common.ts";
import {
  type BigInteger,
  type ChangeRow,
  type ChangeRows,
  type ChangesRead,
  changeColumns,
  type SqlDatabase,
  type SqlDialect,
} from "../sql/database.ts";
import { nothing, now, sql } from "../sql/statement.ts";
import { isBusy } from "./driver.ts";
import { sqliteMigrations } from "./migrations.ts";

/** SQLite, with one writer at a time. Each member's reason is at {@link SqlDialect}. */
export const sqliteDialect: SqlDialect = {
  placeholders: "plain",
  begin: "begin immediate",
  least: sql`min`,
  jsonArray: undefined,
  idByBytes: sql`id`,
  forUpdate: nothing,
  forUpdateSkipLocked: nothing,
  stringsOf: (jsonArray) => sql`json_each(cast(${jsonArray} as text)) as one`,
  forUpdateOfHeld: nothing,
  usesOf: (jsonArray) =>
    sql`(select one.value ->> 'session' as session, one.value ->> 'generation' as generation,
        one.value ->> 'age' as age from json_each(cast(${jsonArray} as text)) as one) as used`,
  advancesOf: undefined,
  ownerLock: undefined,
  // SQLite has no replicas, and a file that is replaced under the process is noticed by its driver.
  history: sql`null`,
  readChanges,
  tableNamed: (name) => sql`select 1 from sqlite_master where type = 'table' and name = ${name}`,
  migrations: sqliteMigrations,
  shortLocks: undefined,
  isLockTimeout: isBusy,
  lockHolders: undefined,
  makeIndex: (database, { index, on }) =>
    database.run(`create index if not exists ${index} on ${on}`),
  dropIndex: (name) => `drop index if exists ${name}`,
  clockForPrint: "unixepoch() * 1000",
};

/**
 * Reads the change log; see `SessionStore.changes`. The cursor is the number of the last entry. SQLite
 * has one writer at a time, so entries are numbered in the order of their commits.
 */
async function readChanges(database: SqlDatabase, read: ChangesRead): Promise<ChangeRows> {
  const seen = read.cursor === undefined ? undefined : parseCursor(read.store, read.cursor);
  const isNew =
    seen === undefined ? sql`change.at >= ${now} - ${read.window}` : sql`change.number > ${seen}`;
  // One statement, so that entries, cursor and time belong to one moment, even without any entry.
  const rows =
    await database.rows<LogRow>`select ${now} as store_now, (select max(number) from rpcsession_changes) as last,
        ${changeColumns}
      from (select 1) left join rpcsession_changes as change on ${isNew}
      order by change.number`;
  return {
    rows,
    cursor: formatCursor(Math.max(seen ?? 0, Number(rows[0]?.last ?? 0))),
    now: Number(rows[0]?.store_now),
  };
}

interface LogRow extends ChangeRow {
  readonly store_now: BigInteger;
  readonly last: BigInteger | null;
}
