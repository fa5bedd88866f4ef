import type {
  NewSession,
  RecordedSecret,
  RecordedSecrets,
  RefreshWrite,
  SecretName,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  Stored,
  StoredSigningKey,
} from "../../engine/store.ts";
import { externalKeysOf } from "../common.ts";
import { ChangeListeners } from "../push.ts";
import { appendEntries, forgetEntries, listEntries, pruneEntries } from "./audit.ts";
import { readLog } from "./log.ts";
import { endSetApart, finishRevocations, listSessions, revokeSessions } from "./owners.ts";
import { RedisPush } from "./push.ts";
import {
  optional,
  type RedisKeys,
  redisKeys,
  toAdvanced,
  toFields,
  toJsonFields,
  toRecord,
} from "./rows.ts";
import { finishUpgrade, openSchema } from "./schema.ts";
import { type RedisClient, RedisScripts } from "./scripts.ts";

/** Options of {@link RedisStore}. */
interface RedisStoreSettings {
  /** The beginning of every key, and their hash tag. */
  readonly prefix: string;
  /** Lua that sets `now`, in milliseconds. Only tests replace the server's clock. */
  readonly time: string;
}

/**
 * The store behind `redisStore`: each method runs one script, or a few.
 *
 * The methods are own properties, so that a store can be wrapped: `{ ...store, load }`.
 */
export class RedisStore implements SessionStore {
  readonly name = "redisStore";
  readonly #client: RedisClient;
  readonly #keys: RedisKeys;
  readonly #time: string;
  readonly #listeners = new ChangeListeners();
  readonly #push: RedisPush;
  #opened: RedisScripts | undefined;

