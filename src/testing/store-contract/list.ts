import assert from "node:assert/strict";
import type { SessionOwner, SessionRecord, SessionStore } from "../../engine/store.ts";
import { insertNew, newSession, type Rules } from "./fixture.ts";

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

function idsOf({ records }: { readonly records: readonly SessionRecord[] }): string[] {
  return records.map(({ id }) => id);
}
