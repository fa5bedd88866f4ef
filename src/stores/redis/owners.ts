import type {
  EndedBy,
  RevokeScope,
  SessionPage,
  SessionRecord,
  SessionSelection,
} from "../../engine/store.ts";
import { cutPage, parseListCursor } from "../common.ts";
import { optional, type RedisKeys, toRecord } from "./rows.ts";
import { indexSessions } from "./schema.ts";
import type { RedisScripts } from "./scripts.ts";

/** Ids of an index per script: few enough that other commands wait only a few milliseconds. */
const listStep = 500;
/** Sessions that one script ends, which takes 5 to 10 ms. */
const revokeStep = 500;
/** Ids that are read at once. */
const takeStep = 5_000;
/** The limit of `SessionStore.revokeAll`. */
const maxIds = 1_000;

/** Lists live sessions; see `SessionStore.list`. */
export async function listSessions(
  redis: RedisScripts,
  selection: SessionSelection,
  { cursor, limit }: { readonly cursor: string | undefined; readonly limit: number },
): Promise<SessionPage> {
  const keys = [...redis.keys.rows, indexOf(redis.keys, selection)];
  const place = cursor === undefined ? undefined : parseListCursor("redisStore", cursor);
  const records: SessionRecord[] = [];
  let seen = place === undefined ? ["", ""] : [String(place.createdAt), place.id];
  for (;;) {
    const wanted = limit + 1 - records.length;
    const args = [...seen, wanted, listStep, optional(tenantWithin(selection))];
    const [now, more, createdAt = "", id = "", ...rows] = await redis.run("list", keys, args);
    records.push(...toRecords(rows));
    seen = [createdAt, id];
    if (more === "") {
      return { ...cutPage(records, limit), now: Number(now) };
    }
  }
}

/** The sessions that a call ended, and the store's clock. */
interface Revoked {
  readonly revoked: readonly string[];
  readonly now: number;
}

/** Ends sessions; see `SessionStore.revokeAll`. */
export async function revokeSessions(
  redis: RedisScripts,
  scope: RevokeScope,
  endedBy: EndedBy,
): Promise<Revoked> {
  return "ids" in scope
    ? revokeIds(redis, scope.ids, endedBy)
    : revokeSelected(redis, scope, endedBy);
}

/** Completes `revokeAll` calls that were interrupted. */
export async function finishRevocations(redis: RedisScripts): Promise<void> {
  const [, , ...numbers] = await redis.run("unfinishedRevocations", redis.keys.rows);
  for (const number of numbers) {
    await finishRevoking(redis, number);
  }
}

/** Ends the sessions that a script set apart, and returns their ids. */
export async function endSetApart(redis: RedisScripts, number: string): Promise<string[]> {
  await finishRevoking(redis, number);
  return takeRevoked(redis, number);
}

async function revokeIds(
  redis: RedisScripts,
  ids: readonly string[],
  endedBy: EndedBy,
): Promise<Revoked> {
  if (ids.length > maxIds) {
    throw new TypeError(`redisStore: revokeAll takes at most ${maxIds} ids, got ${ids.length}`);
  }
  const keys = [...redis.keys.rows, ...ids.map(redis.keys.session)];
  const [now, , ...revoked] = await redis.run("revokeIds", keys, [endedBy, ...ids]);
  return { revoked, now: Number(now) };
}

async function revokeSelected(
  redis: RedisScripts,
  scope: Exclude<RevokeScope, { readonly ids: readonly string[] }>,
  endedBy: EndedBy,
): Promise<Revoked> {
  const tenant = tenantWithin(scope);
  const keys = [
    ...redis.keys.rows,
    indexOf(redis.keys, scope),
    ...(tenant === null ? [] : [redis.keys.tenant(tenant)]),
  ];
  const except = "except" in scope ? scope.except : null;
  const args = [endedBy, optional(except), optional(tenant), revokeStep];
  // Servers of schema 1 know no external ids, so none of their sessions can be missing there.
  const indexed = "external" in scope ? "indexed" : "";

  // 1. End a few sessions in this step. Set many sessions apart: from now on every server treats them
  // as ended.
  let [now, own = "", count, ...rest] = await redis.run("revokeOwned", keys, [...args, indexed]);
  if (own === "unindexed") {
    await indexSessions(redis);
    [now, own = "", count, ...rest] = await redis.run("revokeOwned", keys, [...args, "indexed"]);
  }
  const others = rest.slice(0, Number(count));
  const revoked = rest.slice(Number(count));

  // 2. Write the sessions that were set apart, step by step. This includes those of other calls,
  // which are no longer in the index: this call must not resolve before they are in the change log.
  for (const number of own === "" ? others : [...others, own]) {
    await finishRevoking(redis, number);
  }

  // 3. Read which of the sessions set apart this call ended.
  if (own !== "") {
    revoked.push(...(await takeRevoked(redis, own)));
  }
  return { revoked, now: Number(now) };
}

async function finishRevoking(redis: RedisScripts, number: string): Promise<void> {
  const keys = [...redis.keys.rows, redis.keys.revoking(number)];
  for (let more = "more"; more === "more"; ) {
    [, more = ""] = await redis.run("continueRevoking", keys, [number, revokeStep]);
  }
}

async function takeRevoked(redis: RedisScripts, number: string): Promise<string[]> {
  const keys = [...redis.keys.rows, redis.keys.revoking(number)];
  const taken: string[] = [];
  for (;;) {
    const [, , ...ids] = await redis.run("takeRevoked", keys, [takeStep]);
    taken.push(...ids);
    if (ids.length < takeStep) {
      return taken;
    }
  }
}

/** Splits a reply of several rows, each preceded by the number of its texts. */
function toRecords(rows: readonly string[]): SessionRecord[] {
  const records: SessionRecord[] = [];
  for (let at = 0; at < rows.length; ) {
    const end = at + 1 + Number(rows[at]);
    const record = toRecord(rows.slice(at + 1, end));
    if (record !== undefined) {
      records.push(record);
    }
    at = end;
  }
  return records;
}

/** The user's index if there is a user: a user within a tenant has fewer sessions than the tenant. */
function indexOf(keys: RedisKeys, selection: SessionSelection): string {
  if ("external" in selection) {
    return keys.external(selection.external);
  }
  const { userId, tenantId } = selection;
  if (userId !== null) {
    return keys.user(userId);
  }
  if (tenantId === null) {
    throw new TypeError(
      "redisStore: userId and tenantId must not both be null, which would select all sessions",
    );
  }
  return keys.tenant(tenantId);
}

/** The tenant to which a user's sessions are narrowed, if any. */
function tenantWithin(selection: SessionSelection): string | null {
  return "external" in selection || selection.userId === null ? null : selection.tenantId;
}
