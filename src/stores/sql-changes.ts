import { sql } from "kysely";
import type { Change, Changes, EndedBy } from "../session/store.ts";
import { formatCursor, parseCursor } from "./change-cursor.ts";
import type { SqlDatabase } from "./sql-schema.ts";

/** Appends that a session ended. */
export async function appendRevoked(
  database: SqlDatabase,
  change: Omit<Change, "kind">,
): Promise<void> {
  await database.db
    .insertInto("rpcsession_changes")
    .values({
      kind: "revoked",
      session: change.session,
      ended_by: change.endedBy,
      at: change.at,
    })
    .execute();
}

/** A read of the change log; see `SessionStore.changes`. */
export interface ChangesRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly window: number;
}

/**
 * Reads the change log in the order of its numbers. That this is the order of the commits, too,
 * holds where one writer at a time gives out numbers and commits: SQLite.
 */
export async function readNumberedChanges(
  database: SqlDatabase,
  read: ChangesRead,
): Promise<Changes> {
  const now = database.now();
  const seen = read.cursor === undefined ? undefined : parseCursor(read.store, read.cursor);
  // One statement, so that entries, cursor and time are of one moment, also when no entry is left.
  const rows = await database.db
    .selectFrom(sql<{ one: number }>`(select 1 as one)`.as("moment"))
    .leftJoin("rpcsession_changes as change", (join) =>
      seen === undefined
        ? join.on("change.at", ">=", sql<number>`${now} - ${read.window}`)
        : join.on("change.number", ">", seen),
    )
    .select((query) => [
      now.as("store_now"),
      query
        .selectFrom("rpcsession_changes")
        .select(({ fn }) => fn.max("number").as("last"))
        .as("last"),
      "change.session",
      "change.ended_by",
      "change.at",
    ])
    .orderBy("change.number")
    .execute();
  return {
    entries: rows.flatMap((row) => toChange(row)),
    cursor: formatCursor(Math.max(seen ?? 0, Number(rows[0]?.last ?? 0))),
    now: Number(rows[0]?.store_now),
  };
}

/** A row as an entry, or none where a join found none. */
export function toChange(row: ChangeRow): Change[] {
  if (row.session === null) {
    return [];
  }
  const endedBy = row.ended_by as EndedBy;
  return [{ kind: "revoked", session: row.session, endedBy, at: Number(row.at) }];
}

interface ChangeRow {
  readonly session: string | null;
  readonly ended_by: string | null;
  readonly at: number | string | bigint | null;
}
