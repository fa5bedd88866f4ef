import type {
  Inserted,
  NewSession,
  RefreshWrite,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  Stored,
  StoredSigningKey,
} from "../../engine/store.ts";
import { ChangeListeners } from "../common.ts";
import { readRedisChanges } from "./changes.ts";
import { finishRevoking, redisOwnerMethods } from "./owners.ts";
import { createRedisPush } from "./push.ts";
import { optional, type RedisKeys, redisKeys, toFields, toJsonFields, toRecord } from "./rows.ts";
import { finishUpgrade, openRedis } from "./schema.ts";
import { type RedisClient, type RunRedisScript, redisScriptRunner } from "./scripts.ts";

/** What a {@link redisSessionStore} is made of. */
export interface RedisSessionStoreOptions {
  /** What the keys begin with; they share it as their hash tag. */
  readonly prefix: string;
  /** Lua that sets `now`, in milliseconds. Only tests give another than the server's clock. */
  readonly time: string;
}

/** See `redisStore`, which this is but for its clock. */
export function redisSessionStore(
  client: RedisClient,
  { prefix, time }: RedisSessionStoreOptions,
): SessionStore {
  const keys = redisKeys(prefix);
  const wakes = new ChangeListeners();
  const push = createRedisPush(client, {
    channel: keys.log,
    publish: (channel) => run("publish", [keys.meta], [channel]),
    wakes,
  });
  let opened: RunRedisScript | undefined;
  const run: RunRedisScript = async (...call) => {
    if (opened === undefined) {
      throw new Error("redisStore: open() has not been called");
    }
    return opened(...call);
  };
  const within: Within = { run, keys, wakes };
  return {
    name: "redisStore",
    async open({ clock }) {
      const opening = redisScriptRunner(client, clock, time);
      await openRedis(opening, keys);
      opened ??= opening;
      push.opened(clock);
    },
    ...sessionMethods(within),
    ...writeMethods(within),
    ...redisOwnerMethods(within),
    ...signingKeyMethods(run, keys),
    ...sweepMethods(within),
    changes: (cursor, window) =>
      readRedisChanges(run, { keys: [keys.meta, keys.log], cursor, window }),
    ...push.methods,
  };
}

interface Within {
  readonly run: RunRedisScript;
  readonly keys: RedisKeys;
  readonly wakes: ChangeListeners;
}

function sessionMethods({ run, keys }: Within): Pick<SessionStore, "load" | "refresh" | "confirm"> {
  const keysOf = (id: string): string[] => [...keys.rows, keys.session(id)];
  return {
    load: async (id) => stored(await run("load", keysOf(id), [id])),
    refresh: async (write) =>
      stored(await run("refresh", keysOf(write.id), refreshArguments(write))),
    async confirm(id, generation, settle) {
      const [, flag] = await run("confirm", keysOf(id), [id, generation, settle]);
      return flag === "done";
    },
  };
}

/** The methods that append to the change log. */
function writeMethods(within: Within): Pick<SessionStore, "insert" | "revoke" | "update"> {
  const { run, keys, wakes } = within;
  return {
    insert: (session) => insert(within, session),
    async revoke(id, endedBy) {
      const answer = await run("revoke", [...keys.rows, keys.session(id)], [id, endedBy]);
      const { record, now, flag } = reply(answer);
      if (flag === "revoked") {
        wakes.call();
      }
      return { record, now, revoked: flag === "revoked" };
    },
    async update(change) {
      const all = [...keys.rows, keys.session(change.id)];
      const updated = stored(await run("update", all, updateArguments(change)));
      if (updated.record !== undefined && change.claims !== undefined) {
        wakes.call();
      }
      return updated;
    },
  };
}

