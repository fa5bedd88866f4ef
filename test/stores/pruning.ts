import { describe, expect, it } from "vitest";
import {
  newSession,
  type Rules,
  type StoreFixture,
} from "../../src/testing/store-contract/fixture.ts";

const hour = 3_600_000;
const many = 50;

/** Tests that a store grows with its live sessions only, and keeps what still matters. */
export function describePruning(name: string, create: () => Promise<StoreFixture>): void {
  describe(`${name}: pruning`, () => {
    it.each(Object.entries(pruningRules))("%s", async (_rule, check) => {
      expect.hasAssertions();
      const fixture = await create();
      await fixture.store.open(fixture);
      await check(fixture);
      await fixture.close();
    });
  });
}

const pruningRules: Rules = {
  async "drops sessions 24 h after their idle end or their revoke, as others are inserted"(
    fixture,
  ) {
    const { store, clock } = fixture;
    const ids = await insertMany(fixture, "idle");
    const revoked = await insertMany(fixture, "revoked", {
      idle: 90 * hour,
      absolute: 90 * hour,
    });
    await clock.advance(hour);
    for (const id of revoked) {
      await store.revoke(id, "revoked");
    }
    await clock.advance(24 * hour);
    await insertMany(fixture, "fresh");
    expect(await countKept(fixture, ids)).toBe(many);
    expect(await countKept(fixture, revoked)).toBe(many);
    await clock.advance(1);
    await insertMany(fixture, "later");
    expect(await countKept(fixture, ids)).toBe(0);
    expect(await countKept(fixture, revoked)).toBe(0);
  },

  async "never drops a live session"(fixture) {
    const ids = await insertMany(fixture, "live", { idle: 90 * hour, absolute: 90 * hour });
    await fixture.clock.advance(90 * hour - 1);
    await insertMany(fixture, "other");
    expect(await countKept(fixture, ids)).toBe(many);
  },

  async "keeps the change log for 2 h"(fixture) {
    const { store, clock } = fixture;
    const { cursor } = await store.changes(undefined, 0);
    for (const id of await insertMany(fixture, "a")) {
      await store.revoke(id, "revoked");
    }
    await clock.advance(2 * hour);
    for (const id of await insertMany(fixture, "b")) {
      await store.revoke(id, "revoked");
    }
    expect((await store.changes(cursor, 0)).entries).toHaveLength(2 * many);
    await clock.advance(1);
    for (const id of await insertMany(fixture, "c")) {
      await store.revoke(id, "revoked");
    }
    expect((await store.changes(cursor, 0)).entries).toHaveLength(2 * many);
    expect((await store.changes(undefined, 90 * hour)).entries).toHaveLength(2 * many);
  },

  async "keeps a cursor good over an emptied log"(fixture) {
    const { store, clock } = fixture;
    const [first, second, third] = await insertMany(fixture, "a");
    await store.revoke(first ?? "", "revoked");
    await store.revoke(second ?? "", "revoked");
    const { cursor } = await store.changes(undefined, hour);
    await clock.advance(9 * hour);
    await store.revoke(third ?? "", "revoked");
    const { entries } = await store.changes(cursor, 0);
    expect(entries.map(({ session }) => session)).toEqual([third]);
  },
};

async function insertMany(
  { store }: StoreFixture,
  prefix: string,
  life = { idle: hour, absolute: 2 * hour },
): Promise<string[]> {
  const ids = Array.from({ length: many }, (_, index) => `${prefix}-${index}`);
  for (const id of ids) {
    await store.insert(newSession({ id, ...life }));
  }
  return ids;
}

async function countKept({ store }: StoreFixture, ids: readonly string[]): Promise<number> {
  const loaded = await Promise.all(ids.map((id) => store.load(id)));
  return loaded.filter(({ record }) => record !== undefined).length;
}
