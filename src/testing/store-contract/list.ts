import assert from "node:assert/strict";
import type {
  SessionOwner,
  SessionRecord,
  SessionStore,
  SessionUpdate,
} from "../../engine/store.ts";
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

const alice: SessionOwner = { userId: "alice", tenantId: null };

/** The rules of `list`. */
export const listRules: Rules = {
  async "list returns complete records of a user's sessions, the newest first"({ store, clock }) {
    const expected: SessionRecord[] = [];
    for (const id of ["b", "c", "a"]) {
      expected.unshift((await insertNew(store, { id, tenantId: "one" })).record);
      await clock.advance(1);
    }
    await store.insert(newSession({ id: "bob", userId: "bob" }));
    const page = await store.list(alice, { cursor: undefined, limit: 10 });
    assert.deepEqual(page, { records: expected, now: clock.now() });
  },

  async "list returns an empty page without a cursor if there are no sessions"({ store, clock }) {
    const page = await store.list(alice, { cursor: undefined, limit: 10 });
    assert.deepEqual(page, { records: [], now: clock.now() });
  },

  async "list sorts sessions of the same time by descending id, also across pages"({ store }) {
    // In byte order, unlike a dictionary, which places "a", "B" and "_" differently.
    const ids = ["-a", "0", "A", "B", "Z", "_", "a", "b"];
    for (const id of [...ids].reverse()) {
      await store.insert(newSession({ id }));
    }
    for (const limit of [1, 2, 3, 100]) {
      assert.deepEqual(await allOf(store, alice, limit), [...ids].reverse());
    }
  },

  async "list returns pages, and the last one has no cursor"({ store, clock }) {
    for (const id of ["a", "b", "c", "d"]) {
      await store.insert(newSession({ id }));
      await clock.advance(1);
    }
    const first = await store.list(alice, { cursor: undefined, limit: 2 });
    assert.deepEqual(idsOf(first), ["d", "c"]);
    const second = await store.list(alice, { cursor: first.cursor, limit: 2 });
    assert.deepEqual(idsOf(second), ["b", "a"]);
    assert.equal("cursor" in second, false);
    const rest = await store.list(alice, { cursor: first.cursor, limit: 3 });
    assert.deepEqual(idsOf(rest), ["b", "a"]);
    assert.equal("cursor" in rest, false);
  },

  async "list omits sessions that have ended or expired"({ store, clock }) {
    await store.insert(newSession({ id: "idle", idle: 2 }));
    await store.insert(newSession({ id: "absolute", absolute: 2 }));
    await store.insert(newSession({ id: "ended" }));
    await store.insert(newSession({ id: "live" }));
    await clock.advance(1);
    assert.deepEqual(await allOf(store, alice, 1), ["live", "idle", "ended", "absolute"]);
    await store.revoke("ended", "signOut");
    assert.deepEqual(await allOf(store, alice, 1), ["live", "idle", "absolute"]);
    await clock.advance(1);
    assert.deepEqual(await allOf(store, alice, 1), ["live"]);
  },

  async "list finds sessions by user, by tenant, and by user within a tenant"({ store }) {
    for (const userId of ["alice", "bob"]) {
      for (const tenantId of ["one", "two", null]) {
        await store.insert(newSession({ id: `${userId}-${tenantId}`, userId, tenantId }));
      }
    }
    // A user id may be equal to a tenant id.
    await store.insert(newSession({ id: "namesake", userId: "one", tenantId: null }));
    const list = (userId: string | null, tenantId: string | null) =>
      allOf(store, { userId, tenantId }, 2);
    assert.deepEqual(await list("alice", null), ["alice-two", "alice-one", "alice-null"]);
    assert.deepEqual(await list(null, "one"), ["bob-one", "alice-one"]);
    assert.deepEqual(await list("alice", "one"), ["alice-one"]);
    assert.deepEqual(await list("one", null), ["namesake"]);
    assert.deepEqual(await list("Alice", null), []);
    assert.deepEqual(await list("alice", "three"), []);
  },

  async "list returns every lasting session exactly once while others are added and end"({
    store,
    clock,
  }) {
    const stay = ["a", "c", "e", "g", "i"];
    for (const id of ["a", "b", "c", "d", "e", "f", "g", "h", "i"]) {
      await store.insert(newSession({ id }));
      await clock.advance(1);
    }
    const seen: string[] = [];
    let cursor: string | undefined;
    let turn = 0;
    do {
      const page = await store.list(alice, { cursor, limit: 2 });
      seen.push(...idsOf(page));
      ({ cursor } = page);
      // End the last session of this page, and some of later pages.
      for (const id of [seen.at(-1) ?? "", "b", "d"]) {
        if (!stay.includes(id)) {
          await store.revoke(id, "revoked");
        }
      }
      turn += 1;
      assert.ok(turn < 10, "the list does not end");
      await store.insert(newSession({ id: `new-${turn}` }));
      await clock.advance(1);
    } while (cursor !== undefined);
    assert.deepEqual(seen, ["i", "h", "g", "f", "e", "c", "a"]);
    assert.ok(turn >= 4);
  },

  async "list rejects an invalid cursor"({ store }) {
    await assert.rejects(store.list(alice, { cursor: "no cursor", limit: 1 }));
    await assert.rejects(store.list(alice, { cursor: "", limit: 1 }));
  },

  async "list uses the current end of a session, and refreshes do not change its place"({
    store,
    clock,
  }) {
    await store.insert(newSession({ id: "a", idle: 2 }));
    await clock.advance(1);
    await store.insert(newSession({ id: "b", idle: 100 }));
    const keep = { kind: "keep", id: "a", generation: 0, idle: 100, settle: null } as const;
    const { record } = await store.refresh(keep);
    await clock.advance(50);
    const { records } = await store.list(alice, { cursor: undefined, limit: 10 });
    assert.deepEqual(
      records.map(({ id }) => id),
      ["b", "a"],
    );
    assert.deepEqual(records[1], record);
  },
};

/** Returns the ids of all pages. */
async function allOf(store: SessionStore, owner: SessionOwner, limit: number): Promise<string[]> {
  const ids: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await store.list(owner, { cursor, limit });
    assert.ok(page.records.length <= limit);
    ids.push(...idsOf(page));
    assert.equal(new Set(ids).size, ids.length, "listed twice");
    ({ cursor } = page);
  } while (cursor !== undefined);
  return ids;
}

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

function idsOf({ records }: { readonly records: readonly SessionRecord[] }): string[] {
  return records.map(({ id }) => id);
}
