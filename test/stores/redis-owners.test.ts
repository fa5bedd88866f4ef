import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NewSession, SessionLimit, SessionStore } from "../../src/engine/store.ts";
import { type RedisClient, redisStore } from "../../src/stores/redis/index.ts";
import {
  advance,
  confirmOne,
  insertNew,
  newSession,
} from "../../src/testing/store-contract/fixture.ts";
import {
  redisMissing,
  startRedis,
  type TestRedis,
  type TestRedisClient,
} from "../servers/redis.ts";
import { createRedis } from "./redis-fixture.ts";
import { stillClock } from "./still-clock.ts";

const hour = 3_600_000;
const clock = { ...stillClock(), after: () => () => {} };
/** A number of sessions that takes more than two steps of a `revokeAll`. */
const many = 1_200;
let redis: TestRedis;
let prefixes = 0;

beforeAll(async () => {
  if (redisMissing === undefined) {
    redis = await startRedis();
  }
});
afterAll(() => redis?.stop());

describe.skipIf(redisMissing)(`the indexes of redisStore ${redisMissing ?? ""}`, () => {
  it("lose a session when it is revoked, replaced, evicted or ended by revokeAll", async () => {
    const { client, prefix, store } = await opened();
    const indexes = () => indexesOf(client, prefix);
    const tenantId = "acme";
    await insertNew(store, { id: "a", tenantId });
    expect(await indexes()).toEqual({ ends: 1, "user:alice": 1, "tenant:acme": 1 });
    await store.revoke("a", "signOut");
    expect(await indexes()).toEqual({});
    await insertNew(store, { id: "b", tenantId });
    await insertNew(store, { id: "c", tenantId, replaces: "b" });
    await insertNew(store, { id: "d", tenantId, limit: limitOf(1, "evict") });
    expect(await indexes()).toEqual({ ends: 1, "user:alice": 1, "tenant:acme": 1 });
    await insertNew(store, { id: "e", tenantId });
    await store.revokeAll({ ids: ["d"] }, "revoked");
    await store.revokeAll({ userId: "alice", tenantId: null, except: null }, "revoked");
    expect(await indexes()).toEqual({});
  });

  it("by external id lose a session when it ends, and expire with the last of their sessions", async () => {
    const fixture = await createRedis(redis);
    const { client, prefix, store, clock: time } = fixture;
    await store.open({ clock: time });
    const issuer = "https://login.example.com";
    const external = async () => {
      const found = Object.entries(await indexesOf(client, prefix));
      return Object.fromEntries(found.filter(([key]) => key.startsWith("s")));
    };
    const [sid, sub, alone] = ["sid", "sub", "subWithoutSid"].map((by) => `${by}:${issuer} x`);
    const both = { issuer, sid: "x", sub: "x" };
    await insertNew(store, { id: "a", externalId: both, idle: hour });
    await insertNew(store, { id: "b", externalId: { issuer, sub: "x" }, idle: 2 * hour });
    await insertNew(store, { id: "c", externalId: both, idle: hour });
    expect(await external()).toEqual({ [`${sid}`]: 2, [`${sub}`]: 3, [`${alone}`]: 1 });
    await store.revoke("c", "signOut");
    expect(await external()).toEqual({ [`${sid}`]: 1, [`${sub}`]: 2, [`${alone}`]: 1 });
    await time.advance(25 * hour + 1);
    expect(await external()).toEqual({ [`${sub}`]: 2, [`${alone}`]: 1 });
    await time.advance(hour);
    expect(await external()).toEqual({});
    await fixture.close();
  });

  it("by external id keep few ids of sessions that expired", async () => {
    const fixture = await createRedis(redis);
    const { client, prefix, store, clock: time } = fixture;
    await store.open({ clock: time });
    const externalId = { issuer: "https://login.example.com", sub: "ann" };
    await insertNew(store, { externalId, idle: 900 * hour, absolute: 900 * hour });
    for (let index = 0; index < 300; index++) {
      await insertNew(store, { id: `short-${index}`, externalId, idle: 1 });
      await client.del(`{${prefix}}:session:short-${index}`);
    }
    const key = `{${prefix}}:sub:https://login.example.com ann`;
    expect(await client.zCard(key)).toBeLessThan(100);
    expect(await client.zScore(key, "s1")).not.toBeNull();
    await fixture.close();
  });

  it("by external id end more sessions than one step, all at once", async () => {
    const { client, prefix, store } = await opened();
    const externalId = { issuer: "https://login.example.com", sub: "ann" };
    for (let index = 0; index < many; index += 100) {
      await Promise.all(
        Array.from({ length: 100 }, (_, each) =>
          insertNew(store, { id: `e${index + each}`, externalId }),
        ),
      );
    }
    const external = { by: "sub", issuer: externalId.issuer, id: "ann" } as const;
    const { revoked } = await store.revokeAll({ external }, "externalLogout");
    expect(new Set(revoked).size).toBe(many);
    expect(await indexesOf(client, prefix)).toEqual({});
  });

  it("lose expired sessions by prune, in batches, and keep refreshed ones", async () => {
    const fixture = await createRedis(redis);
    const { client, prefix, store, clock: time } = fixture;
    await store.open({ clock: time });
    for (let each = 0; each < 12; each++) {
      await insertNew(store, { id: `e${each}`, userId: `u${each % 2}`, tenantId: "t", idle: hour });
    }
    const refreshed = { ...advance(0), idle: 30 * hour };
    await insertNew(store, { idle: hour, absolute: 90 * hour });
    await store.refresh(refreshed);
    await time.advance(25 * hour);
    await store.prune(5);
    // Ids stay as long as their rows, because the clock may go back.
    expect(await indexesOf(client, prefix)).toMatchObject({
      ends: 13,
      "user:u0": 6,
      "tenant:t": 12,
    });
    await time.advance(1);
    expect(await store.prune(5)).toBe(0);
    expect(await indexesOf(client, prefix)).toEqual({ ends: 1, "user:alice": 1 });
    await time.advance(29 * hour - 1);
    await store.prune(1);
    expect(await indexesOf(client, prefix)).toEqual({ ends: 1, "user:alice": 1 });
    await time.advance(1);
    await store.prune(5);
    expect(await indexesOf(client, prefix)).toEqual({});
    await fixture.close();
  });

  it("find a session that is live again because the clock went back", async () => {
    const fixture = await createRedis(redis);
    const { store, clock: time } = fixture;
    await store.open({ clock: time });
    await insertNew(store, { idle: 1_000 });
    const owner = { userId: "alice", tenantId: null };
    await time.advance(1_001);
    await store.prune(5);
    expect((await store.list(owner, { cursor: undefined, limit: 5 })).records).toEqual([]);
    await time.advance(-500);
    expect((await store.revokeAll({ ...owner, except: null }, "revoked")).revoked).toEqual(["s1"]);
    await fixture.close();
  });

  it("lose ids of missing sessions when they are listed", async () => {
    const { client, prefix, store } = await opened();
    await insertMany(store, 20);
    await client.del([`{${prefix}}:session:s0007`, `{${prefix}}:session:s0019`]);
    expect(await listed(store, { userId: "alice", tenantId: null })).toHaveLength(18);
    expect(await client.zCard(`{${prefix}}:user:alice`)).toBe(18);
  });
});

