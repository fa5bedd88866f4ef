import type { RevokeScope, SessionOwner, SessionRecord, SessionStore } from "../../engine/store.ts";
import { type ChangeListeners, cutPage, parseListCursor } from "../common.ts";
import { optional, type RedisKeys, toRecord } from "./rows.ts";
import { indexRedisSessions } from "./schema.ts";
import type { RunRedisScript } from "./scripts.ts";

/** Ids of an index that a script looks at: few enough that others wait for some milliseconds only. */
const listStep = 500;
/** Sessions that a script ends: 5 to 10 ms. */
const revokeStep = 500;
/** Ids that are read at once. */
const takeStep = 5_000;
/** As the contract has it. */
const maxIds = 1_000;

/** What the methods below need. */
export interface RedisOwnersOptions {
  readonly run: RunRedisScript;
  readonly keys: RedisKeys;
  readonly wakes: ChangeListeners;
}

/** The methods for many sessions at once. */
export function redisOwnerMethods(
  options: RedisOwnersOptions,
): Pick<SessionStore, "list" | "revokeAll"> {
  return {
    async list(owner, { cursor, limit }) {
      const place = cursor === undefined ? undefined : parseListCursor("redisStore", cursor);
      const last = place === undefined ? ["", ""] : [String(place.createdAt), place.id];
      const { records, now } = await readList(options, owner, { last, wanted: limit + 1 });
      return { ...cutPage(records, limit), now };
    },
    async revokeAll(scope, endedBy) {
      const { revoked, now } =
        "ids" in scope
          ? await revokeIds(options, scope.ids, endedBy)
          : await revokeOwned(options, scope, endedBy);
      if (revoked.length > 0) {
        options.wakes.call();
      }
      return { revoked, now };
    },
  };
}

/** Ends what `revokeAll` calls that never came to their end had begun to end. */
export async function finishRevoking({ run, keys }: RedisOwnersOptions): Promise<void> {
  const [, , ...numbers] = await run("revokesUnderWay", keys.rows);
  for (const number of numbers) {
    await goOnRevoking({ run, keys }, number);
  }
}

async function readList(
  { run, keys }: RedisOwnersOptions,
  owner: SessionOwner,
  { last, wanted }: { readonly last: readonly string[]; readonly wanted: number },
) {
  const all = [...keys.rows, indexOf(keys, owner)];
  const records: SessionRecord[] = [];
  let seen = last;
  for (;;) {
    const args = [...seen, wanted - records.length, listStep, optional(tenantWithin(owner))];
    const [now, more, createdAt = "", id = "", ...rows] = await run("list", all, args);
    records.push(...toRecords(rows));
    seen = [createdAt, id];
    if (more === "") {
      return { records, now: Number(now) };
    }
  }
}

/** Of rows, each after the number of its texts. */
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

type EndedBy = Parameters<SessionStore["revokeAll"]>[1];
type Owned = Exclude<RevokeScope, { readonly ids: readonly string[] }>;

async function revokeIds(
  { run, keys }: RedisOwnersOptions,
  ids: readonly string[],
  endedBy: EndedBy,
) {
  if (ids.length > maxIds) {
    throw new TypeError(`redisStore: revokeAll: give at most ${maxIds} ids, not ${ids.length}`);
  }
  const all = [...keys.rows, ...ids.map(keys.session)];
  const [now, , ...revoked] = await run("revokeIds", all, [endedBy, ...ids]);
  return { revoked, now: Number(now) };
}

/**
 * In one step while they are few. More than that are set apart in one step, which ends them for
 * everyone, and written in several; the call is not over before all of them are in the change log.
 * That holds for those which another call is about to write, too: they are no longer in the index.
 */
async function revokeOwned(options: RedisOwnersOptions, scope: Owned, endedBy: EndedBy) {
  const { run, keys } = options;
  const tenant = tenantWithin(scope);
  const all = [
    ...keys.rows,
    indexOf(keys, scope),
    ...(tenant === null ? [] : [keys.tenant(tenant)]),
  ];
  const args = [endedBy, optional(scope.except), optional(tenant), revokeStep];
  let [now, own = "", count, ...rest] = await run("revokeOwned", all, [...args, ""]);
  if (own === "unindexed") {
    await indexRedisSessions(run, keys);
    [now, own = "", count, ...rest] = await run("revokeOwned", all, [...args, "indexed"]);
  }
  const others = rest.slice(0, Number(count));
  const revoked = rest.slice(Number(count));
  for (const number of own === "" ? others : [...others, own]) {
    await goOnRevoking(options, number);
  }
  if (own !== "") {
    revoked.push(...(await takeRevoked(options, own)));
  }
  return { revoked, now: Number(now) };
}

async function goOnRevoking(
  { run, keys }: Pick<RedisOwnersOptions, "run" | "keys">,
  number: string,
): Promise<void> {
  const all = [...keys.rows, keys.revoking(number)];
  for (let more = "more"; more === "more"; ) {
    [, more = ""] = await run("goOnRevoking", all, [number, revokeStep]);
  }
}

async function takeRevoked({ run, keys }: RedisOwnersOptions, number: string): Promise<string[]> {
  const all = [...keys.rows, keys.revoking(number)];
  const taken: string[] = [];
  for (;;) {
    const [, , ...ids] = await run("takeRevoked", all, [takeStep]);
    taken.push(...ids);
    if (ids.length < takeStep) {
      return taken;
    }
  }
}

/** The user's index where there is a user: a user within a tenant has fewer than the tenant. */
function indexOf(keys: RedisKeys, { userId, tenantId }: SessionOwner): string {
  if (userId !== null) {
    return keys.user(userId);
  }
  if (tenantId === null) {
    throw new TypeError("redisStore: name a user or a tenant, or both; all sessions are nobody's");
  }
  return keys.tenant(tenantId);
}

/** The tenant that a user's sessions are narrowed to, if any. */
function tenantWithin({ userId, tenantId }: SessionOwner): string | null {
  return userId === null ? null : tenantId;
}
