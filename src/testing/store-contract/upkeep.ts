import assert from "node:assert/strict";
import type { SessionStore } from "../../engine/store.ts";
import { atOnce, newSession, type Rules, type StoreFixture } from "./fixture.ts";

/** The rules of signing keys, the secret, `open` and `close`. */
export const keyRules: Rules = {
  async "signingKeys returns the keys by slot, with the time of the store's clock"({
    store,
    clock,
  }) {
    assert.deepEqual(await store.signingKeys(), { keys: [], now: clock.now() });
    const createdAt = clock.now();
    for (const slot of [10, 9, 0]) {
      assert.equal(await store.addSigningKey(signingKey(slot)), true);
    }
    await clock.advance(5);
    const keys = [0, 9, 10].map((slot) => ({ ...signingKey(slot), createdAt }));
    assert.deepEqual(await store.signingKeys(), { keys, now: clock.now() });
  },

  async "a slot can be taken only once"({ store }) {
    await store.addSigningKey(signingKey(3));
    const before = await store.signingKeys();
    assert.equal(await store.addSigningKey(signingKey(3, "other")), false);
    assert.deepEqual(await store.signingKeys(), before);
  },

  async "exactly one of the keys added concurrently to a slot is stored"({ store }) {
    const added = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const key = signingKey(0, `key-${index}`);
        return (await store.addSigningKey(key)) ? [key.kid] : [];
      }),
    );
    const { keys } = await store.signingKeys();
    assert.deepEqual(
      keys.map(({ kid }) => kid),
      added.flat(),
    );
    assert.equal(keys.length, 1);
  },

  async "removeSigningKeysBelow removes the keys below a slot"({ store }) {
    for (const slot of [0, 1, 2, 10]) {
      await store.addSigningKey(signingKey(slot));
    }
    await store.removeSigningKeysBelow(2);
    await store.removeSigningKeysBelow(2);
    const { keys } = await store.signingKeys();
    assert.deepEqual(
      keys.map(({ slot }) => slot),
      [2, 10],
    );
  },

  async "an embedded secret has at least 32 bytes and does not change"({ store }) {
    const first = await store.secret?.();
    const kept = first?.slice();
    first?.fill(0);
    assert.deepEqual(await store.secret?.(), kept);
    assert.ok(kept === undefined || kept.length >= 32);
  },

  async "rows and change log name the same history, if the store names any"({ store }) {
    const { history } = await store.changes(undefined, 3_600_000);
    assert.match(history ?? "", /^[\w-]{0,8}$/);
    const answers = [
      await store.insert(newSession()),
      await store.load("s1"),
      await store.load("nobody"),
      await store.update({ id: "s1", version: 0, data: {} }),
      await store.revoke("s1", "revoked"),
    ];
    assert.deepEqual(
      answers.map((answer) => ("history" in answer ? answer.history : undefined)),
      answers.map(() => history),
    );
  },

  async "several engines can open the store, also concurrently"({ store, clock }) {
    await store.insert(newSession());
    await Promise.all([store.open({ clock }), store.open({ clock })]);
    assert.equal((await store.load("s1")).record?.id, "s1");
  },

  async "a second close does nothing"({ store }) {
    await Promise.all([store.close(), store.close()]);
    await store.close();
  },
};

function signingKey(slot: number, kid = `kid-${slot}`) {
  return { slot, kid, alg: "ES256", publicJwk: `{"kid":"${kid}"}`, privateJwk: "sealed" };
}

/** The rules of `lease`. */
export const leaseRules: Rules = {
  async "a lease has one holder until it expires"({ store, clock }) {
    assert.equal(await store.lease("work", "a", 1000), true);
    assert.equal(await store.lease("work", "b", 1000), false);
    await clock.advance(999);
    assert.equal(await store.lease("work", "b", 1000), false);
    await clock.advance(1);
    assert.equal(await store.lease("work", "b", 1000), true);
    assert.equal(await store.lease("work", "a", 1000), false);
  },

  async "a holder renews its lease from the current time"({ store, clock }) {
    for (let round = 0; round < 5; round++) {
      assert.equal(await store.lease("work", "a", 1000), true);
      await clock.advance(600);
      assert.equal(await store.lease("work", "b", 1000), false);
    }
    await clock.advance(400);
    assert.equal(await store.lease("work", "b", 1000), true);
  },

  async "a lease may last for 400 days"({ store, clock }) {
    assert.equal(await store.lease("work", "a", 400 * 24 * hour), true);
    await clock.advance(400 * 24 * hour - 1);
    await store.prune(10);
    assert.equal(await store.lease("work", "b", 1000), false);
    await clock.advance(1);
    assert.equal(await store.lease("work", "b", 1000), true);
  },

  async "leases with different names are independent"({ store }) {
    assert.equal(await store.lease("work", "a", 1000), true);
    assert.equal(await store.lease("other", "b", 1000), true);
    assert.equal(await store.lease("work", "b", 1000), false);
    assert.equal(await store.lease("other", "a", 1000), false);
  },

  async "exactly one of the concurrent requests for a lease succeeds"({ store, clock }) {
    for (let round = 0; round < 3; round++) {
      const taken = await atOnce((index) => store.lease("work", `${round}-${index}`, 1000));
      assert.equal(taken.filter(Boolean).length, 1);
      await clock.advance(1000);
    }
  },
};

const hour = 3_600_000;
const day = 24 * hour;
const many = 12;