async function insert({ run, keys, wakes }: Within, given: NewSession): Promise<Inserted> {
  const named = [given.id, given.replaces, given.requires].filter((id) => id !== null);
  const owners = [
    keys.user(given.userId),
    ...(given.tenantId === null ? [] : [keys.tenant(given.tenantId)]),
  ];
  const all = [...keys.rows, ...owners, ...named.map(keys.session)];
  const [time, flag, count, ...rest] = await run("insert", all, insertArguments(given));
  const now = Number(time);
  if (flag === "taken") {
    throw new Error("redisStore: the session id is taken");
  }
  if (flag === "limit" || flag === "notLive") {
    return { record: undefined, now, refused: flag };
  }
  const evicted = rest.slice(0, Number(count));
  const record = toRecord(rest.slice(Number(count)));
  if (record === undefined) {
    throw new Error("redisStore: the new session is not there; something else writes to its keys");
  }
  const replaced = flag === "replaced";
  if (replaced || evicted.length > 0) {
    wakes.call();
  }
  return { record, now, replaced, evicted };
}

function signingKeyMethods(
  run: RunRedisScript,
  { meta, signing }: RedisKeys,
): Pick<SessionStore, "signingKeys" | "addSigningKey" | "removeSigningKeysBelow"> {
  return {
    signingKeys: async () => toSigningKeys(await run("signingKeys", [meta, signing])),
    async addSigningKey({ slot, ...given }) {
      const [, flag] = await run("addSigningKey", [meta, signing], [slot, JSON.stringify(given)]);
      return flag === "added";
    },
    async removeSigningKeysBelow(slot) {
      await run("removeSigningKeysBelow", [meta, signing], [slot]);
    },
  };
}

function sweepMethods(within: Within): Pick<SessionStore, "prune" | "lease"> {
  const { run, keys } = within;
  return {
    async prune(limit) {
      const [, gone] = await run("pruneLog", [keys.meta, keys.log], [limit]);
      await finishRevoking(within);
      await finishUpgrade(run, keys);
      for (let more = "more"; more === "more"; ) {
        [, more = ""] = await run("pruneIndexes", keys.rows, [limit]);
      }
      return Number(gone);
    },
    async lease(name, holder, ttl) {
      const [, flag] = await run("lease", [keys.meta, keys.lease(name)], [holder, ttl]);
      return flag === "held";
    },
  };
}

function insertArguments(given: NewSession): (string | number)[] {
  const { id, userId, tenantId, replaces, requires, limit } = given;
  return [
    ...[id, userId, optional(tenantId), optional(replaces), optional(requires)],
    ...[given.idle, given.absolute, given.endsBy ?? "", given.authTime ?? ""],
    ...[limit?.max ?? "", limit?.overflow ?? ""],
    ...toFields(given),
  ];
}

function refreshArguments(write: RefreshWrite): (string | number)[] {
  const { id, kind, generation, idle } = write;
  const settle = kind === "keep" ? (write.settle ?? "") : "";
  const next = kind === "forward" ? write.to : generation + 1;
  const secretId = kind === "keep" ? "" : write.secretId;
  return [id, kind, generation, idle, settle, next, secretId];
}

function updateArguments(change: SessionUpdate): (string | number)[] {
  const { id, version, claims, data, device } = change;
  const raise = claims === undefined && data === undefined ? 0 : 1;
  const flag = claims === undefined ? "" : "claims";
  return [id, version, raise, flag, ...toJsonFields({ claims, data, device })];
}

function reply([now, flag, ...fields]: readonly string[]) {
  return { record: toRecord(fields), now: Number(now), flag };
}

function stored(answer: readonly string[]): Stored<SessionRecord | undefined> {
  const { record, now } = reply(answer);
  return { record, now };
}

/** Of slots and values; a value is the time it was added, a colon, and JSON. */
function toSigningKeys([now, , ...fields]: readonly string[]) {
  const keys: StoredSigningKey[] = [];
  for (let index = 0; index < fields.length; index += 2) {
    const value = fields[index + 1] ?? "";
    const colon = value.indexOf(":");
    const key = JSON.parse(value.slice(colon + 1)) as Omit<StoredSigningKey, "slot" | "createdAt">;
    keys.push({ ...key, slot: Number(fields[index]), createdAt: Number(value.slice(0, colon)) });
  }
  return { keys: keys.sort((a, b) => a.slot - b.slot), now: Number(now) };
}
