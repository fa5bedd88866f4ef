import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { createSessions, type Duration, type SessionError, type SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { exchangeOf } from "../helpers/exchanges.ts";
import { postgresMissing, startPostgres, type TestPostgres } from "../servers/postgres.ts";
import { redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import { createSchema } from "../stores/postgres-fixture.ts";

/** Opens the stores of one service: each call of the result returns another store of the same sessions. */
type Stores = () => Promise<() => SessionStore>;

const day = 86_400_000;
const secret = "of all servers the same, and long enough".padEnd(48, "x");

function suite(name: string, missing: string | undefined, stores: Stores): void {
  describe.skipIf(missing)(
    `the Session API on ${name}${missing ? ` (skipped: ${missing})` : ""}`,
    () => {
      async function createWorld(
        options: {
          max?: number;
          overflow?: "reject" | "evictOldest";
          clientTimeout?: Duration;
        } = {},
      ) {
        const { max, overflow, clientTimeout = "10s" } = options;
        const store = await stores();
        const server = () =>
          createSessions({
            issuer: "https://test.example",
            store: store(),
            secret,
            refresh: { clientTimeout },
            ...(max === undefined
              ? {}
              : { sessionsPerUser: { max, ...(overflow && { overflow }) } }),
          });
        const [one, two] = [server(), server()];
        onTestFinished(async () => {
          await Promise.all([one.close(), two.close()]);
        });
        await Promise.all([one.ready(), two.ready()]);
        return { one, two };
      }

      it("feat:E3 feat:F1 64 parallel updates of claims and data, from two servers, are all kept", async () => {
        const { one, two } = await createWorld();
        const { session } = await one.issue({ userId: "alice", claims: { n: 0 }, data: { n: 0 } });
        await Promise.all(
          Array.from({ length: 32 }, (_, i) => [
            (i % 2 ? one : two).updateClaims(session.id, (c) => ({ n: Number(c.n) + 1 })),
            (i % 2 ? two : one).updateData(session.id, (d) => ({ n: Number(d.n) + 1 })),
          ]).flat(),
        );
        expect((await two.find(session.id))?.claims).toEqual({ n: 32 });
        expect(await one.data(session.id)).toEqual({ n: 32 });
      });

      it("feat:O10 100 sessions that are being created when the server closes are all there", async () => {
        const { one, two } = await createWorld();
        const begun = Array.from({ length: 100 }, () => one.issue({ userId: "bob" }));
        await setTimeout(4);
        const [issued] = await Promise.all([Promise.all(begun), one.close()]);
        expect(issued).toHaveLength(100);
        expect((await two.list({ userId: "bob", pageSize: 200 })).sessions).toHaveLength(100);
        await expect(one.issue({ userId: "bob" })).rejects.toMatchObject({ kind: "unavailable" });
      });

      it("feat:F1 feat:F2 feat:A11 feat:M1 values are read back exactly as they were given", async () => {
        const { one, two } = await createWorld();
        const odd = "é\u2028'\"\\ \u{1F600} %s {} ␀";
        const given = {
          userId: `user ${odd}`,
          tenantId: `tenant ${odd}`,
          label: `label ${odd}`,
          claims: { odd, list: [1, null, { deep: [true] }], "key é": 1.5 },
          data: { odd, nothing: null, big: "x".repeat(60_000) },
        };
        const { session } = await one.issue(given);
        const found = await two.find(session.id);
        expect(found).toMatchObject({
          ...{ userId: given.userId, tenantId: given.tenantId, claims: given.claims },
          device: { label: given.label },
        });
        expect(await two.data(session.id)).toEqual(given.data);
        const { sessions } = await two.list({ userId: given.userId, tenantId: given.tenantId });
        expect(sessions).toEqual([found]);
      });

      it("feat:G3 feat:G4 feat:F3 revokeAll and list select one user and one tenant, on every server at once", async () => {
        const { one, two } = await createWorld();
        const add = async (userId: string, tenantId: string) => {
          const { session, tokens } = await one.issue({ userId, tenantId });
          return { id: session.id, bearer: tokens.accessToken };
        };
        const [a1, a2, a3] = [await add("a", "x"), await add("a", "x"), await add("a", "y")];
        const b1 = await add("b", "x");
        expect(await two.revokeAll({ userId: "a", tenantId: "x", except: a1.id })).toEqual([a2.id]);
        const live = (await one.list({ tenantId: "x" })).sessions.map(({ id }) => id);
        expect(live.sort()).toEqual([a1.id, b1.id].sort());
        const reason = await two
          .getSession(exchangeOf({ bearer: a2.bearer }))
          .catch((e: SessionError) => e.reason);
        expect(reason).toBe("SESSION_REVOKED");
        expect([...(await one.revoke([a1.id, a2.id, a3.id, "nobody"]))].sort()).toEqual(
          [a1.id, a3.id].sort(),
        );
      });

      it.each(["reject", "evictOldest"] as const)(
        "feat:A8 of 24 concurrent sign-ins on two servers, three stay: %s",
        async (overflow) => {
          const { one, two } = await createWorld({ max: 3, overflow });
          const results = await Promise.allSettled(
            Array.from({ length: 24 }, (_, i) => (i % 2 ? one : two).issue({ userId: "alice" })),
          );
          expect((await one.list({ userId: "alice" })).sessions).toHaveLength(3);
          const refused = results.flatMap((r) =>
            r.status === "rejected" ? [r.reason.reason] : [],
          );
          expect(refused).toEqual(Array(overflow === "reject" ? 21 : 0).fill("SESSION_LIMIT"));
        },
      );

      it("feat:A9 feat:D13 feat:D14 lifetimes of a single session follow the store's clock", async () => {
        const { one, two } = await createWorld();
        const lifetimes = { access: "5m", idle: "1h", absolute: "2h" } as const;
        const { session } = await one.issue({ userId: "alice", lifetimes });
        const info = await two.find(session.id);
        const [began = 0, idle = 0, end = 0] = [
          info?.createdAt,
          info?.idleExpiresAt,
          info?.expiresAt,
        ].map(Number);
        expect([idle - began, end - began]).toEqual([3_600_000, 7_200_000]);
        expect(info?.authTime).toEqual(info?.createdAt);
      });

      it("feat:O7 sec:R20 of 24 concurrent adoptions on two servers, one gives a session", async () => {
        const { one, two } = await createWorld();
        const createdAt = new Date(Date.now() - 10 * day);
        const externalId = { issuer: "former", sid: `é ${"x".repeat(200)}` };
        const adopt = (i: number) =>
          (i % 2 ? one : two).adopt({ userId: "alice", externalId, createdAt });
        const results = await Promise.allSettled(Array.from({ length: 24 }, (_, i) => adopt(i)));
        const [only, ...more] = (await one.list({ externalId })).sessions;
        expect(more).toEqual([]);
        const refused = results.flatMap((r) => (r.status === "rejected" ? [r.reason.reason] : []));
        expect(refused).toEqual(Array(23).fill("SESSION_REVOKED"));
        const end = new Date(createdAt.getTime() + 90 * day);
        expect(only).toMatchObject({ createdAt, authTime: createdAt, expiresAt: end });
        await two.revoke(only?.id ?? "");
        await expect(adopt(0)).rejects.toMatchObject({ reason: "SESSION_REVOKED" });
        await expect(adopt(1)).rejects.toMatchObject({ reason: "SESSION_REVOKED" });
      });

      it("feat:O7 sec:R20 of 24 concurrent repetitions of an adoption whose answer was lost, one gives a session", async () => {
        const { one, two } = await createWorld({ clientTimeout: "0s" });
        const createdAt = new Date(Date.now() - 10 * day);
        const externalId = { issuer: "former", sid: "1" };
        const adopt = (i: number) =>
          (i % 2 ? one : two).adopt({ userId: "alice", externalId, createdAt });
        const lost = await adopt(0);
        const results = await Promise.allSettled(Array.from({ length: 24 }, (_, i) => adopt(i)));
        const given = results.flatMap((r) =>
          r.status === "fulfilled" ? [r.value.session.id] : [],
        );
        expect(given).toHaveLength(1);
        expect((await one.list({ externalId })).sessions.map(({ id }) => id)).toEqual(given);
        expect(given).not.toContain(lost.session.id);
      });

      it("feat:E2 feat:G2 feat:N4 malformed ids and owners are handled without harm", async () => {
        const { one } = await createWorld();
        for (const id of ["\u0000", "x".repeat(5000), "'; drop table sessions; --", "\ud800"]) {
          expect(await one.find(id)).toBeUndefined();
          expect(await one.updateClaims(id, {})).toBeUndefined();
          expect(await one.revoke([id])).toEqual([]);
          expect(await one.revoke(id)).toBe(false);
        }
        for (const owner of ["\u0000", "\ud800", "x".repeat(256)]) {
          await expect(one.list({ userId: owner })).rejects.toThrow(TypeError);
          await expect(one.revokeAll({ tenantId: owner })).rejects.toThrow(TypeError);
        }
      });
    },
  );
}

suite("memoryStore", undefined, async () => {
  const store = memoryStore();
  return () => store;
});

suite("sqliteStore", undefined, async () => {
  const file = join(mkdtempSync(join(tmpdir(), "session-api-")), "sessions.db");
  return () => sqliteStore(file);
});

describe("with a server", () => {
  let postgres: TestPostgres | undefined;
  let redis: TestRedis | undefined;
  beforeAll(async () => {
    postgres = postgresMissing === undefined ? await startPostgres() : undefined;
    redis = redisMissing === undefined ? await startRedis() : undefined;
  });
  afterAll(async () => {
    await postgres?.stop();
    await redis?.stop();
  });

  suite("postgresStore", postgresMissing, async () => {
    const schema = await createSchema(postgres as TestPostgres);
    onTestFinished(() => schema[Symbol.asyncDispose]());
    return () => postgresStore(schema.url, { connections: 4 });
  });

  suite("redisStore", redisMissing, async () => {
    const server = redis as TestRedis;
    const clients = [await server.connect(), await server.connect()];
    await clients[0]?.flushAll();
    return () => redisStore(clients.pop() as NonNullable<(typeof clients)[number]>);
  });
});