/** The rules of `prune`. */
export const pruneRules: Rules = {
  async "prune drops sessions between 24 h and 28 h after their idle or absolute end"(fixture) {
    const { store, clock } = fixture;
    const idle = await insertMany(fixture, "idle", { idle: hour, absolute: 90 * hour });
    const absolute = await insertMany(fixture, "absolute", { idle: 90 * hour, absolute: hour });
    await clock.advance(hour + day);
    await pruneAll(store, 5);
    assert.equal(await countKept(store, [...idle, ...absolute]), 2 * many);
    await clock.advance(4 * hour + 1);
    await pruneAll(store, 5);
    assert.equal(await countKept(store, [...idle, ...absolute]), 0);
  },

  async "prune drops sessions 24 h after they were revoked"(fixture) {
    const { store, clock } = fixture;
    const ids = await insertMany(fixture, "revoked", { idle: 90 * hour, absolute: 90 * hour });
    await revokeAll(store, ids);
    await clock.advance(day);
    await pruneAll(store, 5);
    assert.equal(await countKept(store, ids), many);
    await clock.advance(1);
    await pruneAll(store, 5);
    assert.equal(await countKept(store, ids), 0);
  },

  async "prune never drops a live session of any age"(fixture) {
    const { store, clock } = fixture;
    const ids = await insertMany(fixture, "live", { idle: 40 * hour, absolute: 90 * day });
    for (let age = 0; age < 10; age++) {
      await clock.advance(40 * hour - 1);
      await pruneAll(store, 100);
      for (const id of ids) {
        const { record } = await store.refresh({
          kind: "keep",
          id,
          generation: 0,
          idle: 40 * hour,
          settle: null,
        });
        assert.equal(record?.id, id);
      }
    }
  },

  async "prune keeps the change log for 2 h"(fixture) {
    const { store, clock } = fixture;
    const { cursor } = await store.changes(undefined, 0);
    await revokeAll(store, await insertMany(fixture, "a"));
    await clock.advance(2 * hour);
    await revokeAll(store, await insertMany(fixture, "b"));
    assert.equal(await store.prune(100), 0);
    assert.equal((await store.changes(cursor, 0)).entries.length, 2 * many);
    await clock.advance(1);
    assert.equal(await store.prune(100), many);
    assert.equal((await store.changes(cursor, 0)).entries.length, many);
    assert.equal((await store.changes(undefined, 90 * hour)).entries.length, many);
  },

  async "prune drops only leases that have ended"({ store, clock }) {
    assert.equal(await store.lease("long", "a", hour), true);
    for (let index = 0; index < 7; index++) {
      assert.equal(await store.lease(`short-${index}`, "a", 1_000), true);
    }
    await clock.advance(999);
    assert.equal(await store.prune(5), 0);
    assert.equal(await store.lease("short-0", "b", hour), false);
    await clock.advance(1);
    await pruneAll(store, 5);
    assert.equal(await store.lease("long", "b", hour), false);
    assert.equal(await store.lease("short-0", "b", hour), true);
  },

  async "prune drops the oldest entries first, up to its limit, and returns how many"(fixture) {
    const { store, clock } = fixture;
    const ids = await insertMany(fixture, "a");
    await revokeAll(store, ids);
    await clock.advance(2 * hour + 1);
    assert.equal(await store.prune(5), 5);
    const { entries } = await store.changes(undefined, 90 * hour);
    assert.deepEqual(
      entries.map(({ session }) => session),
      ids.slice(5),
    );
    assert.equal(await store.prune(5), 5);
    assert.equal(await store.prune(5), many - 10);
    assert.equal(await store.prune(5), 0);
  },

  async "a cursor stays valid after the log was emptied"(fixture) {
    const { store, clock } = fixture;
    const [first = "", second = "", third = ""] = await insertMany(fixture, "a");
    await revokeAll(store, [first, second]);
    const { cursor } = await store.changes(undefined, hour);
    await clock.advance(9 * hour);
    assert.equal(await store.prune(100), 2);
    await store.revoke(third, "revoked");
    const { entries } = await store.changes(cursor, 0);
    assert.deepEqual(
      entries.map(({ session }) => session),
      [third],
    );
  },

  async "concurrent prunes drop each row once"(fixture) {
    const { store, clock } = fixture;
    await revokeAll(store, await insertMany(fixture, "a"));
    await clock.advance(2 * hour + 1);
    const gone = await Promise.all([store.prune(5), store.prune(5), store.prune(5)]);
    assert.ok(gone.every((count) => count <= 5));
    const sum = gone.reduce((total, count) => total + count, 0);
    assert.equal(sum + (await store.prune(100)), many);
  },
};

/** Prunes in batches until nothing is left to drop. */
async function pruneAll(store: SessionStore, limit: number): Promise<void> {
  while ((await store.prune(limit)) > 0) {
    // The next batch.
  }
}

async function insertMany(
  { store }: StoreFixture,
  prefix: string,
  life = { idle: 90 * hour, absolute: 90 * hour },
): Promise<string[]> {
  const ids = Array.from({ length: many }, (_, index) => `${prefix}-${index}`);
  for (const id of ids) {
    await store.insert(newSession({ id, ...life }));
  }
  return ids;
}

async function revokeAll(store: SessionStore, ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    await store.revoke(id, "revoked");
  }
}

async function countKept(store: SessionStore, ids: readonly string[]): Promise<number> {
  const loaded = await Promise.all(ids.map((id) => store.load(id)));
  return loaded.filter(({ record }) => record !== undefined).length;
}