  constructor(client: RedisClient, { prefix, time }: RedisStoreSettings) {
    this.#client = client;
    this.#keys = redisKeys(prefix);
    this.#time = time;
    this.#push = new RedisPush(client, {
      channel: this.#keys.log,
      publish: async (channel) => this.#redis.run("publish", [this.#keys.meta], [channel]),
      listeners: this.#listeners,
    });
  }

  get #redis(): RedisScripts {
    if (this.#opened === undefined) {
      throw new Error("redisStore: the store is not open; call open() first");
    }
    return this.#opened;
  }

  readonly open: SessionStore["open"] = async ({ clock }) => {
    const options = { keys: this.#keys, clock, time: this.#time };
    const redis = new RedisScripts(this.#client, options);
    await redis.learnFlags();
    await openSchema(redis);
    this.#opened ??= redis;
    this.#push.open(clock);
  };

  // The client belongs to the caller, who closes it.
  readonly close: SessionStore["close"] = async () => this.#push.close();

  // One session.

  readonly insert: SessionStore["insert"] = async (session) => {
    const keys = [...this.#keys.rows, ...keysOfNew(this.#keys, session)];
    const [time, flag, number = "", count, history, ...rest] = await this.#redis.run(
      "insert",
      keys,
      insertArguments(session),
    );
    const now = Number(time);
    if (flag === "taken") {
      throw new Error("redisStore: a session with this id already exists");
    }
    if (flag === "limit" || flag === "notLive") {
      return { record: undefined, now, refused: flag };
    }
    const few = rest.slice(0, Number(count));
    const record = toRecord(rest.slice(Number(count)));
    if (record === undefined) {
      throw new Error(
        "redisStore: the new session is missing after it was written; make sure that only rpc-session writes to its keys",
      );
    }
    const replaced = flag === "replaced";
    const evicted = number === "" ? few : await endSetApart(this.#redis, number);
    if (replaced || evicted.length > 0) {
      this.#listeners.call();
    }
    return { record, now, ...named(history), replaced, evicted };
  };

  readonly load: SessionStore["load"] = async (id) =>
    toStored(await this.#redis.run("load", this.#rowKeys(id), [id]));

  readonly refresh: SessionStore["refresh"] = async (write) =>
    toStored(await this.#redis.run("refresh", this.#rowKeys(write.id), refreshArguments(write)));

  readonly advance: NonNullable<SessionStore["advance"]> = async (write) => {
    const { id, generation, secretId, rootHash, transport, overlap, idle, nextSecretId } = write;
    const args = [id, generation, secretId, rootHash, transport, overlap, idle, nextSecretId];
    const bound = write.boundKey ?? "";
    const reply = await this.#redis.run("advance", this.#rowKeys(id), [...args, bound]);
    const [time, flag, history, ...values] = reply;
    if (flag !== "advanced") {
      return { ...toStored(reply), advanced: false };
    }
    const now = Number(time);
    return { record: toAdvanced(write, now, values), now, ...named(history), advanced: true };
  };

  readonly tokenFormat: NonNullable<SessionStore["tokenFormat"]> = async () => {
    const [, format] = await this.#redis.run("tokenFormat", [this.#keys.meta]);
    return format === "2" ? 2 : 1;
  };

  readonly confirm: SessionStore["confirm"] = async (uses) => {
    const keys = uses.map(({ session }) => this.#keys.session(session));
    const args = uses.flatMap(({ session, generation, settle }) => [session, generation, settle]);
    const [, ...done] = await this.#redis.run("confirm", [...this.#keys.rows, ...keys], args);
    return done.map((flag) => flag === "1");
  };

  readonly revoke: SessionStore["revoke"] = async (id, endedBy) => {
    const reply = await this.#redis.run("revoke", this.#rowKeys(id), [id, endedBy]);
    const revoked = reply[1] === "revoked";
    if (revoked) {
      this.#listeners.call();
    }
    return { ...toStored(reply), revoked };
  };

  readonly update: SessionStore["update"] = async (change) => {
    const updated = toStored(
      await this.#redis.run("update", this.#rowKeys(change.id), updateArguments(change)),
    );
    if (updated.record !== undefined && change.claims !== undefined) {
      this.#listeners.call();
    }
    return updated;
  };

  // Many sessions.

  readonly list: SessionStore["list"] = async (selection, page) =>
    listSessions(this.#redis, selection, page);

  readonly liveIds: SessionStore["liveIds"] = async (cursor = "0", limit) => {
    const args = [cursor, limit];
    const [, next = "0", ...ids] = await this.#redis.run("liveIds", this.#keys.rows, args);
    return { ids, ...(next === "0" ? {} : { cursor: next }) };
  };

  readonly revokeAll: SessionStore["revokeAll"] = async (scope, endedBy) => {
    const { revoked, now } = await revokeSessions(this.#redis, scope, endedBy);
    if (revoked.length > 0) {
      this.#listeners.call();
    }
    return { revoked, now };
  };

  // The change log.

  readonly changes: SessionStore["changes"] = async (cursor, window) =>
    readLog(this.#redis, cursor, window);

  readonly onChange: SessionStore["onChange"] = (wake) => this.#push.onChange(wake);

  readonly pushed = (): boolean | undefined => this.#push.connected();

  // Signing keys.

  readonly signingKeys: SessionStore["signingKeys"] = async () =>
    toSigningKeys(await this.#redis.run("signingKeys", this.#signingKeys));

  readonly addSigningKey: SessionStore["addSigningKey"] = async ({ slot, ...given }) => {
    const args = [slot, JSON.stringify(given)];
    const [, flag] = await this.#redis.run("addSigningKey", this.#signingKeys, args);
    return flag === "added";
  };

  readonly removeSigningKeysBelow: SessionStore["removeSigningKeysBelow"] = async (slot) => {
    await this.#redis.run("removeSigningKeysBelow", this.#signingKeys, [slot]);
  };

  readonly retireSigningKeys: SessionStore["retireSigningKeys"] = async (kids) => {
    const { meta, log, signing } = this.#keys;
    const [, , ...gone] = await this.#redis.run("retireSigningKeys", [meta, log, signing], kids);
    if (gone.length > 0) {
      this.#listeners.call();
    }
    return gone;
  };

  readonly announceKeys: SessionStore["announceKeys"] = async (change) => {
    await this.#redis.run("announceKeys", [this.#keys.meta, this.#keys.log], [change]);
    this.#listeners.call();
  };

  // Secrets.

  readonly recordSecrets: SessionStore["recordSecrets"] = async (secrets) =>
    this.#writeSecrets("recordSecrets", secrets);

  readonly retireSecrets: SessionStore["retireSecrets"] = async (secrets) => {
    const recorded = await this.#writeSecrets("retireSecrets", secrets);
    this.#listeners.call();
    return recorded;
  };

  async #writeSecrets(
    script: "recordSecrets" | "retireSecrets",
    secrets: readonly SecretName[],
  ): Promise<RecordedSecrets> {
    const { meta, log, secrets: key } = this.#keys;
    const args = secrets.flatMap(({ id, issuer }) => [id, issuer]);
    return toSecrets(await this.#redis.run(script, [meta, log, key], args));
  }

  // The audit log.

  readonly appendAudit: NonNullable<SessionStore["appendAudit"]> = async (entries) =>
    appendEntries(this.#redis, entries, async (id) => (await this.load(id)).record);

  readonly listAudit: NonNullable<SessionStore["listAudit"]> = async (user, page) =>
    listEntries(this.#redis, user, page);

  readonly forgetAudit: NonNullable<SessionStore["forgetAudit"]> = async (user) =>
    forgetEntries(this.#redis, user);

  // Upkeep.

  readonly prune: SessionStore["prune"] = async (limit) => {
    const redis = this.#redis;
    const [, gone] = await redis.run("pruneLog", [this.#keys.meta, this.#keys.log], [limit]);
    await finishRevocations(redis);
    await finishUpgrade(redis);
    for (let more = "more"; more === "more"; ) {
      [, more = ""] = await redis.run("pruneIndexes", this.#keys.rows, [limit]);
    }
    return Number(gone) + (await pruneEntries(redis, limit));
  };

  readonly lease: SessionStore["lease"] = async (name, holder, ttl) => {
    const keys = [this.#keys.meta, this.#keys.lease(name)];
    const [, flag] = await this.#redis.run("lease", keys, [holder, ttl]);
    return flag === "held";
  };

  #rowKeys(id: string): string[] {
    return [...this.#keys.rows, this.#keys.session(id)];
  }

  get #signingKeys(): string[] {
    return [this.#keys.meta, this.#keys.signing];
  }
}

/** The keys of an `insert`: the indexes, then the sessions that it names. */
function keysOfNew(keys: RedisKeys, session: NewSession) {
  const { id, userId, tenantId, externalId, replaces, requires } = session;
  const owners = [keys.user(userId), ...(tenantId === null ? [] : [keys.tenant(tenantId)])];
  const external = externalKeysOf(externalId).map(keys.external);
  const named = [id, replaces, requires].filter((other) => other !== null);
  return [...owners, ...external, ...named.map(keys.session)];
}

function insertArguments(given: NewSession): (string | number)[] {
  const { id, userId, tenantId, externalId, replaces, requires, limit } = given;
  return [
    ...[id, userId, optional(tenantId), optional(replaces), optional(requires)],
    ...[given.idle, given.absolute, given.endsBy ?? "", given.authTime ?? ""],
    given.createdAt ?? "",
    ...[limit?.max ?? "", limit?.overflow ?? ""],
    ...[externalId?.issuer, externalId?.sid, externalId?.sub].map(optional),
    ...toFields(given),
  ];
}

function refreshArguments(write: RefreshWrite): (string | number)[] {
  const { id, kind, generation, idle } = write;
  const settle = kind === "keep" ? (write.settle ?? "") : "";
  const next = kind === "forward" ? write.to : generation + 1;
  const secretId = "secretId" in write ? write.secretId : "";
  const prolonged = kind === "resend" ? (write.prolonged ?? "") : "";
  const proof = "proof" in write ? write.proof : undefined;
  return [
    ...[id, kind, generation, idle, settle, next, secretId, prolonged, write.boundKey ?? ""],
    ...(proof === undefined ? [] : [proof.salt, proof.rootHash ?? "", proof.lastSalted ?? ""]),
  ];
}

function updateArguments(change: SessionUpdate): (string | number)[] {
  const { id, version, claims, data } = change;
  const increment = claims === undefined && data === undefined ? 0 : 1;
  const flag = claims === undefined ? "" : "claims";
  return [id, version, increment, flag, ...toJsonFields({ claims, data })];
}

/** Converts a reply that consists of the time, a flag, the history, and the fields and values of a row. */
function toStored([now, , history, ...fields]: readonly string[]): Stored<
  SessionRecord | undefined
> {
  return { record: toRecord(fields), now: Number(now), ...named(history) };
}

/** Until the change log was read for the first time, the data has no name. */
function named(history: string | undefined): Pick<Stored<unknown>, "history"> {
  return history ? { history } : {};
}

/** Converts ids and values; a value is when it was seen, since when it is dead or "", and its issuer. */
function toSecrets([now, , ...fields]: readonly string[]): RecordedSecrets {
  const secrets: RecordedSecret[] = [];
  for (let index = 0; index < fields.length; index += 2) {
    const [, seen, dead, issuer = ""] = /^(\d+):(\d*):(.*)$/s.exec(fields[index + 1] ?? "") ?? [];
    const deadAt = dead ? Number(dead) : null;
    secrets.push({ id: fields[index] ?? "", issuer, seenAt: Number(seen), deadAt });
  }
  return { secrets: secrets.sort((a, b) => (a.id < b.id ? -1 : 1)), now: Number(now) };
}

/** Converts slots and values; a value is the time at which it was added, a colon, and JSON. */
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
