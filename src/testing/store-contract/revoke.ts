import assert from "node:assert/strict";
import type { EndedBy, RevokeScope, SessionStore } from "../../engine/store.ts";
import { absolute, advance, atOnce, newSession, type Rules } from "./fixture.ts";

/** The rules of `revoke`, `changes` and `onChange`. */
export const revokeRules: Rules = {
  async "revoke ends a session at any generation, and logs it"({ store, clock }) {
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

  async "revoke ends a session only once"({ store, clock }) {
    await store.insert(newSession());
    const first = await store.revoke("s1", "signOut");
    await clock.advance(10);
    const now = clock.now();
    const second = await store.revoke("s1", "theft");
    assert.deepEqual(second, { record: first.record, now, revoked: false });
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },

  async "revoke returns no record for an unknown id"({ store, clock }) {
    const answer = { record: undefined, now: clock.now(), revoked: false };
    assert.deepEqual(await store.revoke("absent", "revoked"), answer);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "revoke affects no other session"({ store }) {
    await store.insert(newSession());
    await store.insert(newSession({ id: "s2" }));
    await store.revoke("s1", "revoked");
    assert.equal((await store.load("s2")).record?.revokedAt, null);
  },

  async "exactly one of the concurrent revokes ends the session"({ store }) {
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

  async "changes returns the entries after a cursor, in order"({ store, clock }) {
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

  async "changes without a cursor returns the entries of the window, and its cursor continues from there"({
    store,
    clock,
  }) {
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

  async "changes omits nothing when the clock goes back"({ store, clock }) {
    await endAll(store, ["a"]);
    const { cursor } = await store.changes(undefined, 100);
    await clock.advance(-10_000);
    await endAll(store, ["b"]);
    assert.deepEqual(sessionsOf(await store.changes(cursor, 0)), ["b"]);
    assert.deepEqual(sessionsOf(await store.changes(undefined, 0)), ["a", "b"]);
  },

  async "changes misses no entry while others write"({ store }) {
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

  async "changes rejects an invalid cursor"({ store }) {
    await assert.rejects(store.changes("no cursor", 0));
  },

  async "every end of a session wakes the listeners of onChange, until they are removed"({
    store,
  }) {
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

  async "a listener of onChange that throws does not break a revoke"({ store }) {
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

/** Waits for stores that wake their listeners in a later turn of the event loop. */
function soon(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** The rules of `revokeAll`. */
export const revokeAllRules: Rules = {
  async "revokeAll ends the sessions of a user and logs each of them"({ store, clock }) {
    await insertMany(store);
    const { record: before } = await store.load("alice-one");
    await clock.advance(10);
    const at = clock.now();
    const answer = await store.revokeAll(of("alice", null), "revoked");
    assert.equal(answer.now, at);
    const ids = ["alice-none", "alice-one", "alice-two"];
    assert.deepEqual([...answer.revoked].sort(), ids);
    const ended = { ...before, revokedAt: at, endedBy: "revoked" };
    assert.deepEqual((await store.load("alice-one")).record, ended);
    assert.deepEqual(await liveOf(store), ["bob-none", "bob-one", "bob-two"]);
    const { entries } = await store.changes(undefined, 0);
    const logged = [...entries].sort((a, b) => (a.session < b.session ? -1 : 1));
    const expected = ids.map((session) => ({ kind: "revoked", session, endedBy: "revoked", at }));
    assert.deepEqual(logged, expected);
  },

  async "revokeAll ends the sessions of a tenant, or of a user within a tenant"({ store }) {
    await insertMany(store);
    const within = await store.revokeAll(of("alice", "one"), "revoked");
    assert.deepEqual(within.revoked, ["alice-one"]);
    const tenant = await store.revokeAll(of(null, "two"), "revoked");
    assert.deepEqual([...tenant.revoked].sort(), ["alice-two", "bob-two"]);
    assert.deepEqual(await liveOf(store), ["alice-none", "bob-none", "bob-one"]);
    assert.deepEqual((await store.revokeAll(of("alice", "three"), "revoked")).revoked, []);
    assert.deepEqual((await store.revokeAll(of("one", null), "revoked")).revoked, []);
  },

  async "revokeAll keeps the session given as `except`"({ store }) {
    await insertMany(store);
    const except = "alice-one";
    const user = await store.revokeAll({ ...of("alice", null), except }, "revoked");
    assert.deepEqual([...user.revoked].sort(), ["alice-none", "alice-two"]);
    const tenant = await store.revokeAll({ ...of(null, "one"), except }, "revoked");
    assert.deepEqual(tenant.revoked, ["bob-one"]);
    const absent = await store.revokeAll({ ...of("alice", "one"), except: "absent" }, "revoked");
    assert.deepEqual(absent.revoked, [except]);
  },

  async "revokeAll ends sessions by id, each once, and ignores unknown ids"({ store, clock }) {
    await insertMany(store);
    await store.revoke("bob-two", "signOut");
    const { cursor } = await store.changes(undefined, 0);
    const ids = ["alice-one", "absent", "bob-one", "alice-one", "bob-two", "absent"];
    const { revoked, now } = await store.revokeAll({ ids }, "revoked");
    assert.equal(now, clock.now());
    assert.deepEqual([...revoked].sort(), ["alice-one", "bob-one"]);
    assert.equal((await store.load("bob-two")).record?.endedBy, "signOut");
    assert.equal((await store.changes(cursor, 0)).entries.length, 2);
    assert.deepEqual(await store.revokeAll({ ids }, "revoked"), { revoked: [], now });
    assert.deepEqual(await store.revokeAll({ ids: [] }, "revoked"), { revoked: [], now });
    assert.equal((await store.changes(cursor, 0)).entries.length, 2);
  },

  async "revokeAll accepts 1000 ids"({ store }) {
    await insertMany(store);
    const ids = Array.from({ length: 998 }, (_, index) => `absent-${index}`);
    const scope = { ids: ["alice-one", ...ids, "bob-one"] };
    const { revoked } = await store.revokeAll(scope, "revoked");
    assert.deepEqual([...revoked].sort(), ["alice-one", "bob-one"]);
  },

  async "revokeAll ends each session once, and returns the sessions it ended"({ store }) {
    await insertMany(store);
    await store.revoke("alice-one", "signOut");
    const { cursor } = await store.changes(undefined, 0);
    const first = await store.revokeAll(of("alice", null), "revoked");
    assert.deepEqual([...first.revoked].sort(), ["alice-none", "alice-two"]);
    assert.equal((await store.load("alice-one")).record?.endedBy, "signOut");
    assert.deepEqual((await store.revokeAll(of("alice", null), "theft")).revoked, []);
    assert.equal((await store.load("alice-two")).record?.endedBy, "revoked");
    assert.equal((await store.changes(cursor, 0)).entries.length, 2);
  },

  async "revokeAll also ends expired sessions, because the clock may go back"({ store, clock }) {
    await store.insert(newSession({ idle: 1 }));
    await clock.advance(1);
    assert.deepEqual((await store.revokeAll(of("alice", null), "revoked")).revoked, ["s1"]);
    await clock.advance(-1);
    assert.deepEqual(await liveOf(store), []);
  },

  async "exactly one of the concurrent revokeAlls ends each session"({ store }) {
    await insertMany(store);
    const scopes: RevokeScope[] = [
      of("alice", null),
      of(null, "one"),
      of("bob", "one"),
      { ids: ["bob-one", "alice-one", "alice-none"] },
      { ids: ["alice-none", "alice-one", "bob-one"] },
    ];
    const done = await atOnce((index) =>
      store.revokeAll(scopes[index % scopes.length] ?? { ids: [] }, "revoked"),
    );
    const ended = ["alice-none", "alice-one", "alice-two", "bob-one"];
    assert.deepEqual(done.flatMap(({ revoked }) => revoked).sort(), ended);
    assert.deepEqual(await liveOf(store), ["bob-none", "bob-two"]);
    const { entries } = await store.changes(undefined, absolute);
    assert.deepEqual(entries.map(({ session }) => session).sort(), ended);
  },

  async "revokeAll during inserts ends every session that was inserted before"({ store }) {
    for (const scope of [of("alice", null), of(null, "one"), of("alice", "one")]) {
      const name = `${scope.userId}-${scope.tenantId}`;
      const { cursor } = await store.changes(undefined, 0);
      const before = new Set<string>();
      let asked = false;
      let ended: readonly string[] = [];
      await atOnce(async (index) => {
        if (index === 30) {
          asked = true;
          ended = (await store.revokeAll(scope, "revoked")).revoked;
          return;
        }
        const id = `${name}-${index}`;
        // Some of them with an option that needs more than one write.
        const more = index % 3 === 0 ? { replaces: "absent" } : {};
        await store.insert(newSession({ id, tenantId: "one", ...more }));
        if (!asked) {
          before.add(id);
        }
      });
      await endedAreThese(store, { ended, cursor, name });
      assert.ok([...before].every((id) => ended.includes(id)));
      // Sessions that were inserted during the call are either live or ended by it.
      const rest = await store.revokeAll(scope, "revoked");
      assert.equal(rest.revoked.length + ended.length, 63);
      assert.deepEqual((await store.revokeAll(scope, "revoked")).revoked, []);
    }
  },

  async "revokeAll wakes the listeners of onChange"({ store }) {
    await store.insert(newSession());
    let woken = 0;
    const end = store.onChange(() => {
      woken++;
    });
    await store.revokeAll(of("alice", null), "revoked");
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    assert.ok(woken > 0);
    end();
  },
};

type OwnerScope = Extract<RevokeScope, { readonly except: string | null }>;

function of(userId: string | null, tenantId: string | null): OwnerScope {
  return { userId, tenantId, except: null };
}

/** Inserts sessions of two users: one in each of two tenants, and one without a tenant. */
async function insertMany(store: SessionStore): Promise<void> {
  for (const userId of ["alice", "bob"]) {
    for (const tenantId of ["one", "two", null]) {
      const id = `${userId}-${tenantId ?? "none"}`;
      await store.insert(newSession({ id, userId, tenantId }));
    }
  }
}

/** Returns the ids of both users' live sessions, sorted. */
async function liveOf(store: SessionStore): Promise<string[]> {
  const page = { cursor: undefined, limit: 100 };
  const pages = [
    await store.list({ userId: "alice", tenantId: null }, page),
    await store.list({ userId: "bob", tenantId: null }, page),
  ];
  return pages.flatMap(({ records }) => records.map(({ id }) => id)).sort();
}

/** Checks that the sessions a call reports as ended, out of 64, are exactly the ended and logged ones. */
async function endedAreThese(
  store: SessionStore,
  call: { readonly ended: readonly string[]; readonly cursor: string; readonly name: string },
): Promise<void> {
  const loaded = await atOnce((index) => store.load(`${call.name}-${index}`));
  const ids = loaded.flatMap(({ record }) =>
    record !== undefined && record.revokedAt !== null ? [record.id] : [],
  );
  const expected = [...call.ended].sort();
  assert.deepEqual(ids.sort(), expected);
  const { entries } = await store.changes(call.cursor, 0);
  assert.deepEqual(entries.map(({ session }) => session).sort(), expected);
}
