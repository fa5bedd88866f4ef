import type { EndedBy, EndedEntry, LogEntry, SessionRecord } from "../../engine/store.ts";
import { type BigInteger, type Sql, type SqlDatabase, sql } from "./database.ts";

/** Appends that sessions ended: one statement and one parameter, however many sessions. */
export async function appendRevoked(
  database: SqlDatabase,
  sessions: readonly string[],
  { endedBy, at }: Pick<EndedEntry, "endedBy" | "at">,
): Promise<void> {
  const { stringsOf, notifyOnCommit } = database.dialect;
  await database.rows`insert into rpcsession_changes (kind, session, ended_by, at)
      select 'revoked', one.value, cast(${endedBy} as text), cast(${at} as bigint)
      from ${stringsOf(JSON.stringify(sessions))}
      ${notifyOnCommit}`;
}

/** Appends that the claims of a session changed. */
export async function appendClaims(
  database: SqlDatabase,
  { id, claimsVersion }: SessionRecord,
  at: number,
): Promise<void> {
  await database.rows`insert into rpcsession_changes (kind, session, claims_version, at)
      values ('claims', ${id}, ${claimsVersion}, ${at})
      ${database.dialect.notifyOnCommit}`;
}

/** The columns of an entry, of a row named `change`. All are null where a left join found no entry. */
export interface ChangeRow {
  readonly kind: string | null;
  readonly session: string | null;
  readonly ended_by: string | null;
  readonly claims_version: BigInteger | null;
  readonly at: BigInteger | null;
}

/** Selects a {@link ChangeRow}. */
export const changeColumns: Sql = sql`change.kind, change.session, change.ended_by, change.claims_version, change.at`;

/** Reads rows as entries; skips rows without an entry. */
export function toEntries(rows: readonly ChangeRow[]): LogEntry[] {
  return rows.flatMap(({ kind, session, ended_by, claims_version, at }): LogEntry[] => {
    if (session === null) {
      return [];
    }
    const common = { session, at: Number(at) };
    return kind === "claims"
      ? [{ kind, ...common, claimsVersion: Number(claims_version) }]
      : [{ kind: "revoked", ...common, endedBy: ended_by as EndedBy }];
  });
}
