import assert from "node:assert/strict";
import type { SessionStore } from "../../engine/store.ts";
import {
  absolute,
  atOnce,
  evictAbove,
  insertNew,
  newSession,
  type Rules,
  rejectAbove,
} from "./fixture.ts";

/** The rules of an `insert` with `limit`. */
export const limitRules: Rules = {
  async "a limit that rejects changes nothing when it is reached"({ store, clock }) {
    await insertOneByOne(store, clock, ["a", "b"]);
    const third = await insertNew(store, { id: "c", limit: rejectAbove(3) });
    assert.deepEqual(third.evicted, []);
    const { cursor } = await store.changes(undefined, 0);
    const answer = await store.insert(newSession({ id: "d", limit: rejectAbove(3) }));
    assert.deepEqual(answer, { record: undefined, now: clock.now(), refused: "limit" });
    // Replacing one makes room for one only, and the limit is exceeded by more than that.
    const replacing = await store.insert(
      newSession({ id: "d", replaces: "a", limit: rejectAbove(2) }),
    );
    assert.equal("refused" in replacing && replacing.refused, "limit");
    assert.equal((await store.load("d")).record, undefined);
    assert.deepEqual(await liveOf(store), ["a", "b", "c"]);
    assert.deepEqual((await store.changes(cursor, 0)).entries, []);
  },

  async "a limit that evicts ends as many of the oldest sessions as necessary"({ store, clock }) {
    // The oldest by creation, not by id and not by the last refresh.
    await insertOneByOne(store, clock, ["d", "c", "b", "a"]);
    await store.refresh({ kind: "keep", id: "d", generation: 0, idle: absolute, settle: null });
    const { cursor } = await store.changes(undefined, 0);
    const { record, evicted } = await insertNew(store, { id: "e", limit: evictAbove(3) });
    assert.equal(record.revokedAt, null);
    assert.deepEqual([...evicted].sort(), ["c", "d"]);
    assert.deepEqual(await liveOf(store), ["a", "b", "e"]);
    const at = clock.now();
    for (const id of evicted) {
      const { record: old } = await store.load(id);
      assert.deepEqual([old?.revokedAt, old?.endedBy], [at, "evicted"]);
    }
    const { entries } = await store.changes(cursor, 0);
    assert.deepEqual(
      new Set(entries),
      new Set(
        evicted.map((session) => ({ kind: "revoked", session, endedBy: "evicted", at }) as const),
      ),
    );
    assert.equal(entries.length, 2);
    assert.deepEqual((await insertNew(store, { id: "f", limit: evictAbove(1) })).evicted.length, 3);
    assert.deepEqual(await liveOf(store), ["f"]);
  },

  async "a limit never evicts the session that the new one requires"({ store, clock }) {
    await insertOneByOne(store, clock, ["a", "b", "c"]);
    const from = await insertNew(store, { id: "d", requires: "a", limit: evictAbove(3) });
    assert.deepEqual(from.evicted, ["b"]);
    assert.deepEqual(await liveOf(store), ["a", "c", "d"]);
    const few = await store.insert(newSession({ id: "e", requires: "a", limit: evictAbove(1) }));
    assert.deepEqual(few, { record: undefined, now: clock.now(), refused: "limit" });
    assert.deepEqual(await liveOf(store), ["a", "c", "d"]);
    const kept = await insertNew(store, { id: "e", requires: "a", limit: evictAbove(2) });
    assert.deepEqual([...kept.evicted].sort(), ["c", "d"]);
    // A session that is both required and replaced ends.
    const anew = await insertNew(store, {
      ...{ id: "f", requires: "a", replaces: "a", limit: evictAbove(1) },
    });
    assert.deepEqual([anew.replaced, anew.evicted], [true, ["e"]]);
    assert.deepEqual(await liveOf(store), ["f"]);
  },

  async "a limit does not count the replaced session"({ store, clock }) {
    await insertOneByOne(store, clock, ["a", "b"]);
    const rejecting = await insertNew(store, { id: "c", replaces: "a", limit: rejectAbove(2) });
    assert.equal(rejecting.replaced, true);
    assert.deepEqual(await liveOf(store), ["b", "c"]);
    const evicting = await insertNew(store, { id: "d", replaces: "c", limit: evictAbove(2) });
    assert.deepEqual([evicting.replaced, evicting.evicted], [true, []]);
    assert.equal((await store.load("c")).record?.endedBy, "replaced");
    assert.deepEqual(await liveOf(store), ["b", "d"]);
    assert.equal((await store.changes(undefined, absolute)).entries.length, 2);
  },

  async "a limit counts only live sessions of the user"({ store, clock }) {
    await store.insert(newSession({ id: "expired", idle: 1 }));
    await store.insert(newSession({ id: "ended" }));
    await store.revoke("ended", "signOut");
    await store.insert(newSession({ id: "bob", userId: "bob" }));
    await clock.advance(1);
    await insertNew(store, { id: "a", limit: rejectAbove(2) });
    await clock.advance(1);
    await insertNew(store, { id: "b", limit: rejectAbove(2) });
    const third = await store.insert(newSession({ id: "c", limit: rejectAbove(2) }));
    assert.equal(third.record, undefined);
    const { evicted } = await insertNew(store, { id: "c", limit: evictAbove(2) });
    assert.deepEqual(evicted, ["a"]);
    assert.equal((await store.load("bob")).record?.revokedAt, null);
    assert.equal((await store.load("expired")).record?.revokedAt, null);
  },

  async "a limit counts within the tenant; sessions without a tenant count by themselves"({
    store,
    clock,
  }) {
    const tenants = ["one", "two", null];
    for (const tenantId of tenants) {
      await insertNew(store, { id: `${tenantId}-a`, tenantId, limit: evictAbove(2) });
      await clock.advance(1);
    }
    // Another user of a tenant, who does not count either.
    await insertNew(store, { id: "bob", userId: "bob", tenantId: "one" });
    for (const tenantId of tenants) {
      const second = await insertNew(store, {
        id: `${tenantId}-b`,
        tenantId,
        limit: evictAbove(2),
      });
      assert.deepEqual(second.evicted, []);
      const refused = await store.insert(newSession({ tenantId, limit: rejectAbove(2) }));
      assert.equal("refused" in refused && refused.refused, "limit", String(tenantId));
      const third = await insertNew(store, { id: `${tenantId}-c`, tenantId, limit: evictAbove(2) });
      assert.deepEqual(third.evicted, [`${tenantId}-a`]);
    }
    const left = tenants.flatMap((tenantId) => [`${tenantId}-b`, `${tenantId}-c`]);
    assert.deepEqual(await liveOf(store), left.sort());
    assert.equal((await store.load("bob")).record?.revokedAt, null);
  },

  async "a limit does not count a required session of another tenant"({ store }) {
    await store.insert(newSession({ id: "a", tenantId: "one" }));
    const from = { requires: "a", tenantId: "two", limit: rejectAbove(1) };
    assert.deepEqual((await insertNew(store, { id: "b", ...from })).evicted, []);
    assert.deepEqual(await liveOf(store), ["a", "b"]);
  },

  async "a limit evicts no session if the insert fails or is refused"({ store, clock }) {
    await insertOneByOne(store, clock, ["a", "b"]);
    await assert.rejects(store.insert(newSession({ id: "b", limit: evictAbove(1) })));
    const refused = await store.insert(
      newSession({ id: "c", requires: "absent", limit: evictAbove(1) }),
    );
    assert.equal("refused" in refused && refused.refused, "notLive");
    assert.deepEqual(await liveOf(store), ["a", "b"]);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "concurrent inserts never exceed a limit that rejects"({ store }) {
    const done = await atOnce((index) =>
      store.insert(newSession({ id: `s-${index}`, limit: rejectAbove(5) })),
    );
    const inserted = done.flatMap(({ record }) => (record ? [record.id] : []));
    assert.equal(inserted.length, 5);
    assert.deepEqual(await liveOf(store), inserted.sort());
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "concurrent inserts never exceed a limit that evicts"({ store }) {
    const done = await atOnce((index) =>
      insertNew(store, { id: `s-${index}`, limit: evictAbove(5) }),
    );
    const evicted = done.flatMap((inserted) => inserted.evicted);
    assert.equal(evicted.length, 59);
    assert.equal(new Set(evicted).size, 59);
    assert.equal((await liveOf(store)).length, 5);
    const { entries } = await store.changes(undefined, absolute);
    assert.deepEqual(entries.map(({ session }) => session).sort(), evicted.sort());
  },
};

type Clock = Parameters<Rules[string]>[0]["clock"];

/** Inserts sessions one millisecond apart. */
async function insertOneByOne(
  store: SessionStore,
  clock: Clock,
  ids: readonly string[],
): Promise<void> {
  for (const id of ids) {
    await store.insert(newSession({ id }));
    await clock.advance(1);
  }
}

/** Returns the ids of alice's live sessions, sorted. */
async function liveOf(store: SessionStore): Promise<string[]> {
  const alice = { userId: "alice", tenantId: null };
  const { records } = await store.list(alice, { cursor: undefined, limit: 100 });
  return records.map(({ id }) => id).sort();
}
