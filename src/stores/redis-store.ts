import type {
  NewSession,
  RefreshWrite,
  SessionRecord,
  SessionStore,
  Stored,
  StoredSigningKey,
} from "../session/store.ts";
import { readRedisChanges } from "./redis-changes.ts";
import { type RedisClient, type RunRedisScript, redisScriptRunner } from "./redis-scripts.ts";
import { toFields, toRecord } from "./redis-sessions.ts";
import { createWakes, type Wakes } from "./wakes.ts";

/** What a {@link redisSessionStore} is made of. */
export interface RedisSessionStoreOptions {
  /** What the keys begin with; they share it as their hash tag. */
  readonly prefix: string;
  /** Lua that sets `now`, in milliseconds. Only tests give another than the server's clock. */
  readonly time: string;
}

/** The version of what is kept in Redis. */
const schema = 1;

/** See `redisStore`, which this is but for its clock. */
export function redisSessionStore(
  client: RedisClient,
  { prefix, time }: RedisSessionStoreOptions,
): SessionStore {
  const key = (name: string): string => `{${prefix}}:${name}`;
  const keys: Keys = {
    meta: key("meta"),
    log: key("log"),
    signing: key("keys"),
    session: (id) => key(`session:${id}`),
    lease: (name) => key(`lease:${name}`),
  };
  const wakes = createWakes();
  let opened: RunRedisScript | undefined;
  const run: RunRedisScript = async (...call) => {
    if (opened === undefined) {
      throw new Error("redisStore: open() has not been called");
    }
    return opened(...call);
  };
  return {
    name: "redisStore",
    async open({ clock }) {
      const opening = redisScriptRunner(client, clock, time);
      checkServer(await opening("open", [keys.meta], [schema]));
      opened ??= opening;
    },
    // The client is its owner's, and other engines may go on.
    async close() {},
    ...sessionMethods({ run, keys, wakes }),
    ...signingKeyMethods(run, keys),
    ...sweepMethods(run, keys),
    changes: (cursor, window) =>
      readRedisChanges(run, { keys: [keys.meta, keys.log], cursor, window }),
    onChange: (wake) => wakes.add(wake),
  };
}

/** The keys of a store in Redis. */
interface Keys {
  readonly meta: string;
  readonly log: string;
  readonly signing: string;
  readonly session: (id: string) => string;
  readonly lease: (name: string) => string;
}

interface Within {
  readonly run: RunRedisScript;
  readonly keys: Keys;
  readonly wakes: Wakes;
}

function sessionMethods({
  run,
  keys: { meta, log, session },
  wakes,
}: Within): Pick<SessionStore, "insert" | "load" | "refresh" | "confirm" | "revoke"> {
  return {
    async insert(given) {
      const replaced = given.replaces === null ? [] : [session(given.replaces)];
      const all = [meta, log, session(given.id), ...replaced];
      const { record, now, flag } = reply(await run("insert", all, insertArguments(given)));
      if (record === undefined) {
        throw new Error("redisStore: the session id is taken");
      }
      if (flag === "replaced") {
        wakes.call();
      }
      return { record, now, replaced: flag === "replaced" };
    },
    load: async (id) => stored(await run("load", [meta, session(id)])),
    refresh: async (write) =>
      stored(await run("refresh", [meta, session(write.id)], refreshArguments(write))),
    async confirm(id, generation, settle) {
      const [, flag] = await run("confirm", [meta, session(id)], [generation, settle]);
      return flag === "done";
    },
    async revoke(id, endedBy) {
      const answer = await run("revoke", [meta, log, session(id)], [id, endedBy]);
      const { record, now, flag } = reply(answer);
      if (flag === "revoked") {
        wakes.call();
      }
      return { record, now, revoked: flag === "revoked" };
    },
  };
}

function signingKeyMethods(
  run: RunRedisScript,
  { meta, signing }: Keys,
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

function sweepMethods(
  run: RunRedisScript,
  { meta, log, lease }: Keys,
): Pick<SessionStore, "prune" | "lease"> {
  return {
    async prune(limit) {
      const [, gone] = await run("prune", [meta, log], [limit]);
      return Number(gone);
    },
    async lease(name, holder, ttl) {
      const [, flag] = await run("lease", [meta, lease(name)], [holder, ttl]);
      return flag === "held";
    },
  };
}

/** @throws Error when sessions cannot be kept on this server, with what to change */
function checkServer([policy, replicationId, found]: readonly string[]): void {
  if (policy === "" || replicationId === "") {
    throw new Error(
      "redisStore: INFO does not tell maxmemory_policy and master_replid; allow INFO to the store's user (ACL SETUSER <user> +info), because a server that evicts sessions or fails over unnoticed cannot keep them",
    );
  }
  if (policy !== "noeviction") {
    throw new Error(
      `redisStore: this server drops keys when its memory is full (maxmemory-policy ${policy}), revoked sessions and signing keys among them; set maxmemory-policy noeviction, or use a server of its own`,
    );
  }
  if (Number(found) > schema) {
    throw new Error(
      `redisStore: these sessions were written by a newer rpc-session (schema ${found}, this version knows ${schema}); upgrade this server, too`,
    );
  }
}

function insertArguments(given: NewSession): (string | number)[] {
  return [given.idle, given.absolute, given.replaces ?? "", ...toFields(given)];
}

function refreshArguments(write: RefreshWrite): (string | number)[] {
  const { kind, generation, idle } = write;
  const settle = kind === "keep" ? (write.settle ?? "") : "";
  const next = kind === "forward" ? write.to : generation + 1;
  const secretId = kind === "keep" ? "" : write.secretId;
  return [kind, generation, idle, settle, next, secretId];
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