describe.skipIf(redisMissing)("a list of redisStore", () => {
  it("continues at the right place if the last session of a page is gone", async () => {
    const { client, prefix, store } = await opened();
    await insertMany(store, 9);
    // All of the same time, so that only the bytes of the ids determine the order.
    const [index, ids] = [
      `{${prefix}}:user:alice`,
      await client.zRange(`{${prefix}}:user:alice`, 0, -1),
    ];
    for (const id of ids) {
      await client.zAdd(index, { score: 5, value: id });
      await client.hSet(`{${prefix}}:session:${id}`, "createdAt", "5");
    }
    const owner = { userId: "alice", tenantId: null };
    const first = await store.list(owner, { cursor: undefined, limit: 4 });
    expect(first.records.map(({ id }) => id)).toEqual(["s0008", "s0007", "s0006", "s0005"]);
    for (const gone of ["s0005", "s0006", "s0003"]) {
      await store.revoke(gone, "signOut");
    }
    const second = await store.list(owner, { cursor: first.cursor, limit: 3 });
    expect(second.records.map(({ id }) => id)).toEqual(["s0004", "s0002", "s0001"]);
    const last = await store.list(owner, { cursor: second.cursor, limit: 3 });
    expect(last.records.map(({ id }) => id)).toEqual(["s0000"]);
    expect(last.cursor).toBeUndefined();
  });

  it("finds the few sessions of a tenant among many of a user", async () => {
    const { store } = await opened();
    await insertNew(store, { id: "first", tenantId: "rare" });
    await insertMany(store, many, { tenantId: "common" });
    const ids = await listed(store, { userId: "alice", tenantId: "rare" });
    expect(ids).toEqual(["first"]);
  });

  it("rejects a missing owner, and an invalid cursor", async () => {
    const { store } = await opened();
    const nobody = { userId: null, tenantId: null };
    await expect(store.list(nobody, { cursor: undefined, limit: 1 })).rejects.toThrow(TypeError);
    await expect(store.revokeAll({ ...nobody, except: null }, "revoked")).rejects.toThrow(
      TypeError,
    );
    const owner = { userId: "alice", tenantId: null };
    await expect(store.list(owner, { cursor: "x", limit: 1 })).rejects.toThrow(
      /^redisStore: "x" is .* cursor/,
    );
    const ids = Array.from({ length: 1_001 }, (_, each) => `s${each}`);
    await expect(store.revokeAll({ ids }, "revoked")).rejects.toThrow("at most 1000 ids");
  });
});

