import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import type { RedisClient } from "../../src/stores/redis/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { testSessions } from "../../src/testing/test-sessions.ts";
import { startEngine } from "../helpers/engine.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { type Issued, issueOn, refreshCall } from "../helpers/refreshing.ts";
import { freePort } from "../servers/port.ts";
import {
  redisMissing,
  startRedis,
  type TestRedis,
  type TestRedisClient,
} from "../servers/redis.ts";
import { redisWithFakeClock } from "./redis-fixture.ts";

const secret = "a secret of at least 32 bytes, for tests";
const hour = 3_600_000;

describe.skipIf(redisMissing)(`redisStore after a loss of data ${redisMissing ?? ""}`, () => {
  let redis: TestRedis;
  let client: TestRedisClient;
  beforeEach(async () => {
    redis = await startRedis();
    client = await redis.connect();
  });
  afterEach(() => redis.stop());

  async function start() {
    const { newStore, tell, clock } = await redisWithFakeClock(client);
    /** Kills and restarts the server, which comes back with the data of the last `save`. */
    const crash = async (): Promise<void> => {
      await redis.kill();
      await redis.start();
      await tell();
    };
    const save = () => client.sendCommand(["SAVE"]);
    const server = () => testSessions({ store: newStore(), clock, secret });
    return { newStore, clock, crash, save, server };
  }

  it("of everything: sessions are refused with SIGN_IN, and signing in works again", async () => {
    const { clock, crash, server } = await start();
    const sessions = server();
    const lost = await issueOn(sessions, "cookie");
    await crash();
    const { hint } = await refreshCall(sessions, { refresh: lost.refresh });
    expect(hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.CLEAR });
    clock.advance("2s");
    await readLog(sessions);
    // The signing key is lost as well, so the access token leads to the refresh above.
    await vi.waitFor(async () => expect(await refusal(sessions, lost)).toBe("TOKEN_INVALID"));
    const live = await issueOn(sessions, "cookie");
    expect(await refusal(sessions, live)).toBeUndefined();
    const fresh = server();
    expect(await refusal(fresh, live)).toBeUndefined();
    expect(await refusal(fresh, lost)).toBe("TOKEN_INVALID");
  });

  it("of the latest changes: a lost session is refused by running and by new servers", async () => {
    const { crash, save, server } = await start();
    const sessions = server();
    const kept = await issueOn(sessions, "cookie");
    await save();
    const lost = await issueOn(sessions, "cookie");
    await crash();
    await readLog(sessions);
    for (const each of [sessions, server()]) {
      await vi.waitFor(async () => expect(await refusal(each, lost)).toBe("SESSION_UNKNOWN"));
      expect(await refusal(each, kept)).toBeUndefined();
      const { hint } = await refreshCall(each, { refresh: lost.refresh });
      expect(hint?.action).toBe(Action.SIGN_IN);
    }
  });

  it("of the latest changes: a server that knows a lost revocation writes it again", async () => {
    const { newStore, crash, save, server } = await start();
    const sessions = server();
    const ended = await issueOn(sessions, "cookie");
    const store = newStore();
    await store.open({ clock: createFakeClock() });
    await save();
    await ended.revoke();
    await crash();
    expect((await store.load(ended.id)).record?.revokedAt).toBeNull();
    expect(await refusal(sessions, ended)).toBe("SESSION_REVOKED");
    await readLog(sessions);
    await vi.waitFor(async () =>
      expect((await store.load(ended.id)).record?.endedBy).toBe("revoked"),
    );
    expect(await refusal(server(), ended)).toBe("SESSION_REVOKED");
  });

  it("of a refresh: the lost generation is issued again, and no user is signed out", async () => {
    const { newStore, clock, crash, save } = await start();
    const engine = await startEngine({ store: newStore(), clock, secret });
    const { token } = await engine.signIn();
    await engine.confirm(token);
    await save();
    const before = await engine.exchange(token);
    await crash();
    clock.advance("2s");
    const after = await engine.exchange(before.refreshToken ?? "");
    expect(after.record.generation).toBe(1);
    expect(engine.events).toContainEqual(expect.objectContaining({ type: "storeWentBack" }));
  });

  it("signs no user out while Redis is unreachable", async () => {
    const { server } = await start();
    const sessions = server();
    const { refresh } = await issueOn(sessions, "cookie");
    await redis.kill();
    const { hint } = await refreshCall(sessions, { refresh });
    expect(hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });
  });
});

