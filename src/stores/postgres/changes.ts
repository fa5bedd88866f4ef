import { type RawBuilder, sql } from "kysely";
import type { Changes } from "../../engine/store.ts";
import { type ChangesRead, changeColumns, toChange } from "../sql/changes.ts";
import type { SqlDatabase } from "../sql/schema.ts";

/**
 * Reads the change log of a database in which transactions end in another order than they began:
 * neither the number of an entry nor its time tells whether an earlier one is still to appear. So
 * the cursor is the snapshot of the read, which says of every transaction whether it had ended, and
 * the next read returns what that one could not see.
 *
 * It also names the server process. Another one may count its transactions anew from where a failover
 * left it, so that the snapshot says nothing; then the whole window is read again. Where it counts
 * from before the snapshot, changes were lost. Who has no cursor of before cannot tell.
 */
export async function readChangesByTransaction(
  database: SqlDatabase,
  read: ChangesRead,
): Promise<Changes> {
  const { store, cursor, window } = read;
  const seen = cursor === undefined ? undefined : parseSnapshot(store, cursor);
  if (seen !== undefined) {
    const unseen = sql`not pg_visible_in_snapshot(change.xid, ${seen.snapshot}::pg_snapshot)`;
    const from = sql`pg_snapshot_xmin(${seen.snapshot}::pg_snapshot)`;
    const changes = await readEntries(database, { ...byTransaction, from, where: unseen });
    const found = parseSnapshot(store, changes.cursor);
    if (found.server === seen.server && found.next >= seen.next) {
      return changes;
    }
  }
  const from = sql`${database.now()} - ${window}`;
  const all = await readEntries(database, { ...byTime, from, where: sql`true` });
  const wentBack = seen !== undefined && parseSnapshot(store, all.cursor).next < seen.next;
  return wentBack ? { ...all, lostAt: all.now } : all;
}

/** The place of a read: which server process it was, and what that saw. */
interface Snapshot {
  readonly server: string;
  /** As PostgreSQL writes it: the oldest transaction under way, the next one, those in between. */
  readonly snapshot: string;
  readonly next: number;
}

function parseSnapshot(store: string, cursor: string): Snapshot {
  const [, server, snapshot, next] = /^(\d+)\/(\d+:(\d+):[\d,]*)$/.exec(cursor) ?? [];
  if (server === undefined || snapshot === undefined) {
    throw new Error(`${store}: ${JSON.stringify(cursor)} is no cursor of this change log`);
  }
  return { server, snapshot, next: Number(next) };
}

const place = sql<string>`floor(extract(epoch from pg_postmaster_start_time()) * 1000000)::text || '/' || pg_current_snapshot()::text`;

/** Entries from a value of an indexed column on. */
interface Range {
  readonly column: RawBuilder<unknown>;
  readonly type: RawBuilder<unknown>;
  readonly from: RawBuilder<unknown>;
  readonly where: RawBuilder<unknown>;
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
    const { key, number } = page.at(-1) as (typeof page)[number];
    const { column, type } = range;
    page = await readPage(
      database,
      range,
      sql`(${column}, change.number) > (${key}::${type}, ${number}::bigint)`,
    );
    rows.push(...page);
  }
  return {
    entries: rows.sort((a, b) => Number(a.number) - Number(b.number)).flatMap(toChange),
    // Of the first: what ends between two pages may have its place in one that was read.
    cursor: first[0]?.place ?? "",
    now: Number(page[0]?.store_now),
  };
}

/** @param after keeps what follows the page before */
async function readPage(
  { db, now }: SqlDatabase,
  { column, from, where }: Range,
  after: RawBuilder<unknown>,
) {
  const page = db
    .selectFrom("rpcsession_changes as change")
    .selectAll()
    .where(sql<boolean>`${column} >= ${from} and ${where} and ${after}`)
    .orderBy(column)
    .orderBy("change.number")
    .limit(pageSize);
  // One statement, so that entries, cursor and time are of one moment, also when there is no entry.
  return await db
    .selectFrom(sql<{ place: string }>`(select ${place} as place)`.as("moment"))
    .leftJoinLateral(page.as("change"), (join) => join.onTrue())
    .select([now().as("store_now"), "moment.place"])
    .select([...changeColumns, "change.number", sql<string>`${column}::text`.as("key")])
    .orderBy(column)
    .orderBy("change.number")
    .execute();
}
