import { rename } from "node:fs/promises";
import { createClient } from "redis";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { type RedisClient, redisStore } from "../../src/stores/redis/index.ts";
import { redisKeys } from "../../src/stores/redis/rows.ts";
import { RedisScripts } from "../../src/stores/redis/scripts.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import {
  advance,
  atOnce,
  insertNew,
  newSession,
} from "../../src/testing/store-contract/fixture.ts";
import { describeDurableSessionStore } from "../../src/testing/store-contract/index.ts";
import { reconnected, redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import { describePruning } from "./pruning.ts";
import { createRedis } from "./redis-fixture.ts";
import { stillClock } from "./still-clock.ts";

let redis: TestRedis;
const clock = { ...stillClock(), after: () => () => {} };

/** Creates and opens a store as in production, with the server's clock. */
async function opened(prefix: string) {
  const client = await redis.connect();
  const store = redisStore(client, { prefix });
  await store.open({ clock });
  return { client, store };
}

describe.skipIf(redisMissing)(`feat:O3 redisStore ${redisMissing ?? ""}`, () => {
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  describeDurableSessionStore({ describe, it }, "redisStore", () => createRedis(redis));
  describePruning("redisStore", () => createRedis(redis), { expiresLeases: true });

  it("uses the clock of the server, and lets Redis drop sessions 24 h after their end", async () => {
    const { client, store } = await opened("time");
    const key = "{time}:session:s1";
    const day = 24 * 3_600_000;
    const before = Date.now();
    const { record, now } = await insertNew(store);
    expect(now).toBeGreaterThanOrEqual(before);
    expect(now).toBeLessThanOrEqual(Date.now());
    expect(await client.pExpireTime(key)).toBe(record.idleExpiresAt + day);
    const refreshed = await store.refresh({ ...advance(0), idle: 10 });
    expect(await client.pExpireTime(key)).toBe(refreshed.now + 10 + day);
    const revoked = await store.revoke("s1", "revoked");
    expect(await client.pExpireTime(key)).toBe(revoked.now + day);
  });

  it("keeps all keys under one hash tag, and separates stores with different prefixes", async () => {
    const { client, store } = await opened("app.one:x");
    await store.insert(newSession());
    await store.insert(newSession({ id: "s2", replaces: "s1", tenantId: "acme" }));
    await store.addSigningKey({ slot: 0, kid: "k", alg: "ES256", publicJwk: "", privateJwk: "" });
    expect((await client.keys("*app.one*")).sort()).toEqual([
      "{app.one:x}:ends",
      "{app.one:x}:keys",
      "{app.one:x}:log",
      "{app.one:x}:meta",
      "{app.one:x}:session:s1",
      "{app.one:x}:session:s2",
      "{app.one:x}:tenant:acme",
      "{app.one:x}:user:alice",
    ]);
    const other = await opened("app.one:y");
    expect((await other.store.load("s1")).record).toBeUndefined();
  });

  it("loads its scripts again after SCRIPT FLUSH, also for 64 concurrent calls", async () => {
    const { client, store } = await opened("flushed");
    await store.insert(newSession());
    await store.refresh(advance(0));
    await client.scriptFlush();
    const done = await atOnce(() => store.refresh(advance(1)));
    expect(done.filter(({ record }) => record !== undefined)).toHaveLength(1);
  });

  it("rejects a call when its connection is killed, and continues on the next one", async () => {
    const { client, store } = await opened("killed");
    const other = await redis.connect();
    await store.insert(newSession());
    const id = String(await client.clientId());
    // The call and the kill reach the server together, so that the reply is never sent.
    redis.pause();
    const done = Promise.allSettled([
      store.revoke("s1", "revoked"),
      other.sendCommand(["CLIENT", "KILL", "ID", id]),
    ]);
    await new Promise((resolve) => setTimeout(resolve, 50));
    redis.resume();
    expect((await done).map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    await reconnected(client);
    // The change was made completely or not at all.
    const { record } = await store.load("s1");
    const { entries } = await store.changes(undefined, 10_000);
    expect(entries).toHaveLength(record?.revokedAt === null ? 0 : 1);
  });

  it("rejects a call without a reply after 5 s", async () => {
    const waits: number[] = [];
    const after = (ms: number, action: () => void) => {
      waits.push(ms);
      queueMicrotask(action);
      return () => {};
    };
    const hanging: RedisClient = { eval: never, evalSha: never };
    const open = redisStore(hanging).open({ clock: { ...clock, after } });
    await expect(open).rejects.toThrow("did not answer within 5 s");
    expect(waits).toEqual([5_000]);
  });

  it("uses the methods of its client also if somebody has replaced them", async () => {
    const client = await redis.connect();
    const evalSha = vi.spyOn(client, "evalSha");
    const store = redisStore(client, { prefix: "spied" });
    await store.open({ clock });
    evalSha.mockClear();
    await store.load("s1");
    expect(evalSha).toHaveBeenCalledOnce();
  });

  it("takes back a call that its client could not send within 5 s", async () => {
    const server = await startRedis();
    onTestFinished(() => server.stop());
    // With a queue for the time without a connection, which is the default of node-redis.
    const client = createClient({
      socket: { path: server.socket, tls: false, reconnectStrategy: () => 5 },
    });
    client.on("error", () => {});
    await client.connect();
    onTestFinished(() => client.destroy());
    const admin = await server.connect();
    const store = redisStore(client);
    const time = createFakeClock(Date.now());
    await store.open({ clock: time });
    await store.insert(newSession());
    // The server knows the script, so that the first command would change something.
    await expect(store.revoke("s0", "revoked")).resolves.toMatchObject({ revoked: false });
    const id = String(await client.clientId());
    await rename(server.socket, `${server.socket}.away`);
    await admin.sendCommand(["CLIENT", "KILL", "ID", id]);
    await vi.waitFor(() => expect(client.isReady).toBe(false));
    const revoking = store.revoke("s1", "revoked");
    time.advance("5s");
    await expect(revoking).rejects.toThrow("did not answer within 5 s");
    await rename(`${server.socket}.away`, server.socket);
    // Commands that are still in the queue are sent before this one.
    await client.ping();
    expect((await store.load("s1")).record).toMatchObject({ id: "s1", revokedAt: null });
  });

  it("rejects calls of the same moment together, and later ones later", async () => {
    const hanging: RedisClient = {
      eval: async () => [],
      evalSha: () => new Promise(() => {}),
    };
    const time = createFakeClock(0);
    const scripts = new RedisScripts(hanging, {
      keys: redisKeys("hanging"),
      clock: time,
      time: "",
    });
    const settled: string[] = [];
    const call = (name: string) => scripts.run("load", []).catch(() => settled.push(name));
    const all = [call("first"), call("second")];
    time.advance("50ms");
    all.push(call("third"));
    time.advance("100ms");
    all.push(call("later"));
    time.advance("4850ms");
    await Promise.all(all.slice(0, 3));
    expect(settled).toEqual(["first", "second", "third"]);
    time.advance("150ms");
    await all[3];
    expect(settled).toEqual(["first", "second", "third", "later"]);
  });

  it("rejects every call before open(), and never closes the client", async () => {
    const client = await redis.connect();
    const store = redisStore(client, { prefix: "closed" });
    await expect(store.load("s1")).rejects.toThrow("the store is not open");
    await store.open({ clock });
    await store.close();
    expect(await client.ping()).toBe("PONG");
  });

  it("changes nothing if a change cannot be made completely", async () => {
    const { client, store } = await opened("broken");
    await store.insert(newSession());
    await client.set("{broken}:log", "of another type");
    const before = await store.load("s1");
    await expect(store.revoke("s1", "revoked")).rejects.toThrow("WRONGTYPE");
    await expect(store.insert(newSession({ id: "s2", replaces: "s1" }))).rejects.toThrow(
      "WRONGTYPE",
    );
    expect((await store.load("s1")).record).toEqual(before.record);
    expect((await store.load("s2")).record).toBeUndefined();
    const all = { userId: "alice", tenantId: null, except: null };
    await expect(store.revokeAll(all, "revoked")).rejects.toThrow("WRONGTYPE");
    await expect(store.update({ id: "s1", version: 0, claims: {} })).rejects.toThrow("WRONGTYPE");
    expect((await store.load("s1")).record).toEqual(before.record);
    await client.del("{broken}:log");
    await client.set("{broken}:user:bob", "of another type");
    const onTop = newSession({ id: "s2", userId: "bob", replaces: "s1" });
    await expect(store.insert(onTop)).rejects.toThrow("WRONGTYPE");
    expect((await store.load("s1")).record).toEqual(before.record);
    expect((await store.changes(undefined, 10_000)).entries).toEqual([]);
  });

  it("reads a change log of any length", async () => {
    const { client, store } = await opened("long");
    const start = await store.changes(undefined, 0);
    const many = `for i = 1, 12000 do redis.call('XADD', KEYS[1], '1-' .. i,
      'session', 's' .. i, 'endedBy', 'theft', 'at', '1') end
      redis.call('HSET', KEYS[2], 'ms', '1', 'seq', '12000')`;
    await client.eval(many, { keys: ["{long}:log", "{long}:meta"], arguments: [] });
    const read = await store.changes(start.cursor, 0);
    expect(new Set(read.entries.map(({ session }) => session)).size).toBe(12_000);
    expect((await store.changes(read.cursor, 0)).entries).toEqual([]);
  });
});

describe.skipIf(redisMissing)("redisStore refuses", () => {
  it.each([undefined, {}, "redis://localhost"])("%j as a client", (client) => {
    expect(() => redisStore(client as never)).toThrow("package redis");
  });

  it.each(["", "{a}", "a b", "x".repeat(65), 1 as unknown as string])("the prefix %j", (prefix) => {
    const client: RedisClient = { eval: never, evalSha: never };
    expect(() => redisStore(client, { prefix })).toThrow(TypeError);
  });

  it("a server that evicts keys or hides its policy, and data of a newer version; opens when that is fixed", async () => {
    const server = await startRedis("--maxmemory-policy", "volatile-lru");
    onTestFinished(() => server.stop());
    const client = await server.connect();
    const store = redisStore(client);
    await expect(store.open({ clock })).rejects.toThrow(
      /maxmemory-policy volatile-lru.*set maxmemory-policy noeviction/,
    );
    await client.configSet("maxmemory-policy", "noeviction");
    await client.sendCommand(["ACL", "SETUSER", "default", "-info"]);
    await expect(store.open({ clock })).rejects.toThrow("ACL SETUSER <user> +info");
    expect(await client.keys("*")).toEqual([]);
    await client.sendCommand(["ACL", "SETUSER", "default", "+info"]);
    await client.hSet("{rpc-session}:meta", "schema", "3");
    await expect(store.open({ clock })).rejects.toThrow(/newer rpc-session \(schema 3/);
    await client.del("{rpc-session}:meta");
    await store.open({ clock });
  });

  it("a change as a whole when the memory is full", async () => {
    const server = await startRedis();
    onTestFinished(() => server.stop());
    const client = await server.connect();
    const store = redisStore(client);
    await store.open({ clock });
    await store.insert(newSession());
    await client.configSet("maxmemory", "1");
    const replacing = newSession({ id: "s2", replaces: "s1" });
    await expect(store.insert(replacing)).rejects.toThrow("OOM");
    await client.configSet("maxmemory", "0");
    expect((await store.load("s1")).record?.revokedAt).toBeNull();
    expect((await store.changes(undefined, 10_000)).entries).toEqual([]);
  });
});

function never(): Promise<never> {
  return new Promise(() => {});
}