describe.skipIf(redisMissing)("redisStore after a failover", () => {
  it("refuses sign-ins that only the former primary acknowledged, and sessions it revoked", async () => {
    const port = String(await freePort());
    const primary = await startRedis(
      ...["--port", port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"],
    );
    onTestFinished(() => primary.stop());
    const replica = await startRedis("--replicaof", "127.0.0.1", port);
    onTestFinished(() => replica.stop());
    const [first, second] = [await primary.connect(), await replica.connect()];
    let current = first;
    const on: RedisClient = {
      eval: (script, given) => current.eval(script, given),
      evalSha: (sha, given) => current.evalSha(sha, given),
    };
    const { newStore, clock } = await redisWithFakeClock(first, { on });
    const sessions = testSessions({ store: newStore(), clock, secret });
    const revoked = await issueOn(sessions, "cookie");
    await vi.waitFor(async () => expect(await first.wait(1, 100)).toBe(1));
    // A partition: the replica becomes primary, while the former primary keeps working for a while.
    await second.sendCommand(["REPLICAOF", "NO", "ONE"]);
    const lost = await issueOn(sessions, "cookie");
    await revoked.revoke();
    current = second;
    const other = testSessions({ store: newStore(), clock, secret });
    expect(await refusal(other, lost)).toBe("SESSION_UNKNOWN");
    await readLog(sessions);
    await vi.waitFor(async () => {
      expect(await refusal(other, revoked)).toBe("SESSION_REVOKED");
    });
    expect(await refusal(sessions, revoked)).toBe("SESSION_REVOKED");
    expect(await refusal(sessions, lost)).toBe("SESSION_UNKNOWN");
  });
});

describe.skipIf(redisMissing)("the change log of redisStore", () => {
  it("reports a loss to existing and new readers, and is read again from the start", async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const client = await redis.connect();
    const { newStore, tell, clock } = await redisWithFakeClock(client);
    const store = newStore();
    await store.open({ clock });
    const begun = await store.changes(undefined, hour);
    expect(begun.lostAt).toBeUndefined();
    const end = async (id: string) => {
      await store.insert(newSession({ id }));
      await store.revoke(id, "revoked");
    };
    await end("s1");
    await client.sendCommand(["SAVE"]);
    const { cursor } = await store.changes(begun.cursor, hour);
    clock.advance("1m");
    await redis.kill();
    await redis.start();
    await tell();
    await end("s2");
    const failedOver = await store.changes(cursor, hour);
    expect(failedOver.entries.map(({ session }) => session)).toEqual(["s1", "s2"]);
    expect(failedOver.lostAt).toBe(clock.now());
    clock.advance("1m");
    expect((await store.changes(undefined, hour)).lostAt).toBe(failedOver.lostAt);
    expect((await store.changes(failedOver.cursor, hour)).entries).toEqual([]);

    await client.flushAll();
    await tell();
    const anew = await store.changes(undefined, hour);
    expect(anew.lostAt).toBeUndefined();
    clock.advance("1m");
    const emptied = await store.changes(failedOver.cursor, hour);
    expect(emptied).toMatchObject({ entries: [], lostAt: anew.now });
    expect((await store.changes(anew.cursor, hour)).lostAt).toBe(anew.now);
  });
});

describe.skipIf(redisMissing)("an unfinished revokeAll of many sessions in redisStore", () => {
  const scope = { userId: null, tenantId: "acme", except: null };
  const ids = Array.from({ length: 1_200 }, (_, each) => `s${each}`);

  /** Kills Redis after the first step of a `revokeAll`; `save` selects the data on disk at that time. */
  async function crashedMidway(save: "before" | "after" | "never") {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const client = await redis.connect();
    let stepsLeft = Number.POSITIVE_INFINITY;
    const dying: RedisClient = {
      eval: (script, given) => client.eval(script, given),
      async evalSha(sha, given) {
        if (stepsLeft <= 0) {
          throw new Error("the server is gone");
        }
        stepsLeft -= 1;
        return client.evalSha(sha, given);
      },
    };
    const { prefix, tell, clock, newStore } = await redisWithFakeClock(client);
    const store = newStore();
    await store.open({ clock });
    await Promise.all(ids.map((id) => store.insert(newSession({ id, tenantId: "acme" }))));
    const dyingStore = (await redisWithFakeClock(client, { prefix, on: dying })).newStore();
    await dyingStore.open({ clock });
    const saved = () => client.sendCommand(["SAVE"]);
    if (save === "before") {
      await saved();
    }
    stepsLeft = 1;
    await expect(dyingStore.revokeAll(scope, "revoked")).rejects.toThrow("the server is gone");
    if (save === "after") {
      await saved();
    }
    await redis.kill();
    await redis.start();
    await tell();
    return { store, loaded: async () => (await store.load("s7")).record };
  }

  it("has ended all sessions if its first step was saved, and continues", async () => {
    const { store, loaded } = await crashedMidway("after");
    expect((await loaded())?.endedBy).toBe("revoked");
    await store.prune(1);
    const { entries } = await store.changes(undefined, hour);
    expect(entries.map(({ session }) => session).sort()).toEqual([...ids].sort());
  });

  it("has ended no session if its first step was lost, and can be repeated", async () => {
    const { store, loaded } = await crashedMidway("before");
    expect((await loaded())?.endedBy).toBeNull();
    expect((await store.revokeAll(scope, "revoked")).revoked).toHaveLength(ids.length);
    expect((await store.changes(undefined, hour)).entries).toHaveLength(ids.length);
  });

  it("is lost together with all sessions and their indexes", async () => {
    const { store, loaded } = await crashedMidway("never");
    expect(await loaded()).toBeUndefined();
    expect((await store.revokeAll(scope, "revoked")).revoked).toEqual([]);
    const owner = { userId: null, tenantId: "acme" };
    expect((await store.list(owner, { cursor: undefined, limit: 5 })).records).toEqual([]);
  });
});

type Sessions = ReturnType<typeof testSessions>;

/** Returns the reason why an access token is refused; undefined if it is accepted. */
async function refusal(sessions: Sessions, { access }: Issued): Promise<string | undefined> {
  return sessions.getSession(exchangeOf({ access })).then(
    () => undefined,
    (error: { readonly reason: string }) => error.reason,
  );
}

/** Makes a server read the change log, by a change of its own. */
async function readLog(sessions: Sessions): Promise<void> {
  const { revoke } = await issueOn(sessions, "header");
  await revoke();
}
