import { type RawBuilder, sql } from "kysely";
import type { Inserted, NewSession, SessionRecord, Stored } from "../../engine/store.ts";
import { evictedBy } from "../common.ts";
import { among, endSessions, heldValue, holdOwner } from "./ends.ts";
import { prepared } from "./prepared.ts";
import {
  idByBytes,
  inTransaction,
  isLive,
  type SqlDatabase,
  smaller,
  timeOf,
  toStored,
} from "./schema.ts";

/** Adds a session; see `SessionStore.insert`. */
export async function insertSession(database: SqlDatabase, session: NewSession): Promise<Inserted> {
  const { replaces, requires, limit } = session;
  if (replaces === null && requires === null && limit === null) {
    // One statement needs no transaction: that saves round trips to the database.
    return { ...(await insertRow(database, session)), replaced: false, evicted: [] };
  }
  return inTransaction(database, async (within) => {
    await holdOwner(within, session, limit === null ? "shared" : "exclusive");
    const admission = await admit(within, session);
    if ("refused" in admission) {
      return { record: undefined, now: await timeOf(within), refused: admission.refused };
    }
    const replaced = replaces === null ? [] : await end(within, [replaces], "replaced");
    const evicted = await end(within, admission.evicts, "evicted");
    const stored = await insertRow(within, session);
    return { ...stored, replaced: replaced.length > 0, evicted };
  });
}

type Admission = { readonly evicts: readonly string[] } | { readonly refused: "limit" | "notLive" };

/** Whether a session may be added, and who has to go for it. Reads only. */
async function admit(
  { db, now, dialect }: SqlDatabase,
  { userId, replaces, requires, limit }: NewSession,
): Promise<Admission> {
  if (requires === null && limit === null) {
    return { evicts: [] };
  }
  const named = [requires, replaces].filter((id) => id !== null);
  const live = await db
    .selectFrom("rpcsession_sessions")
    .select(["id", "user_id"])
    .where(isLive(now()))
    .where((is) =>
      is.or([
        ...(named.length > 0 ? [among(named)] : []),
        ...(limit === null ? [] : [is("user_id", "=", userId)]),
      ]),
    )
    .orderBy("created_at")
    .orderBy(idByBytes(dialect))
    // Whatever is about to end, and what has to live, is locked at once, in the order of all others.
    .$if(dialect === "postgres", (query) => query.forUpdate())
    .execute();
  if (requires !== null && !live.some(({ id }) => id === requires)) {
    return { refused: "notLive" };
  }
  const others = live.filter((row) => row.user_id === userId && row.id !== replaces);
  const evicts = evictedBy({ limit, requires }, others);
  return evicts === undefined ? { refused: "limit" } : { evicts };
}

async function end(
  database: SqlDatabase,
  ids: readonly string[],
  endedBy: "replaced" | "evicted",
): Promise<readonly string[]> {
  return ids.length === 0 ? [] : (await endSessions(database, among(ids), endedBy)).revoked;
}

async function insertRow(
  database: SqlDatabase,
  { claims, data, device, endsBy, ...others }: NewSession,
): Promise<Stored<SessionRecord>> {
  const [row] = await insert(database, others.tenantId === null ? "user" : "tenant", {
    ...others,
    claims: JSON.stringify(claims),
    data: JSON.stringify(data),
    device: JSON.stringify(device),
    endsBy: endsBy ?? Number.MAX_SAFE_INTEGER,
  });
  if (row === undefined) {
    throw new Error("the database gave no row back for the one it inserted");
  }
  return toStored(row);
}

/** What an insert binds: JSON as text, and an end in any case. */
type InsertValues = Omit<NewSession, "claims" | "data" | "device" | "endsBy"> &
  Readonly<Record<"claims" | "data" | "device", string>> & { readonly endsBy: number };

/** Of a user alone, or of one within a tenant. */
const insert = prepared((database, form: "user" | "tenant", session: InsertValues) => {
  const time = database.now();
  const owner = { userId: session.userId, tenantId: form === "user" ? null : session.tenantId };
  return database.db
    .insertInto("rpcsession_sessions")
    .values({ ...newColumns(session, time), id: heldValue(database, owner, session.id) })
    .returningAll()
    .returning(time.as("store_now"));
});

function newColumns(session: InsertValues, now: RawBuilder<number>) {
  const { idle, absolute, endsBy, authTime } = session;
  const expires = smaller(sql<number>`${now} + ${absolute}`, sql<number>`${endsBy}`);
  return {
    user_id: session.userId,
    tenant_id: session.tenantId,
    transport: session.transport,
    salt: session.salt,
    secret_id: session.secretId,
    generation: 0,
    rotated_at: now,
    created_at: now,
    auth_time: sql<number>`coalesce(${authTime}, ${now})`,
    idle_expires_at: smaller(sql<number>`${now} + ${idle}`, expires),
    expires_at: expires,
    access_life: session.accessLife,
    idle_life: session.idleLife,
    claims: session.claims,
    claims_version: 0,
    data: session.data,
    version: 0,
    device: session.device,
    last_seen_at: now,
  };
}