const owners = {
  "a user": { userId: "alice", tenantId: null },
  "a tenant": { userId: null, tenantId: "acme" },
  "a user within a tenant": { userId: "alice", tenantId: "acme" },
};

describe.skipIf(redisMissing).each(Object.entries(owners))(
  "revokeAll of many sessions of %s",
  (_, owner) => {
    it("ends all of them except one, and no others, once each, in bounded steps", async () => {
      const { client, prefix, store } = await opened();
      const ids = await insertMany(store, many, { tenantId: "acme" });
      await insertNew(store, { id: "other", userId: "bob", tenantId: "globex" });
      await insertNew(store, { id: "near", userId: "alice", tenantId: "globex" });
      const before = (await store.changes(undefined, hour)).cursor;
      await client.sendCommand(["CONFIG", "RESETSTAT"]);
      const { revoked } = await store.revokeAll({ ...owner, except: "s0003" }, "revoked");
      expect(revoked.length).toBe(new Set(revoked).size);
      const ended = ids.filter((id) => id !== "s0003");
      if (owner.tenantId === null) {
        ended.unshift("near");
      }
      expect([...revoked].sort()).toEqual(ended.sort());
      const { entries } = await store.changes(before, 0);
      expect(entries.map(({ session }) => session).sort()).toEqual(ended);
      expect((await store.load("other")).record?.revokedAt).toBeNull();
      expect(await listed(store, owner)).toEqual(["s0003"]);
      expect(await client.hLen(`{${prefix}}:revoking`)).toBe(0);
    });

    it("ends them for all servers in its first step, but no session created later", async () => {
      const { store, held, heldStore } = await begun({ ...owner, except: null });
      const during = {
        refresh: await store.refresh({ ...advance(0), id: "s0000" }),
        ended: await confirmOne(store, "s0001", 0, hour),
        load: (await store.load("s0002")).record?.endedBy,
        revoke: (await store.revoke("s0003", "signOut")).revoked,
        update: (await store.update({ id: "s0004", version: 0, data: {} })).record,
        insert: await store.insert(newSession({ id: "new", requires: "s0005" })),
        ids: (await store.revokeAll({ ids: ["s0006"] }, "theft")).revoked,
        list: await listed(store, owner),
        replaced: await store.insert(newSession({ id: "next", userId: "bob", replaces: "s0007" })),
      };
      expect(during).toMatchObject({
        refresh: { record: undefined },
        ended: true,
        load: "revoked",
        revoke: false,
        insert: { refused: "notLive" },
        ids: [],
        list: [],
        replaced: { replaced: false },
      });
      expect(during.update).toBeUndefined();
      // Within a limit of one, because the many have ended. It is not ended by the rest of the call.
      const one = { tenantId: "acme", limit: limitOf(1, "reject") };
      expect((await store.insert(newSession({ id: "after", ...one }))).record?.id).toBe("after");
      held.release();
      const { revoked } = await heldStore;
      expect(revoked).toHaveLength(many);
      expect(revoked).toEqual(expect.arrayContaining(["s0000", "s0003", "s0006"]));
      expect((await store.load("after")).record?.revokedAt).toBeNull();
      const { entries } = await store.changes(undefined, hour);
      expect(new Set(entries.map(({ session }) => session)).size).toBe(many);
      expect(entries).toHaveLength(many);
    });

    it("does not resolve for a second, concurrent call before all are in the change log", async () => {
      const { store, held, heldStore } = await begun({ ...owner, except: null });
      const { revoked } = await store.revokeAll({ ...owner, except: null }, "theft");
      expect((await store.changes(undefined, hour)).entries).toHaveLength(many);
      held.release();
      expect([...(await heldStore).revoked, ...revoked]).toHaveLength(many);
    });

    it("is completed by prune if its server is gone", async () => {
      const { client, prefix, store } = await begun({ ...owner, except: null });
      await store.prune(1);
      const { entries } = await store.changes(undefined, hour);
      expect(new Set(entries.map(({ session }) => session)).size).toBe(many);
      expect(await indexesOf(client, prefix)).toEqual({});
      // The set of ended ids, which no server will read any more, expires soon.
      expect(await client.pTTL(`{${prefix}}:revoking:1`)).toBeGreaterThan(0);
    });
  },
);

