import type { Inserted, NewSession, SessionRecord, Stored } from "../../engine/store.ts";
import { evictedBy } from "../common.ts";
import { type SqlDatabase, timeOf } from "./database.ts";
import { endSessions } from "./ends.ts";
import { holdNew, idHolding } from "./owner-locks.ts";
import {
  hasIdIn,
  live,
  moment,
  notEnded,
  type SessionRow,
  smaller,
  sweepTime,
  type Timed,
  toStored,
} from "./rows.ts";
import { join, now, type Sql, sql } from "./statement.ts";

/** Adds a session; see `SessionStore.insert`. */
export async function insertSession(database: SqlDatabase, session: NewSession): Promise<Inserted> {
  const { replaces, requires, limit } = session;
  if (replaces === null && requires === null && limit === null) {
    // One statement needs no transaction: that saves round trips to the database.
    return { ...(await insertRow(database, session)), replaced: false, evicted: [] };
  }
  return database.transaction(async (within) => {
    // 1. Hold the owner, so that a revocation or a count of all its sessions sees this one.
    await holdNew(within, session, limit === null ? "shared" : "exclusive");
    // 2. Decide whether the session may be added, and which sessions must end for it.
    const admission = await admit(within, session);
    if ("refused" in admission) {
      return { record: undefined, now: await timeOf(within), refused: admission.refused };
    }
    // 3. End those.
    const replaced = replaces === null ? [] : await end(within, [replaces], "replaced");
    const evicted = await end(within, admission.evicts, "evicted");
    // 4. Insert it.
    const stored = await insertRow(within, session);
    return { ...stored, replaced: replaced.length > 0, evicted };
  });
}

type Admission = { readonly evicts: readonly string[] } | { readonly refused: "limit" | "notLive" };

/** Checks `requires` and `limit`. Changes nothing, but locks the rows that the insert is about. */
async function admit(
  database: SqlDatabase,
  { userId, tenantId, replaces, requires, limit }: NewSession,
): Promise<Admission> {
  if (requires === null && limit === null) {
    return { evicts: [] };
  }
  const named = [requires, replaces].filter((id) => id !== null);
  const concerned = [
    ...(named.length > 0 ? [hasIdIn(named)] : []),
    ...(limit === null ? [] : [sql`(user_id = ${userId} and ${isTenant(tenantId)})`]),
  ];
  const { idByBytes, forUpdate } = database.dialect;
  // Locks all rows that will end or must stay live at once, in the order that everyone keeps to.
  const rows = await database.rows<
    Pick<SessionRow, "id" | "user_id" | "tenant_id">
  >`select id, user_id, tenant_id from rpcsession_sessions
      where ${live} and (${join(concerned, " or ")})
      order by created_at, ${idByBytes} ${forUpdate}`;
  if (requires !== null && !rows.some(({ id }) => id === requires)) {
    return { refused: "notLive" };
  }
  const others = rows.filter(
    (row) => row.user_id === userId && row.tenant_id === tenantId && row.id !== replaces,
  );
  const evicts = evictedBy({ limit, requires }, others);
  return evicts === undefined ? { refused: "limit" } : { evicts };
}

/** The condition that a session belongs to exactly this tenant, or to none. */
function isTenant(tenantId: string | null): Sql {
  return tenantId === null ? sql`tenant_id is null` : sql`tenant_id = ${tenantId}`;
}

async function end(
  database: SqlDatabase,
  ids: readonly string[],
  endedBy: "replaced" | "evicted",
): Promise<readonly string[]> {
  const ended: string[] = [];
  for (let from = 0; from < ids.length; from += idsAtOnce) {
    const some = sql`${hasIdIn(ids.slice(from, from + idsAtOnce))} and ${notEnded}`;
    ended.push(...(await endSessions(database, some, endedBy)).revoked);
  }
  return ended;
}

/** Ids in one statement. SQLite binds at most 32,766 values, PostgreSQL 65,535. */
const idsAtOnce = 10_000;

async function insertRow(
  database: SqlDatabase,
  session: NewSession,
): Promise<Stored<SessionRecord>> {
  const { idle, absolute, endsBy, createdAt, authTime, externalId, authentication } = session;
  const expires = smaller(sql`${now} + ${absolute}`, sql`${endsBy ?? Number.MAX_SAFE_INTEGER}`);
  const idleExpires = smaller(sql`${now} + ${idle}`, expires);
  const row = await database.row<Timed<SessionRow>>`insert into rpcsession_sessions (
        id, user_id, tenant_id, transport, salt, root_hash, bound_key, secret_id, generation, rotated_at, sent_at, prolonged,
        created_at, auth_time, idle_expires_at, sweep_at, expires_at, access_life, idle_life, lineage,
        external_issuer, external_sid, external_sub, authentication,
        claims, claims_version, data, version, device, last_seen_at
      ) values (
        ${idHolding(database, session)}, ${session.userId}, ${session.tenantId},
        ${session.transport}, ${session.salt}, ${session.rootHash}, ${session.boundKey}, ${session.secretId}, 0, ${now}, ${now}, 0,
        coalesce(${createdAt}, ${now}), coalesce(${authTime}, ${now}), ${idleExpires},
        ${sweepTime(idleExpires)}, ${expires},
        ${session.accessLife}, ${session.idleLife}, ${session.lineage},
        ${externalId?.issuer ?? null}, ${externalId?.sid ?? null}, ${externalId?.sub ?? null},
        ${authentication === null ? null : JSON.stringify(authentication)},
        ${JSON.stringify(session.claims)}, 0, ${JSON.stringify(session.data)}, 0,
        ${JSON.stringify(session.device)}, ${now}
      )
      returning *, ${moment(database)}`;
  if (row === undefined) {
    throw new Error("The database inserted a session but returned no row.");
  }
  return toStored(row);
}
