import { describe, expect, it } from "vitest";
import { type Clock, systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { redisWithFakeClock } from "../stores/redis-fixture.ts";
import { createSqlite } from "../stores/sqlite-fixture.ts";

/** One store as two servers see it, on a clock of its own. */
interface Shared extends AsyncDisposable {
  readonly clock: FakeClock;
  readonly newStore: () => SessionStore;
  /** Moves the store's clock along. */
  readonly told: () => Promise<unknown>;
}

const secret = "a secret of at least 32 bytes, for tests";

async function onMemory(): Promise<Shared> {
  const store = memoryStore();
  return {
    clock: createFakeClock(),
    newStore: () => store,
    told: async () => {},
    async [Symbol.asyncDispose]() {},
  };
}

async function onSqlite(): Promise<Shared> {
  const fixture = await createSqlite();
  const clock = createFakeClock();
  return {
    clock,
    newStore() {
      const store = fixture.another();
      // Waiting for another writer takes real time.
      const after: Clock["after"] = (...args) => systemClock.after(...args);
      return { ...store, open: () => store.open({ clock: { ...clock, after } }) };
    },
    told: async () => {},
    [Symbol.asyncDispose]: () => fixture.close(),
  };
}

async function onRedis(): Promise<Shared> {
  const redis = await startRedis();
  const { clock, newStore, tell } = await redisWithFakeClock(await redis.connect());
  return { clock, newStore, told: tell, [Symbol.asyncDispose]: () => redis.stop() };
}

describe.each([
  ["memoryStore", onMemory, undefined],
  ["sqliteStore", onSqlite, undefined],
  ["redisStore", onRedis, redisMissing],
] as const)(
  "%s: a server that slept until its position in the log was dropped",
  (_, start, missing) => {
    it.skipIf(missing)(
      "refuses sessions that were revoked in the meantime and whose tokens have not expired",
      async () => {
        await using shared = await start();
        const { clock, newStore, told } = shared;
        const here = await startEngine({ store: newStore(), secret, clock });
        const inner = newStore();
        let asleep = false;
        const there = await startEngine({
          secret,
          clock,
          store: {
            ...inner,
            // Nothing wakes it, and its requests are answered once it is awake.
            onChange: () => () => {},
            async changes(cursor, window) {
              while (asleep) {
                await new Promise((resolve) => setImmediate(resolve));
              }
              return inner.changes(cursor, window);
            },
          },
        });
        const create = async () => {
          const { record, access } = await here.creator.create({
            userId: "alice",
            tenantId: null,
            claims: {},
            data: {},
            device: {},
            transport: "header",
            replaces: null,
          });
          return { id: record.id, token: access.token };
        };
        const early = await create();
        asleep = true;
        await here.revoke(early.id, "revoked");
        clock.advance("3h");
        await told();
        const late = await create();
        const live = await create();
        await here.revoke(late.id, "revoked");
        clock.advance("10m");
        await told();
        // The first entry is dropped, the second is not.
        await inner.prune(1_000);
        expect((await inner.changes(undefined, 24 * 3_600_000)).entries).toHaveLength(1);
        asleep = false;
        await there.revocations.catchUp();
        expect(there.revocations.get(early.id)).toBeUndefined();
        expect(await there.verify(early.token, there.revocations.storeNow())).toMatchObject({
          status: "expired",
        });
        expect(there.revocations.get(late.id)?.endedBy).toBe("revoked");
        expect(await there.verify(live.token, there.revocations.storeNow())).toMatchObject({
          status: "valid",
        });
        expect(there.revocations.unsure).toBe(false);
        await Promise.all([here.close(), there.close()]);
      },
    );
  },
);
