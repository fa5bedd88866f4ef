import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SessionStore } from "../../src/engine/store.ts";
import type { RedisClient } from "../../src/stores/redis/index.ts";
import { confirmOne, insertNew } from "../../src/testing/store-contract/fixture.ts";
import {
  redisMissing,
  startRedis,
  type TestRedis,
  type TestRedisClient,
} from "../servers/redis.ts";
import { redisWithFakeClock } from "./redis-fixture.ts";

const hour = 3_600_000;
const day = 24 * hour;
/** A number of sessions that takes more than two steps of the upgrade. */
const many = 1_200;
let redis: TestRedis;

describe.skipIf(redisMissing)(`redisStore with data of schema 1 ${redisMissing ?? ""}`, () => {
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  it("finds every session that has not ended, with unchanged data", async () => {
    const { store, old, clock, client, prefix } = await start();
    const ids = await old.insertMany(many);
    await old.insert("other", { userId: "bob", tenantId: "acme" });
    await old.insert("ended", { revokedAt: String(clock.now()), endedBy: "signOut" });
    await store.open({ clock });
    expect(await client.zCard(`{${prefix}}:user:alice`)).toBe(many);
    expect((await store.load("other")).record).toEqual({
      ...{ id: "other", userId: "bob", tenantId: "acme", transport: "cookie", salt: "c2FsdA" },
      ...{ rootHash: null, lastSalted: null, formerSecretId: null },
      ...{ secretId: "secret-a", generation: 3, claimsVersion: 0, version: 0, endedBy: null },
      ...{ claims: { role: "admin" }, data: { cart: [] }, device: {} },
      ...{ accessLife: null, idleLife: null, lineage: null, confirmedAt: null, revokedAt: null },
      ...{ externalId: null, authentication: null, boundKey: null },
      ...{ rotatedAt: clock.now(), createdAt: clock.now(), authTime: clock.now() },
      ...{ sentAt: clock.now(), prolonged: 0, lastSeenAt: clock.now() },
      ...{ idleExpiresAt: clock.now() + 2 * day, expiresAt: clock.now() + 9 * day },
    });
    // Older servers may still be running, and cannot read tokens of format 2.
    expect(await store.tokenFormat?.()).toBe(1);
    expect(await endAll(store, { tenantId: "acme" })).toEqual(["other"]);
    expect((await endAll(store, { userId: "alice" })).sort()).toEqual(ids);
  });

  it("upgrades correctly if several servers open it concurrently and one of them dies midway", async () => {
    const { newStore, on, old, clock, client, meta } = await start();
    const ids = await old.insertMany(many);
    on.failAfter(2);
    await expect(newStore().open({ clock })).rejects.toThrow("killed");
    expect(await client.hGet(meta, "schema")).toBe("1");
    on.failAfter(Number.POSITIVE_INFINITY);
    const [store, ...others] = [newStore(), newStore(), newStore()] as const;
    await Promise.all([store, ...others].map((each) => each.open({ clock })));
    expect(await client.hGetAll(meta)).toMatchObject({ schema: "2", compatibleFrom: "2" });
    expect((await endAll(store, { userId: "alice" })).sort()).toEqual(ids);
  });

  it("does not scan all sessions again when it is opened again", async () => {
    const { newStore, on, old, clock } = await start();
    await old.insertMany(many);
    await newStore().open({ clock });
    const before = on.calls();
    await newStore().open({ clock });
    expect(on.calls() - before).toBe(1);
  });

  it("drops the ids of upgraded sessions together with the sessions", async () => {
    const { store, old, clock, client, prefix } = await start();
    await old.insertMany(8);
    await store.open({ clock });
    await store.prune(5);
    expect(await client.zCard(`{${prefix}}:user:alice`)).toBe(8);
    clock.advance(`${3 * day + 1}ms`);
    await client.del(`{${prefix}}:session:s0001`);
    await store.prune(5);
    expect(await client.exists([`{${prefix}}:user:alice`, `{${prefix}}:ends`])).toBe(0);
  });

  it("finds sessions that older servers create after the upgrade, within a day and later", async () => {
    const { store, old, clock, client, meta } = await start();
    await store.open({ clock });
    await old.insert("o1", {});
    expect(await endAll(store, { userId: "alice" })).toEqual(["o1"]);
    await old.insert("o2", {});
    clock.advance(`${day - 1}ms`);
    await store.prune(5);
    expect(await client.hExists(meta, "mixedUntil")).toBe(1);
    clock.advance("1ms");
    await store.prune(5);
    expect(await client.hExists(meta, "mixedUntil")).toBe(0);
    expect(await endAll(store, { userId: "alice" })).toEqual(["o2"]);
  });

  it("settles a generation from when an older server minted it, whatever the row says of the former one", async () => {
    const { store, clock, client, prefix } = await start();
    await store.open({ clock });
    await insertNew(store);
    clock.advance("50ms");
    await store.refresh({ kind: "resend", id: "s1", generation: 0, idle: day, prolonged: 50 });
    clock.advance("50ms");
    const rotatedAt = clock.now();
    // An older server advances: it knows of no sentAt.
    await client.hSet(`{${prefix}}:session:s1`, { generation: "1", rotatedAt });
    expect((await store.load("s1")).record).toMatchObject({ sentAt: rotatedAt, prolonged: 0 });
    clock.advance("99ms");
    expect(await confirmOne(store, "s1", 1, 100)).toBe(false);
    clock.advance("1ms");
    expect(await confirmOne(store, "s1", 1, 100)).toBe(true);
  });

  it("feat:A14 finds a session by its external id while older servers refresh, end and prune", async () => {
    const { store, clock, client, prefix } = await start();
    await store.open({ clock });
    const externalId = { issuer: "https://login.example.com", sid: "sid-1", sub: "sub-1" };
    const life = { idle: 2 * day, absolute: 9 * day };
    await insertNew(store, { externalId, ...life });
    await insertNew(store, { id: "s2", externalId, ...life });
    const [row, index] = [
      `{${prefix}}:session:s1`,
      `{${prefix}}:sid:https://login.example.com sid-1`,
    ];
    // Within the day of the roll-out an older server refreshes: it does not know of the index.
    clock.advance(`${day}ms`);
    await client.hSet(row, { generation: "1", idleExpiresAt: clock.now() + 2 * day });
    await client.pExpireAt(row, clock.now() + 3 * day);
    expect(await client.pExpireTime(index)).toBeGreaterThanOrEqual(clock.now() + 2 * day);
    // It ends the other one.
    await client.hSet(`{${prefix}}:session:s2`, { revokedAt: clock.now(), endedBy: "signOut" });
    await client.zRem(`{${prefix}}:ends`, '["s2","alice"]');
    await client.zRem(`{${prefix}}:user:alice`, "s2");
    clock.advance(`${2 * day - 1}ms`);
    const bySub = { external: { by: "sub", issuer: externalId.issuer, id: "sub-1" } } as const;
    expect((await store.revokeAll(bySub, "externalLogout")).revoked).toEqual(["s1"]);
  });

  it("feat:O8 works, and opens again, beside data of a newer version that says so, and refuses other data", async () => {
    const { newStore, client, clock, meta } = await start();
    const store = newStore();
    await client.del(meta);
    await store.open({ clock });
    await insertNew(store);
    expect(await client.hGetAll(meta)).toMatchObject({ schema: "2", compatibleFrom: "2" });
    // A newer version upgrades the data.
    await client.hSet(meta, { schema: "3", compatibleFrom: "2" });
    const restarted = newStore();
    await restarted.open({ clock });
    expect((await restarted.load("s1")).record?.userId).toBe("alice");
    expect(await client.hGet(meta, "schema")).toBe("3");
    // And again, in a way that this version does not know.
    await client.hSet(meta, { schema: "4", compatibleFrom: "3" });
    await expect(newStore().open({ clock })).rejects.toThrow(
      "redisStore: these sessions were written by a newer rpc-session (schema 4, this version supports 2), and they work only with versions that know schema 3; upgrade this server",
    );
    // Versions of before recorded no other schema than their own.
    await client.hDel(meta, "compatibleFrom");
    await expect(newStore().open({ clock })).rejects.toThrow("versions that know schema 4;");
  });

  it("does not scan data that only current servers wrote", async () => {
    const { newStore, on, client, clock, meta } = await start();
    await client.del(meta);
    const store = newStore();
    await store.open({ clock });
    await insertNew(store);
    const before = on.calls();
    expect(await endAll(store, { userId: "alice" })).toEqual(["s1"]);
    expect(on.calls() - before).toBe(1);
  });
});

