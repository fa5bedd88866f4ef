import { createClient } from "redis";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { redisStore } from "../../src/stores/redis/index.ts";
import { startBlackHole } from "../servers/black-hole.ts";
import { redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import {
  ask,
  bound,
  issue,
  lastAccepted,
  promptly,
  pushed,
  recovered,
  slack,
  startServer,
} from "./servers.ts";

describe.skipIf(redisMissing)("sec:V01 the revocation log on Redis", () => {
  let redis: TestRedis;
  beforeEach(async () => {
    redis = await startRedis();
  });
  afterEach(() => redis.stop());

  async function twoServers(maxStaleness: `${number}ms` = `${bound}ms`) {
    const clients = [await redis.connect(), await redis.connect()] as const;
    const here = await startServer(redisStore(clients[0]), { maxStaleness });
    const there = await startServer(redisStore(clients[1]), { maxStaleness });
    return {
      here,
      there,
      admin: clients[0],
      async [Symbol.asyncDispose]() {
        await Promise.all([here.close(), there.close()]);
      },
    };
  }

  it("pushes a revocation to other servers, long before their next poll", async () => {
    await using world = await twoServers("60000ms");
    const { here, there } = world;
    await pushed(here, there);
    const times: number[] = [];
    // How fast it is: npm run bench:revocation.
    for (let i = 0; i < 25; i++) {
      const issued = await issue(here);
      expect(await ask(there, issued)).toBe("accepted");
      await here.revoke(issued.id);
      times.push(await lastAccepted(there, issued));
    }
    expect(Math.max(...times)).toBeLessThan(promptly);
  });

  it("pushes changes of claims and bulk revocations too", async () => {
    await using world = await twoServers("60000ms");
    const { here, there } = world;
    await pushed(here, there);
    const all = await Promise.all(Array.from({ length: 20 }, () => issue(here)));
    await here.revokeAll({ userId: "alice" });
    for (const issued of all) {
      expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    }
    const { session } = await here.issue({ userId: "bob" });
    const known = there.health().changes;
    await here.updateClaims(session.id, { role: "admin" });
    await expect.poll(() => there.health().changes).toBe(known + 1);
  });

  it("replaces a subscriber that the server closes, and reads the missed entries", async () => {
    await using world = await twoServers("60000ms");
    const { admin, here, there } = world;
    await pushed(here, there);
    const issued = await issue(here);
    const seen = new Set<string>();
    const watching = setInterval(() => seen.add(there.health().push), 5);
    await admin.sendCommand(["CLIENT", "KILL", "TYPE", "pubsub"]);
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    await expect.poll(() => seen).toContain("disconnected");
    clearInterval(watching);
    await pushed(here, there);
  });

  it("polls in time if the Redis user may not use channels", async () => {
    const admin = await redis.connect();
    await admin.sendCommand(["ACL", "SETUSER", "default", "resetchannels"]);
    await using world = await twoServers();
    const { here, there } = world;
    const issued = await issue(here);
    expect(await ask(there, issued)).toBe("accepted");
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(bound + slack);
    expect(there.health().push).toBe("disconnected");
  });

  it("polls in time if the client is not from node-redis", async () => {
    await using world = await twoServers();
    const client = await redis.connect();
    const plain = await startServer(
      redisStore({
        eval: (script, given) => client.eval(script, given),
        evalSha: (sha, given) => client.evalSha(sha, given),
      }),
    );
    const issued = await issue(world.here);
    await world.here.revoke(issued.id);
    expect(await lastAccepted(plain, issued)).toBeLessThan(bound + slack);
    expect(plain.health().push).toBe("polling");
    await plain.close();
  });

  it("accepts no revoked session while the network is down, and recovers by itself", async () => {
    const hole = await startBlackHole({ path: redis.socket });
    const client = createClient({
      socket: { host: "127.0.0.1", port: hole.port, reconnectStrategy: () => 20 },
      disableOfflineQueue: true,
    });
    client.on("error", () => {});
    await client.connect();
    await using world = await twoServers();
    const { here } = world;
    const there = await startServer(redisStore(client));
    await pushed(there);
    const [live, ended] = [await issue(here), await issue(here)];
    expect(await ask(there, live)).toBe("accepted");
    hole.open("all");
    await here.revoke(ended.id);
    while (there.health().status !== "stale") {
      await ask(there, ended);
    }
    const [a, b] = await Promise.all([ask(there, ended), ask(there, live)]);
    expect([a, b]).toEqual(["AUTH_UNAVAILABLE", "AUTH_UNAVAILABLE"]);
    hole.close();
    await recovered(there, live);
    expect(await ask(there, ended)).toBe("SESSION_REVOKED");
    expect(there.events.map(({ type }) => type)).toContain("feedStale");
    expect(there.events.map(({ type }) => type)).toContain("feedRecovered");
    await pushed(there);
    await there.close();
    client.destroy();
    await hole[Symbol.asyncDispose]();
  });

  it("accepts no revoked session while the Redis server is suspended, and recovers by itself", async () => {
    await using world = await twoServers();
    const { here, there } = world;
    const live = await issue(here);
    expect(await ask(there, live)).toBe("accepted");
    redis.pause();
    for (const each of [here, there]) {
      await expect.poll(() => each.health().status).toBe("stale");
    }
    const [a, b] = await Promise.all([ask(there, live), ask(here, live)]);
    expect([a, b]).toEqual(["AUTH_UNAVAILABLE", "AUTH_UNAVAILABLE"]);
    redis.resume();
    await recovered(there, live);
    await recovered(here, live);
    await here.revoke(live.id);
    expect(await lastAccepted(there, live)).toBeLessThan(bound + slack);
  });

  it("sec:V03 after a restart that lost a revocation, a server that knows it refuses and restores it", async () => {
    await using world = await twoServers();
    const { admin, here, there } = world;
    await pushed(here, there);
    const [live, ended] = [await issue(here), await issue(here)];
    await admin.sendCommand(["SAVE"]);
    await here.revoke(ended.id);
    expect(await lastAccepted(there, ended)).toBeLessThan(bound + slack);
    await redis.kill();
    await redis.start();
    await recovered(there, live);
    await recovered(here, live);
    expect(await ask(there, ended)).toBe("SESSION_REVOKED");
    // A server without memory finds the store as it was before the revocation.
    const fresh = await startServer(redisStore(await redis.connect()));
    expect(await lastAccepted(fresh, ended)).toBeLessThan(bound + slack);
    expect(await ask(fresh, live)).toBe("accepted");
    await expect.poll(() => there.health().status).toBe("unsure");
    await pushed(here, there);
    await fresh.close();
  });

  it("sec:V03 after a restart that lost everything, earlier sessions are refused and new ones accepted", async () => {
    await using world = await twoServers();
    const { here, there } = world;
    const [lost, ended] = [await issue(here), await issue(here)];
    await here.revoke(ended.id);
    expect(await ask(there, lost)).toBe("accepted");
    await redis.kill();
    await redis.start();
    // The keys that signed their tokens are lost too.
    for (const each of [here, there]) {
      await expect.poll(() => ask(each, lost)).toBe("TOKEN_INVALID");
    }
    expect(await ask(there, ended)).toBe("TOKEN_INVALID");
    const begun = await issue(here);
    await recovered(there, begun);
    await here.revoke(begun.id);
    expect(await lastAccepted(there, begun)).toBeLessThan(bound + slack);
  });
});
