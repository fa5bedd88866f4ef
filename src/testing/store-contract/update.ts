import assert from "node:assert/strict";
import type { SessionStore, SessionUpdate } from "../../engine/store.ts";
import {
  absolute,
  advance,
  atOnce,
  awkwardJson,
  confirmOne,
  idle,
  insertNew,
  newSession,
  type Rules,
} from "./fixture.ts";

/** The rules of `update`. */
export const updateRules: Rules = {
  async "an update of claims raises both versions, and is logged"({ store, clock }) {
    const { record } = await insertNew(store);
    await clock.advance(10);
    const now = clock.now();
    const expected = { ...record, claims: awkwardJson, claimsVersion: 1, version: 1 };
    const answer = await store.update({ id: "s1", version: 0, claims: awkwardJson });
    assert.deepEqual(answer, { record: expected, now });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
    const { entries } = await store.changes(undefined, 0);
    assert.deepEqual(entries, [{ kind: "claims", session: "s1", claimsVersion: 1, at: now }]);
  },

  async "an update of data raises one version, and is not logged"({ store }) {
    const { record } = await insertNew(store);
    const data = { inner: awkwardJson };
    const expected = { ...record, data, version: 1 };
    assert.deepEqual((await store.update({ id: "s1", version: 0, data })).record, expected);
    assert.deepEqual((await store.load("s1")).record, expected);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "an update of claims and data together is one change"({ store }) {
    const { record } = await insertNew(store);
    const all = { claims: {}, data: {} };
    const expected = { ...record, ...all, claimsVersion: 1, version: 1 };
    assert.deepEqual((await store.update({ id: "s1", version: 0, ...all })).record, expected);
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },

  async "an empty update reports whether its condition holds"({ store, clock }) {
    const { record } = await insertNew(store);
    const now = clock.now();
    assert.deepEqual(await store.update({ id: "s1", version: 0 }), { record, now });
    assert.deepEqual(await store.update({ id: "s1", version: 1 }), { record: undefined, now });
  },

  async "update and refresh do not affect each other's fields"({ store, clock }) {
    await store.insert(newSession());
    await confirmOne(store, "s1", 0, 0);
    const before = (await store.refresh(advance(0))).record;
    await clock.advance(10);
    const claims = { role: "user" };
    const { record } = await store.update({ id: "s1", version: 0, claims });
    assert.deepEqual(record, { ...before, claims, claimsVersion: 1, version: 1 });
    const after = (await store.refresh(advance(1))).record;
    assert.deepEqual([after?.claims, after?.claimsVersion, after?.version], [claims, 1, 1]);
    assert.equal(after?.generation, 2);
  },

  async "update changes nothing at another version"({ store }) {
    await store.insert(newSession());
    await refused(
      store,
      [-1, 1, 2].map((version) => ({ id: "s1", version })),
    );
    await store.update({ id: "s1", version: 0, data: {} });
    await refused(
      store,
      [0, 2].map((version) => ({ id: "s1", version })),
    );
  },

  async "update changes nothing if the session is missing or has ended"({ store }) {
    await refused(store, [{ id: "absent", version: 0 }]);
    await store.insert(newSession());
    await store.revoke("s1", "signOut");
    await refused(store, [{ id: "s1", version: 0 }]);
  },

  async "update changes nothing at the idle or absolute end; it does 1 ms earlier"({
    store,
    clock,
  }) {
    await store.insert(newSession());
    await store.insert(newSession({ id: "s2", idle: absolute, absolute: idle }));
    await clock.advance(idle - 1);
    for (const id of ["s1", "s2"]) {
      assert.equal((await store.update({ id, version: 0, data: {} })).record?.version, 1);
    }
    await clock.advance(1);
    await refused(store, [
      { id: "s1", version: 1 },
      { id: "s2", version: 1 },
    ]);
  },

  async "exactly one of the concurrent updates of a version succeeds"({ store }) {
    await store.insert(newSession());
    const done = await atOnce((index) =>
      store.update({ id: "s1", version: 0, claims: { index }, data: { index } }),
    );
    const winners = done.filter(({ record }) => record !== undefined);
    assert.equal(winners.length, 1);
    const { record } = await store.load("s1");
    assert.deepEqual(record, winners[0]?.record);
    assert.deepEqual(record?.claims, record?.data);
    assert.deepEqual([record?.version, record?.claimsVersion], [1, 1]);
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },

  async "every update of claims is logged, in order"({ store }) {
    await store.insert(newSession());
    await store.update({ id: "s1", version: 0, claims: { n: 1 } });
    const { cursor } = await store.changes(undefined, 0);
    for (const version of [1, 2]) {
      await store.update({ id: "s1", version, claims: { n: version + 1 } });
    }
    await store.revoke("s1", "theft");
    const { entries } = await store.changes(cursor, 0);
    assert.deepEqual(
      entries.map((entry) => (entry.kind === "claims" ? entry.claimsVersion : entry.endedBy)),
      [2, 3, "theft"],
    );
  },

  async "an update of claims wakes the listeners of onChange"({ store }) {
    await store.insert(newSession());
    let woken = 0;
    const end = store.onChange(() => {
      woken++;
    });
    await store.update({ id: "s1", version: 0, claims: {} });
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    assert.ok(woken > 0);
    end();
  },
};

/** Checks that no kind of update succeeds, and that nothing changes. */
async function refused(
  store: SessionStore,
  conditions: readonly Pick<SessionUpdate, "id" | "version">[],
): Promise<void> {
  const { cursor } = await store.changes(undefined, 0);
  const claims = { role: "root" };
  for (const condition of conditions) {
    const before = await store.load(condition.id);
    for (const change of [{ claims }, { data: claims }]) {
      const { record, now } = await store.update({ ...condition, ...change });
      assert.equal(record, undefined, JSON.stringify(condition));
      assert.equal(now, before.now);
      assert.deepEqual(await store.load(condition.id), before);
    }
  }
  assert.deepEqual((await store.changes(cursor, 0)).entries, []);
}
