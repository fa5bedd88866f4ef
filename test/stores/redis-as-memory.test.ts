import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type {
  NewSession,
  SessionOwner,
  SessionStore,
  SessionUpdate,
} from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import { createRedis } from "./redis-fixture.ts";

const minute = 60_000;

describe.skipIf(redisMissing)(`redisStore compared with memoryStore ${redisMissing ?? ""}`, () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  it("returns the same results for any sequence of calls", async () => {
    expect.hasAssertions();
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
        const fixture = await createRedis(redis);
        const stores = [memoryStore(), fixture.store] as const;
        for (const store of stores) {
          await store.open({ clock: fixture.clock });
        }
        for (const one of steps) {
          if (typeof one === "number") {
            await fixture.clock.advance(one);
          } else {
            const [expected, found] = await Promise.all(stores.map((store) => outcome(one(store))));
            expect(withoutHistory(found)).toEqual(expected);
          }
        }
        await fixture.close();
      }),
      { numRuns: 200 },
    );
  });
});

/** A call of a store, or a number of milliseconds that pass. */
type Step = ((store: SessionStore) => Promise<unknown>) | number;

const id = fc.integer({ min: 0, max: 9 }).map((number) => `s${number}`);
const userId = fc.constantFrom("alice", "bob");
const tenantId = fc.constantFrom(null, "acme", "globex");
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { freq: 2 });
// Few and round values, so that calls often hit the exact millisecond in which a session ends.
const ms = fc.integer({ min: 1, max: 9 }).map((tens) => tens * 10 * minute);
const json = fc.constantFrom({}, { a: [] }, { b: { c: null } });
const endedBy = fc.constantFrom("revoked", "theft", "signOut");
const owner: fc.Arbitrary<SessionOwner> = fc.oneof(
  fc.record({ userId, tenantId }),
  fc.record({ userId: fc.constant(null), tenantId: fc.constantFrom("acme", "globex") }),
);
const issuer = fc.constantFrom("https://login.example.com", "other");
const name = fc.constantFrom("x", "y");
const externalId = fc.oneof(
  fc.record({ issuer, sid: name }),
  fc.record({ issuer, sub: name }),
  fc.record({ issuer, sid: name, sub: name }),
);
const external = fc.record({
  external: fc.record({ by: fc.constantFrom("sid", "sub", "subWithoutSid"), issuer, id: name }),
});
const authentication = fc.record(
  { acr: name, amr: fc.array(name, { minLength: 1, maxLength: 2 }) },
  { requiredKeys: [] },
);
const limit = fc.record({
  max: fc.integer({ min: 1, max: 3 }),
  overflow: fc.constantFrom("reject", "evict"),
});

const insert = fc
  .record({
    ...{ id, userId, tenantId, idle: ms, absolute: ms },
    ...{ endsBy: maybe(fc.integer({ min: 4_102_444_800_000, max: 4_102_448_400_000 })) },
    ...{
      accessLife: maybe(ms),
      idleLife: maybe(ms),
      lineage: maybe(fc.constantFrom("s0", "s0.s1")),
      authTime: maybe(ms),
      claims: json,
      externalId: maybe(externalId),
      authentication: maybe(authentication),
    },
    ...{ replaces: maybe(id), requires: maybe(id), limit: maybe(limit) },
  })
  .map(
    (given: Partial<NewSession>): Step =>
      (store) =>
        store.insert(newSession(given)),
  );

const refresh = fc.record({ id, generation: fc.nat({ max: 1 }), idle: ms }).map(
  (write): Step =>
    (store) =>
      store.refresh({ ...write, kind: "advance", secretId: "b" }),
);

const update = fc
  .tuple(id, fc.nat({ max: 2 }), fc.record({ claims: json, data: json }, { requiredKeys: [] }))
  .map(
    ([of, version, given]): Step =>
      (store) =>
        store.update({ id: of, version, ...given } as SessionUpdate),
  );

const revoke = fc.tuple(id, endedBy).map(
  ([of, by]): Step =>
    (store) =>
      store.revoke(of, by),
);

const revokeIds = fc.tuple(fc.array(id, { maxLength: 4 }), endedBy).map(
  ([ids, by]): Step =>
    (store) =>
      store.revokeAll({ ids }, by),
);

const revokeExternal = fc.tuple(external, endedBy).map(([of, by]): Step => {
  return async (store) => {
    const { revoked, now } = await store.revokeAll(of, by);
    return { revoked: new Set(revoked), now };
  };
});

const revokeOwned = fc.tuple(owner, maybe(id), endedBy).map(
  ([of, except, by]): Step =>
    async (store) => {
      const { revoked, now } = await store.revokeAll({ ...of, except }, by);
      return { revoked: new Set(revoked), now };
    },
);

const list = fc
  .tuple(fc.oneof(owner, external), fc.integer({ min: 1, max: 4 }))
  .map(([of, most]): Step => {
    return async (store) => {
      const pages = [];
      let cursor: string | undefined;
      do {
        const page = await store.list(of, { cursor, limit: most });
        pages.push(page);
        cursor = page.cursor;
      } while (cursor !== undefined);
      return pages;
    };
  });

const changes: Step = async (store) => {
  const { entries } = await store.changes(undefined, 1_000 * minute);
  // Entries of the same call have no defined order.
  return entries.map((entry) => JSON.stringify(entry)).sort();
};

const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: insert, weight: 6 },
  ...[refresh, update, revoke, revokeIds, revokeOwned, revokeExternal, list],
  id.map(
    (of): Step =>
      (store) =>
        store.load(of),
  ),
  fc.constant(changes),
  // Also back. The sum stays below the 24 h after which sessions are dropped.
  fc.constantFrom(-10, 10, 20).map((minutes) => minutes * minute),
);

/** Returns the value of a call, or "rejected". */
/** The store in memory names no history, because it never loses changes. */
function withoutHistory(found: unknown): unknown {
  if (typeof found !== "object" || found === null || !("history" in found)) {
    return found;
  }
  const { history: _, ...rest } = found;
  return rest;
}

async function outcome(call: unknown): Promise<unknown> {
  try {
    return await call;
  } catch {
    return "rejected";
  }
}