/** Creates a store over an empty Redis that a server of schema 1 has opened. */
async function start() {
  const client = await redis.connect();
  const on = breakable(client);
  const { newStore, clock, prefix } = await redisWithFakeClock(client, { on: on.client });
  const meta = `{${prefix}}:meta`;
  await client.hSet(meta, "schema", "1");
  const insert = async (id: string, given: Readonly<Record<string, string>>) => {
    const [key, now] = [`{${prefix}}:session:${id}`, clock.now()];
    await client.hSet(key, {
      ...{ generation: "3", claimsVersion: "0", version: "0" },
      ...{ rotatedAt: now, createdAt: now, authTime: now, lastSeenAt: now },
      ...{ idleExpiresAt: now + 2 * day, expiresAt: now + 9 * day },
      ...{ id, userId: "alice", transport: "cookie", salt: "c2FsdA", secretId: "secret-a" },
      ...{ claims: '{"role":"admin"}', data: '{"cart":[]}', device: "{}" },
      ...given,
    });
    await client.pExpireAt(key, now + 3 * day);
  };
  const insertMany = async (count: number): Promise<string[]> => {
    const ids = Array.from({ length: count }, (_, each) => `s${String(each).padStart(4, "0")}`);
    await Promise.all(ids.map((id) => insert(id, {})));
    return ids;
  };
  return {
    store: newStore(),
    newStore,
    on,
    clock,
    client,
    prefix,
    meta,
    old: { insert, insertMany },
  };
}

async function endAll(
  store: SessionStore,
  owner: { readonly userId?: string; readonly tenantId?: string },
): Promise<string[]> {
  const scope = { userId: null, tenantId: null, ...owner, except: null };
  return [...(await store.revokeAll(scope, "revoked")).revoked];
}

/** Wraps a client so that it counts its scripts and can fail on demand. */
function breakable(client: TestRedisClient) {
  let [left, calls] = [Number.POSITIVE_INFINITY, 0];
  const evalSha: RedisClient["evalSha"] = async (sha, given) => {
    if (left <= 0) {
      throw new Error("killed");
    }
    left -= 1;
    calls += 1;
    return client.evalSha(sha, given);
  };
  return {
    client: { evalSha, eval: (script, given) => client.eval(script, given) } as RedisClient,
    calls: () => calls,
    failAfter(more: number) {
      left = more;
    },
  };
}
