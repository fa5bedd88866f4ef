import type { EndedBy, EndedEntry, RevokeScope } from "../../engine/store.ts";
import { type BigInteger, type SqlDatabase, timeOf } from "./database.ts";
import { holdSelected } from "./owner-locks.ts";
import { hasIdIn, notEnded, selectedBy } from "./rows.ts";
import { nothing, now, type Sql, sql } from "./statement.ts";

/** The ids of the sessions that ended, and when. */
interface Ended {
  readonly revoked: readonly string[];
  readonly now: number;
}

/** Ends selected sessions, or those with some ids; see `SessionStore.revokeAll`. */
export async function revokeAllSessions(
  database: SqlDatabase,
  scope: RevokeScope,
  endedBy: EndedBy,
): Promise<Ended> {
  if ("ids" in scope && scope.ids.length === 0) {
    return { revoked: [], now: await timeOf(database) };
  }
  return database.transaction(async (within) => {
    if ("ids" in scope) {
      return endSessions(within, sql`${hasIdIn(scope.ids)} and ${notEnded}`, endedBy);
    }
    await holdSelected(within, scope);
    return endSelected(within, scope, endedBy);
  });
}

// A statement ends this many in a fraction of its time limit.
const batch = 10_000;

/** Ends all selected sessions except one, oldest first, in batches. */
async function endSelected(
  database: SqlDatabase,
  scope: Exclude<RevokeScope, { readonly ids: readonly string[] }>,
  endedBy: EndedBy,
): Promise<Ended> {
  const selected = selectedBy(scope);
  const except = "except" in scope ? scope.except : null;
  const notThis = except === null ? nothing : sql` and id <> ${except}`;
  const wanted = sql`revoked_at is null and ${selected}${notThis}`;
  const place = sql`(created_at, ${database.dialect.idByBytes})`;
  const revoked: string[] = [];
  let rest = wanted;
  for (;;) {
    const last = await batchEnd(database, rest);
    const step = last === undefined ? rest : sql`${rest} and ${place} <= ${last}`;
    const ended = await endSessions(database, step, endedBy);
    revoked.push(...ended.revoked);
    if (last === undefined) {
      return { revoked, now: ended.now };
    }
    rest = sql`${wanted} and ${place} > ${last}`;
  }
}

/** The place of the last session in a batch; undefined if one batch holds all that are left. */
async function batchEnd(database: SqlDatabase, wanted: Sql): Promise<Sql | undefined> {
  const row = await database.row<{
    readonly created_at: BigInteger;
    readonly id: string;
  }>`select created_at, id from rpcsession_sessions
      where ${wanted}
      order by created_at, ${database.dialect.idByBytes}
      limit 1 offset ${batch - 1}`;
  return row && sql`(${Number(row.created_at)}, ${row.id})`;
}

/**
 * Ends the sessions that match a condition, and appends their entries to the change log. Two statements,
 * however many sessions. Call it within a transaction.
 *
 * @param wanted includes that they have not ended
 */
export async function endSessions(
  database: SqlDatabase,
  wanted: Sql,
  endedBy: EndedBy,
): Promise<Ended> {
  const { idByBytes, forUpdate } = database.dialect;
  // Every transaction that locks many rows does so in this order, so that no two deadlock.
  const rows = await database.rows<{
    readonly id: string;
    readonly revoked_at: BigInteger;
  }>`with due as (
        select id from rpcsession_sessions
        where ${wanted}
        order by created_at, ${idByBytes} ${forUpdate}
      )
      update rpcsession_sessions set revoked_at = ${now}, ended_by = ${endedBy}
      where id in (select id from due) and ${notEnded}
      returning id, revoked_at`;
  const [first] = rows;
  if (first === undefined) {
    return { revoked: [], now: await timeOf(database) };
  }
  const revoked = rows.map(({ id }) => id);
  const at = Number(first.revoked_at);
  await appendRevoked(database, revoked, { endedBy, at });
  return { revoked, now: at };
}

/** Appends that sessions ended: one statement and one parameter, however many sessions. */
async function appendRevoked(
  database: SqlDatabase,
  sessions: readonly string[],
  { endedBy, at }: Pick<EndedEntry, "endedBy" | "at">,
): Promise<void> {
  const { stringsOf } = database.dialect;
  await database.rows`insert into rpcsession_changes (kind, session, ended_by, at)
      select 'revoked', one.value, cast(${endedBy} as text), cast(${at} as bigint)
      from ${stringsOf(JSON.stringify(sessions))}`;
}
