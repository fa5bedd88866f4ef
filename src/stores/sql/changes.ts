import type { EndedBy, LogEntry } from "../../engine/store.ts";
import { type BigInteger, type Sql, sql } from "./database.ts";

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