describe.skipIf(redisMissing)("redisStore with concurrent servers", () => {
  it("ends a session for the first of two calls, and the second resolves when it is in the log", async () => {
    const { store, held, heldStore } = await begun(
      { ...owners["a tenant"], except: null },
      "carol",
    );
    const carol = { userId: "carol", tenantId: null, except: null };
    expect((await store.revokeAll(carol, "theft")).revoked).toEqual([]);
    const { entries } = await store.changes(undefined, hour);
    expect(entries).toContainEqual(
      expect.objectContaining({ session: "of-carol", endedBy: "revoked" }),
    );
    held.release();
    expect((await heldStore).revoked).toContain("of-carol");
  });

  it("leaves no session of a user behind when sign-ins and revokeAll run concurrently", async () => {
    const { store } = await opened();
    const other = await opened(prefixOf(store));
    const owner = { userId: "alice", tenantId: null };
    const ids = await insertMany(store, 600);
    const done = await Promise.all(
      Array.from({ length: 200 }, async (_, each) => {
        const { revoked } = await (each % 2 === 0
          ? other.store.revokeAll({ ...owner, except: null }, "revoked")
          : insertNew(store, { id: `x${each}` }).then(() => ({ revoked: [] })));
        return revoked;
      }),
    );
    done.push((await store.revokeAll({ ...owner, except: null }, "revoked")).revoked);
    const ended = done.flat();
    expect(ended).toHaveLength(700);
    expect(new Set(ended).size).toBe(700);
    expect(ended).toEqual(expect.arrayContaining(ids));
    expect(await listed(store, owner)).toEqual([]);
  });

  it("never exceeds the limit of a user's sessions, however many sign in concurrently", async () => {
    const { store } = await opened();
    const other = await opened(prefixOf(store));
    const owner = { userId: "alice", tenantId: null };
    const signIn = (id: string, on: SessionStore, overflow: SessionLimit["overflow"]) =>
      on.insert(newSession({ id, limit: limitOf(3, overflow) }));
    const rejected = await Promise.all(
      Array.from({ length: 40 }, (_, each) =>
        signIn(`r${each}`, each % 2 === 0 ? store : other.store, "reject"),
      ),
    );
    expect(rejected.filter(({ record }) => record !== undefined)).toHaveLength(3);
    let wakes = 0;
    store.onChange(() => {
      wakes += 1;
    });
    await Promise.all(
      Array.from({ length: 40 }, (_, each) =>
        signIn(`e${each}`, each % 2 === 0 ? store : other.store, "evict"),
      ),
    );
    expect(await listed(store, owner)).toHaveLength(3);
    expect((await store.changes(undefined, hour)).entries).toHaveLength(40);
    expect(wakes).toBeGreaterThanOrEqual(20);
  });
});

