import { randomId } from "../../base/crypto.ts";
import type { BigInteger, SqlDatabase } from "../sql/database.ts";
import { now, type Sql, sql } from "../sql/statement.ts";

/**
 * A history: what one primary commits, until a standby is promoted or a backup is restored. Whatever
 * takes over may lack the last commits. So the table `rpcsession_histories` names the place of each
 * history, and a server that finds the data elsewhere adds the next one, with the time of the loss.
 */
export interface History {
  /** Counts up from 1; 0 if the table is empty. */
  readonly number: number;
  /** Random, because two standbys that are promoted at once share number and place. */
  readonly id: string;
  /** Where it was committed; see {@link currentPlace}. */
  readonly place: string;
  /** Since when changes of the history before may be missing; null in the first one. */
  readonly lostAt: number | null;
}

/** The columns of a {@link History} in a row. */
export interface HistoryRow {
  readonly history_number: BigInteger | null;
  readonly history_id: string | null;
  readonly history_place: string | null;
  readonly lost_at: BigInteger | null;
}

/**
 * Where the data is: the cluster, its timeline and the table. A promoted standby and a point-in-time
 * recovery begin a timeline. A dump that is restored makes the table anew, in the same cluster too.
 * Any role may call these functions. They fail on a standby, whose answers may be old.
 */
export const currentPlace: Sql = sql`(select system_identifier from pg_control_system())::text
  || '.' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
  || '.' || 'rpcsession_histories'::regclass::oid::text`;

/**
 * Explains why {@link currentPlace} could not be read, if that is the reason of a failed statement.
 * @throws the error with an explanation, or as it is
 */
export function explainPlace(error: unknown): never {
  const { code, message } = error as { readonly code?: unknown; readonly message?: unknown };
  if (code === "55000" && /recovery/i.test(String(message))) {
    throw new Error(
      "postgresStore: the database that answered is a standby, which may lag behind; let the connection lead to the primary",
      { cause: error },
    );
  }
  if ((code === "42501" || code === "42883") && /pg_\w+/.test(String(message))) {
    throw new Error(
      "postgresStore: the role may not call pg_control_system(), pg_current_wal_lsn() or pg_walfile_name(), which show a failover; grant execute on all three",
      { cause: error },
    );
  }
  throw error;
}

/** Selects a {@link HistoryRow} for the newest history. Join it on true: the table may be empty. */
export const newestHistory: Sql = sql`(select number as history_number, id as history_id,
    place as history_place, lost_at from rpcsession_histories order by number desc limit 1)`;

/**
 * The name of the history that a statement reads. After a failover, it is still that of the former
 * primary until a server has noticed; tokens with that name are doubted afterwards.
 */
export const historyOfStatement: Sql = sql`(select id from rpcsession_histories order by number desc limit 1)`;

/** How many histories are remembered. A cursor of an older one counts as one of unknown data. */
const kept = 100;

export function toHistory(row: HistoryRow | undefined): History {
  return {
    number: Number(row?.history_number ?? 0),
    id: row?.history_id ?? "",
    place: row?.history_place ?? "",
    lostAt: row?.lost_at == null ? null : Number(row.lost_at),
  };
}

/** Whether the table knows a history; one that is unknown was committed elsewhere. */
export async function knowsHistory(database: SqlDatabase, id: string): Promise<boolean> {
  return (await database.row`select 1 from rpcsession_histories where id = ${id}`) !== undefined;
}

/**
 * Begins the history after `last`. Of several servers that notice the same loss, exactly one begins
 * it; the others find it when they read again.
 *
 * @param lost whether changes may be missing: not if nobody has used these tables before
 */
export async function beginHistory(
  database: SqlDatabase,
  last: History,
  lost: boolean,
): Promise<void> {
  const next = last.number + 1;
  await database.rows`insert into rpcsession_histories (number, id, place, began_at, lost_at)
      values (${next}, ${randomId(6)}, ${currentPlace}, ${now}, ${lost ? now : sql`null`})
      on conflict (number) do nothing`;
  await database.rows`delete from rpcsession_histories where number <= ${next - kept}`;
}
