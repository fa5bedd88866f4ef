import assert from "node:assert/strict";
import type { EndedBy } from "../../engine/store.ts";
import { absolute, advance, atOnce, newSession, type Rules } from "./fixture.ts";

/** What `revoke`, `changes` and `onChange` promise. */
export const revokeRules: Rules = {
  async "revoke ends a session, whatever its generation, and logs that"({ store, clock }) {
    await store.insert(newSession());
    const before = (await store.refresh(advance(0))).record;
    await clock.advance(10);
    const now = clock.now();
    const ended = { ...before, revokedAt: now, endedBy: "theft" };
    assert.deepEqual(await store.revoke("s1", "theft"), { record: ended, now, revoked: true });
    assert.deepEqual((await store.load("s1")).record, ended);
    const { entries } = await store.changes(undefined, 0);
    assert.deepEqual(entries, [{ kind: "revoked", session: "s1", endedBy: "theft", at: now }]);
  },

  async "revoke ends a session once"({ store, clock }) {
    await store.insert(newSession());
    const first = await store.revoke("s1", "signOut");
    await clock.advance(10);
    const now = clock.now();
    const second = await store.revoke("s1", "theft");
    assert.deepEqual(second, { record: first.record, now, revoked: false });
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },

  async "revoke answers without a record when there is none"({ store, clock }) {
    const answer = { record: undefined, now: clock.now(), revoked: false };
    assert.deepEqual(await store.revoke("absent", "revoked"), answer);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "revoke touches no other session"({ store }) {
    await store.insert(newSession());
    await store.insert(newSession({ id: "s2" }));
    await store.revoke("s1", "revoked");
    assert.equal((await store.load("s2")).record?.revokedAt, null);
  },

  async "of revokes of one session at once exactly one ended it"({ store }) {
    await store.insert(newSession());
    const reasons: EndedBy[] = ["signOut", "revoked", "replaced", "theft"];
    const done = await atOnce((index) => store.revoke("s1", reasons[index % 4] ?? "revoked"));
    const [winner, ...others] = done.filter(({ revoked }) => revoked);
    assert.equal(others.length, 0);
    assert.deepEqual(
      done.map(({ record }) => record),
      done.map(() => winner?.record),
    );
    const { entries } = await store.changes(undefined, absolute);
    assert.deepEqual(
      entries.map((entry) => entry.kind === "revoked" && entry.endedBy),
      [winner?.record?.endedBy],
    );
  },

  async "changes come in their order, from a cursor on"({ store, clock }) {
    const start = await store.changes(undefined, absolute);
    assert.deepEqual(start.entries, []);
    assert.equal(start.now, clock.now());
    await endAll(store, ["c", "a", "b"]);
    const first = await store.changes(start.cursor, 0);
    assert.deepEqual(sessionsOf(first), ["c", "a", "b"]);
    await endAll(store, ["e", "d"]);
    const second = await store.changes(first.cursor, 0);
    assert.deepEqual(sessionsOf(second), ["e", "d"]);
    assert.deepEqual(sessionsOf(await store.changes(start.cursor, 0)), ["c", "a", "b", "e", "d"]);
    assert.deepEqual(sessionsOf(await store.changes(second.cursor, 0)), []);
  },

  async "changes without a cursor go back by the window, and continue after it"({ store, clock }) {
    await endAll(store, ["old"]);
    await clock.advance(1);
    await endAll(store, ["edge"]);
    await clock.advance(100);
    const read = await store.changes(undefined, 100);
    assert.deepEqual(sessionsOf(read), ["edge"]);
    await clock.advance(1000);
    const empty = await store.changes(undefined, 100);
    assert.deepEqual(sessionsOf(empty), []);
    await endAll(store, ["new"]);
    assert.deepEqual(sessionsOf(await store.changes(read.cursor, 0)), ["new"]);
    assert.deepEqual(sessionsOf(await store.changes(empty.cursor, 0)), ["new"]);
  },

  async "changes leave nothing out when the clock goes back"({ store, clock }) {
    await endAll(store, ["a"]);
    const { cursor } = await store.changes(undefined, 100);
    await clock.advance(-10_000);
    await endAll(store, ["b"]);
    assert.deepEqual(sessionsOf(await store.changes(cursor, 0)), ["b"]);
    assert.deepEqual(sessionsOf(await store.changes(undefined, 0)), ["a", "b"]);
  },

  async "changes read while others write miss none"({ store }) {
    let cursor = (await store.changes(undefined, absolute)).cursor;
    const seen = new Set<string>();
    const writing = atOnce((index) => endAll(store, [`s-${index}`]));
    for (let read = 0; read < 64; read++) {
      const { entries, cursor: next } = await store.changes(cursor, 0);
      cursor = next;
      entries.forEach(({ session }) => {
        seen.add(session);
      });
    }
    await writing;
    sessionsOf(await store.changes(cursor, 0)).forEach((session) => {
      seen.add(session);
    });
    assert.equal(seen.size, 64);
  },

  async "changes reject what is no cursor"({ store }) {
    await assert.rejects(store.changes("no cursor", 0));
  },

  async "onChange wakes for every end of a session, until it is ended"({ store }) {
    let first = 0;
    let second = 0;
    const endFirst = store.onChange(() => {
      first++;
    });
    const endSecond = store.onChange(() => {
      second++;
    });
    await endAll(store, ["a"]);
    await soon();
    assert.ok(first > 0 && second > 0, "woken by revoke");
    endSecond();
    endSecond();
    const [firstBefore, secondBefore] = [first, second];
    await store.insert(newSession({ id: "b" }));
    await store.insert(newSession({ id: "c", replaces: "b" }));
    await soon();
    assert.ok(first > firstBefore, "woken by insert");
    assert.equal(second, secondBefore);
    endFirst();
  },

  async "onChange lets no listener break a revoke"({ store }) {
    const end = store.onChange(() => {
      throw new Error("a broken listener");
    });
    await store.insert(newSession());
    assert.equal((await store.revoke("s1", "revoked")).revoked, true);
    end();
  },
};

type Store = Parameters<Rules[string]>[0]["store"];

async function endAll(store: Store, ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    await store.insert(newSession({ id }));
    await store.revoke(id, "revoked");
  }
}

function sessionsOf(read: { readonly entries: readonly { readonly session: string }[] }): string[] {
  return read.entries.map(({ session }) => session);
}

/** Lets a store that wakes in a later turn of the event loop do so. */
function soon(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
