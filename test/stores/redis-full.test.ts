import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type RedisClient, redisStore } from "../../src/stores/redis/index.ts";
import { advance, insertNew, newSession } from "../../src/testing/store-contract/fixture.ts";
import { redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import { stillClock } from "./still-clock.ts";

const clock = { ...stillClock(), after: () => () => {} };
const everything = { cursor: undefined, limit: 100 };
const alice = { userId: "alice", tenantId: null };
let redis: TestRedis;

async function opened(prefix: string) {
  const client = await redis.connect();
  const store = redisStore(client, { prefix });
  await store.open({ clock });
  return { client, store };
}

describe.skipIf(redisMissing)(`feat:O9 a Redis with limits of memory ${redisMissing ?? ""}`, () => {
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  it("when memory is full, refuses sign-ins, but refreshes, revokes, sweeps and starts servers", async () => {
    const { client, store } = await opened("full");
    for (let i = 0; i < 600; i++) {
      await insertNew(store, { id: `many-${i}`, userId: "many" });
    }
    await insertNew(store);
    await insertNew(store, { id: "s2" });
    const { cursor } = await store.changes(undefined, 1_000_000);
    await client.configSet("maxmemory", "1");
    try {
      await expect(insertNew(store, { id: "s3" })).rejects.toThrow(/OOM/);
      await expect(store.update({ id: "s1", version: 0, data: {} })).rejects.toThrow(/OOM/);
      expect((await store.refresh(advance(0))).record?.generation).toBe(1);
      expect(await store.confirm([{ session: "s1", generation: 1, settle: 0 }])).toEqual([true]);
      expect((await store.revoke("s1", "revoked")).revoked).toBe(true);
      const many = { userId: "many", tenantId: null, except: null };
      expect((await store.revokeAll(many, "revoked")).revoked).toHaveLength(600);
      expect(await store.lease("sweep", "a", 1000)).toBe(true);
      expect(await store.prune(500)).toBe(0);
      // A server that starts now learns of all that.
      const other = redisStore(await redis.connect(), { prefix: "full" });
      await other.open({ clock });
      await other.recordSecrets([{ id: "abcdefgh", issuer: "https://a.example" }]);
      expect((await other.changes(cursor, 0)).entries).toHaveLength(601);
      expect((await other.list(alice, everything)).records.map(({ id }) => id)).toEqual(["s2"]);
    } finally {
      await client.configSet("maxmemory", "0");
    }
  });

  it("works with a server that does not know flags of scripts", async () => {
    const client = await redis.connect();
    const older: RedisClient = {
      eval: async (script, given) => {
        if (script.startsWith("#!")) {
          throw new Error("ERR Error compiling script (new function): user_script:1: near '#'");
        }
        return client.eval(script, given);
      },
      evalSha: (sha, given) => client.evalSha(sha, given),
    };
    const store = redisStore(older, { prefix: "older" });
    await store.open({ clock });
    await insertNew(store);
    expect((await store.revoke("s1", "revoked")).revoked).toBe(true);
  });

  it("does not take an outage at the start for an older server", async () => {
    const down = async () => {
      throw new Error("Socket closed unexpectedly");
    };
    const store = redisStore({ eval: down, evalSha: down }, { prefix: "down" });
    await expect(store.open({ clock })).rejects.toThrow("Socket closed unexpectedly");
  });

  it("keeps a session with a long user agent compact, and reads what older servers wrote", async () => {
    const { client, store } = await opened("compact");
    const userAgent = `Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Chrome/126.0.0.0 ${"é😀".repeat(40)}`;
    const device = { userAgent, ip: "2001:db8:85a3:8d3:1319:8a2e:370:7348" };
    const { record } = await insertNew(store, { device });
    expect(record.device).toEqual(device);
    expect((await store.load("s1")).record?.device).toEqual(device);
    expect((await store.list(alice, everything)).records[0]?.device).toEqual(device);
    const key = "{compact}:session:s1";
    expect(await client.sendCommand(["OBJECT", "ENCODING", key])).not.toBe("hashtable");
    // Older servers know the field "device" alone, and need JSON there.
    expect(await client.hGet(key, "device")).toBe("{}");
    await insertNew(store, { id: "s2", device: { label: "Phone" } });
    await client.hSet("{compact}:session:s2", "device", JSON.stringify(device));
    expect((await store.load("s2")).record?.device).toEqual(device);
  });

  it("the first sign-in after a limit was set ends very many sessions in steps", async () => {
    const { client, store } = await opened("limit");
    const many = 3_000;
    for (let i = 0; i < many; i++) {
      await insertNew(store, { id: `s-${i}`, tenantId: i % 2 === 0 ? "acme" : null });
    }
    const { cursor } = await store.changes(undefined, 1_000_000);
    const limit = { max: 2, overflow: "evict" } as const;
    await client.configResetStat();
    await client.configSet("slowlog-log-slower-than", "0");
    // Sessions of the same millisecond are in the order of their ids.
    const inserted = await store.insert(newSession({ id: "z-new", limit }));
    expect(inserted.record?.id).toBe("z-new");
    const evicted = "evicted" in inserted ? inserted.evicted : [];
    expect(new Set(evicted).size).toBe(many / 2 - 1);
    const { records } = await store.list(alice, { cursor: undefined, limit: 3_000 });
    // Those in the tenant stay, and the newest of the others.
    expect(records).toHaveLength(many / 2 + 2);
    expect(records.map(({ id }) => id)).toContain(`s-${many - 1}`);
    const { entries } = await store.changes(cursor, 0);
    expect(entries.map(({ session }) => session).sort()).toEqual([...evicted].sort());
    const scripts = /cmdstat_evalsha:calls=(\d+)/.exec(await client.info("commandstats"));
    expect(Number(scripts?.[1])).toBeGreaterThan(3);
    const again = await store.insert(newSession({ id: "zz-newer", limit }));
    expect("evicted" in again && again.evicted).toEqual([`s-${many - 1}`]);
  });
});
