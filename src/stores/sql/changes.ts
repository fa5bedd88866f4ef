import { sql } from "kysely";
import type { Changes, EndedBy, EndedEntry, LogEntry, SessionRecord } from "../../engine/store.ts";
import { formatCursor, parseCursor } from "../common.ts";
import { notifyAppended } from "../postgres/push.ts";
import type { SqlDatabase } from "./schema.ts";

/** Appends that sessions ended, however many: one statement, one parameter. */
export async function appendRevoked(
  { db, dialect }: SqlDatabase,
  sessions: readonly string[],
  { endedBy, at }: Pick<EndedEntry, "endedBy" | "at">,
): Promise<void> {
  const ids = sql`cast(${JSON.stringify(sessions)} as ${sql.raw(dialect === "postgres" ? "jsonb" : "text")})`;
  await db
    .insertInto("rpcsession_changes")
    .columns(["kind", "session", "ended_by", "at"])
    .expression(
      db
        .selectFrom(
          dialect === "postgres"
            ? sql<{ value: string }>`jsonb_array_elements_text(${ids})`.as("one")
            : sql<{ value: string }>`json_each(${ids})`.as("one"),
        )
        .select([
          sql`'revoked'`.as("kind"),
          "one.value",
          sql`cast(${endedBy} as text)`.as("ended_by"),
          sql`cast(${at} as bigint)`.as("at"),
        ]),
    )
    .$if(dialect === "postgres", (query) => query.returning(notifyAppended.as("notified")))
    .execute();
}

/** Appends that a session has other claims. */
export async function appendClaims(
  { db, dialect }: SqlDatabase,
  { id, claimsVersion }: SessionRecord,
  at: number,
): Promise<void> {
  await db
    .insertInto("rpcsession_changes")
    .values({ kind: "claims", session: id, claims_version: claimsVersion, at })
    .$if(dialect === "postgres", (query) => query.returning(notifyAppended.as("notified")))
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
      ...changeColumns,
    ])
    .orderBy("change.number")
    .execute();
  return {
    entries: rows.flatMap((row) => toChange(row)),
    cursor: formatCursor(Math.max(seen ?? 0, Number(rows[0]?.last ?? 0))),
    now: Number(rows[0]?.store_now),
  };
}

/** What {@link toChange} needs. */
export const changeColumns = [
  "change.kind",
  "change.session",
  "change.ended_by",
  "change.claims_version",
  "change.at",
] as const;

/** A row as an entry, or none where a join found none. */
export function toChange(row: ChangeRow): LogEntry[] {
  const { kind, session } = row;
  if (session === null) {
    return [];
  }
  const at = Number(row.at);
  return kind === "claims"
    ? [{ kind, session, claimsVersion: Number(row.claims_version), at }]
    : [{ kind: "revoked", session, endedBy: row.ended_by as EndedBy, at }];
}

interface ChangeRow {
  readonly kind: string | null;
  readonly session: string | null;
  readonly ended_by: string | null;
  readonly claims_version: number | string | bigint | null;
  readonly at: number | string | bigint | null;
}