function limitOf(max: number, overflow: SessionLimit["overflow"]): SessionLimit {
  return { max, overflow };
}

const prefixesOf = new WeakMap<SessionStore, string>();

function prefixOf(store: SessionStore): string {
  return prefixesOf.get(store) ?? "";
}

async function opened(prefix = `owners-${prefixes++}`) {
  const client = await redis.connect();
  const store = redisStore(client, { prefix });
  await store.open({ clock });
  prefixesOf.set(store, prefix);
  return { client, prefix, store };
}

/** Begins a `revokeAll` of many sessions, and holds it after its first step. */
async function begun(scope: Parameters<SessionStore["revokeAll"]>[0], another?: string) {
  const { client, prefix, store } = await opened();
  await insertMany(store, many, { tenantId: "acme" });
  if (another !== undefined) {
    await insertNew(store, { id: `of-${another}`, userId: another, tenantId: "acme" });
  }
  const held = holding(await redis.connect());
  const holder = redisStore(held.client, { prefix });
  await holder.open({ clock });
  held.holdAfter(1);
  const heldStore = holder.revokeAll(scope, "revoked");
  await held.reached;
  return { client, prefix, store, held, heldStore };
}

/** Wraps a client so that its scripts can be held back. */
function holding(client: TestRedisClient) {
  let left = Number.POSITIVE_INFINITY;
  let calls = 0;
  let reach = (): void => {};
  let release = (): void => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const evalSha: RedisClient["evalSha"] = async (sha, given) => {
    if (left <= 0) {
      reach();
      await released;
    }
    left -= 1;
    calls += 1;
    return client.evalSha(sha, given);
  };
  return {
    client: { evalSha, eval: (script, given) => client.eval(script, given) } as RedisClient,
    calls: () => calls,
    holdAfter(more: number) {
      left = more;
    },
    reached,
    release: () => release(),
  };
}

async function insertMany(
  store: SessionStore,
  count: number,
  given: Partial<NewSession> = {},
): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, each) => `s${String(each).padStart(4, "0")}`);
  await Promise.all(ids.map((id) => insertNew(store, { id, ...given })));
  return ids;
}

async function listed(
  store: SessionStore,
  owner: Parameters<SessionStore["list"]>[0],
): Promise<string[]> {
  const ids: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await store.list(owner, { cursor, limit: 7 });
    ids.push(...page.records.map(({ id }) => id));
    cursor = page.cursor;
  } while (cursor !== undefined);
  return ids;
}

/** Returns how many ids each sorted set of a store has. */
async function indexesOf(client: TestRedisClient, prefix: string) {
  const sizes: Record<string, number> = {};
  for (const key of await client.keys(`{${prefix}}:*`)) {
    if ((await client.type(key)) === "zset" && !key.includes(":revoking:")) {
      sizes[key.slice(prefix.length + 3)] = await client.zCard(key);
    }
  }
  return sizes;
}
