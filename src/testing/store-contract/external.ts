import assert from "node:assert/strict";
import type { ExternalId, ExternalKey, SessionStore } from "../../engine/store.ts";
import { absolute, advance, atOnce, idle, insertNew, newSession, type Rules } from "./fixture.ts";

const issuer = "https://login.example.com/realms/one";

/** The rules of external ids: `insert`, `list` and `revokeAll`. */
export const externalRules: Rules = {
  async "insert stores an external id unchanged, and nothing changes it"({ store }) {
    const ids: ExternalId[] = [
      { issuer, sid: "sid-1", sub: "sub-1" },
      { issuer, sid: "sid-2" },
      { issuer: "better-auth", sub: "Zoë 🦊: a b" },
    ];
    for (const [index, externalId] of ids.entries()) {
      const id = `s${index + 1}`;
      const { record } = await insertNew(store, { id, externalId });
      assert.deepEqual(record.externalId, externalId);
      assert.deepEqual((await store.load(id)).record?.externalId, externalId);
    }
    assert.equal((await insertNew(store, { id: "s4" })).record.externalId, null);
    assert.deepEqual((await store.refresh(advance(0))).record?.externalId, ids[0]);
    const updated = await store.update({ id: "s1", version: 0, claims: {}, data: {} });
    assert.deepEqual(updated.record?.externalId, ids[0]);
    assert.deepEqual((await store.revoke("s1", "signOut")).record?.externalId, ids[0]);
  },

  async "list finds sessions by `sid`, by `sub`, and by `sub` among those without a `sid`"({
    store,
  }) {
    await insertMany(store);
    assert.deepEqual(await listed(store, key("sid", "first")), ["both"]);
    assert.deepEqual(await listed(store, key("sub", "ann")), ["both", "other-sid", "sub-only"]);
    assert.deepEqual(await listed(store, key("subWithoutSid", "ann")), ["sub-only"]);
    assert.deepEqual(await listed(store, key("sid", "third")), ["sid-only"]);
    assert.deepEqual(await listed(store, key("sub", "ben")), ["other-sub"]);
    for (const absent of [
      ...[key("sid", "FIRST"), key("sid", "ann"), key("sub", "first"), key("sid", "f%")],
      ...[key("subWithoutSid", "first"), key("subWithoutSid", "ben"), key("sub", "alice")],
      { ...key("sid", "first"), issuer: `${issuer}/` },
    ]) {
      assert.deepEqual(await listed(store, absent), [], JSON.stringify(absent));
    }
    const other = { ...key("sid", "first"), issuer: "https://other.example.com" };
    assert.deepEqual(await listed(store, other), ["other-issuer"]);
  },

  async "list by external id returns pages, newest first, without sessions that ended or expired"({
    store,
    clock,
  }) {
    for (const id of ["a", "b", "c", "d", "e"]) {
      await insertNew(store, {
        id,
        externalId: { issuer, sub: "ann" },
        idle: id === "c" ? 9 : idle,
      });
      await clock.advance(1);
    }
    await store.revoke("b", "signOut");
    await clock.advance(10);
    const select = { external: key("sub", "ann") };
    const first = await store.list(select, { cursor: undefined, limit: 2 });
    assert.deepEqual(
      first.records.map(({ id }) => id),
      ["e", "d"],
    );
    const last = await store.list(select, { cursor: first.cursor, limit: 2 });
    assert.deepEqual(
      last.records.map(({ id }) => id),
      ["a"],
    );
    assert.equal("cursor" in last, false);
  },

  async "revokeAll ends the sessions with a `sid` in every tenant, and logs each of them"({
    store,
    clock,
  }) {
    await insertMany(store);
    await insertNew(store, {
      ...{ id: "tenant", userId: "bob", tenantId: "one" },
      externalId: { issuer, sid: "first" },
    });
    const { cursor } = await store.changes(undefined, absolute);
    let woken = 0;
    const stop = store.onChange(() => {
      woken++;
    });
    const ended = await store.revokeAll({ external: key("sid", "first") }, "externalLogout");
    stop();
    assert.ok(woken > 0);
    assert.deepEqual([...ended.revoked].sort(), ["both", "tenant"]);
    assert.equal((await store.load("both")).record?.endedBy, "externalLogout");
    assert.deepEqual(await listed(store, key("sub", "ann")), ["other-sid", "sub-only"]);
    const { entries } = await store.changes(cursor, 0);
    const at = clock.now();
    assert.deepEqual(
      [...entries].sort((a, b) => (a.session < b.session ? -1 : 1)),
      ["both", "tenant"].map((session) => ({
        ...{ kind: "revoked", session, endedBy: "externalLogout", at },
      })),
    );
    const again = await store.revokeAll({ external: key("sid", "first") }, "externalLogout");
    assert.deepEqual(again.revoked, []);
  },

  async "revokeAll ends the sessions with a `sub`, all of them or those without a `sid`"({
    store,
  }) {
    await insertMany(store);
    const without = await store.revokeAll({ external: key("subWithoutSid", "ann") }, "revoked");
    assert.deepEqual(without.revoked, ["sub-only"]);
    const all = await store.revokeAll({ external: key("sub", "ann") }, "revoked");
    assert.deepEqual([...all.revoked].sort(), ["both", "other-sid"]);
    assert.deepEqual(await listed(store, key("sub", "ben")), ["other-sub"]);
    assert.deepEqual(await listed(store, key("sid", "third")), ["sid-only"]);
  },

  async "a session is found by its external id for as long as refreshes keep it alive"({
    store,
    clock,
  }) {
    const day = 86_400_000;
    const externalId = { issuer, sid: "first", sub: "ann" };
    await insertNew(store, { externalId, idle: 2 * day, absolute: 30 * day });
    for (let generation = 0; generation < 8; generation++) {
      await clock.advance(2 * day - 1);
      const { record } = await store.refresh({ ...advance(generation), idle: 2 * day });
      assert.equal(record?.generation, generation + 1);
    }
    assert.deepEqual(await listed(store, key("sub", "ann")), ["s1"]);
    const { revoked } = await store.revokeAll({ external: key("sid", "first") }, "revoked");
    assert.deepEqual(revoked, ["s1"]);
  },

  async "revokeAll by external id also ends expired sessions, because the clock may go back"({
    store,
    clock,
  }) {
    await insertNew(store, { externalId: { issuer, sid: "first" }, idle: 1 });
    await clock.advance(1);
    const { revoked } = await store.revokeAll({ external: key("sid", "first") }, "revoked");
    assert.deepEqual(revoked, ["s1"]);
  },

  async "insert ends a session that it replaces or evicts, whose external id no longer finds it"({
    store,
  }) {
    const externalId = { issuer, sid: "first" };
    await insertNew(store, { id: "old", externalId });
    await insertNew(store, { id: "new", externalId, replaces: "old", requires: "old" });
    assert.deepEqual(await listed(store, key("sid", "first")), ["new"]);
    const { revoked } = await store.revokeAll({ external: key("sid", "first") }, "revoked");
    assert.deepEqual(revoked, ["new"]);
  },

  async "revokeAll by external id during inserts ends every session that was inserted before"({
    store,
  }) {
    for (const by of ["sid", "sub"] as const) {
      const externalId = { issuer, sid: `${by}-sid`, sub: `${by}-sub` };
      const external = key(by, `${by}-${by}`);
      const before = new Set<string>();
      let asked = false;
      let ended: readonly string[] = [];
      await atOnce(async (index) => {
        if (index === 30) {
          asked = true;
          ended = (await store.revokeAll({ external }, "revoked")).revoked;
          return;
        }
        const id = `${by}-${index}`;
        await store.insert(newSession({ id, externalId }));
        if (!asked) {
          before.add(id);
        }
      });
      assert.ok([...before].every((id) => ended.includes(id)));
      const rest = await store.revokeAll({ external }, "revoked");
      assert.equal(rest.revoked.length + ended.length, 63);
      assert.deepEqual(await listed(store, external), []);
    }
  },

  async "no session that was forked from one with an external id outlives a concurrent revokeAll"({
    store,
  }) {
    const externalId = { issuer, sid: "first", sub: "ann" };
    await insertNew(store, { id: "origin", externalId });
    await atOnce(async (index) => {
      if (index === 20) {
        await store.revokeAll({ external: key("sid", "first") }, "externalLogout");
        return;
      }
      const id = `fork-${index}`;
      await store.insert(newSession({ id, externalId, requires: "origin" }));
    });
    assert.deepEqual(await listed(store, key("sub", "ann")), []);
  },
};

function key(by: ExternalKey["by"], id: string): ExternalKey {
  return { by, issuer, id };
}

/** Inserts sessions with external ids of each shape. */
async function insertMany(store: SessionStore): Promise<void> {
  const given: Readonly<Record<string, ExternalId | null>> = {
    both: { issuer, sid: "first", sub: "ann" },
    "other-sid": { issuer, sid: "second", sub: "ann" },
    "sub-only": { issuer, sub: "ann" },
    "sid-only": { issuer, sid: "third" },
    "other-sub": { issuer, sid: "fourth", sub: "ben" },
    "other-issuer": { issuer: "https://other.example.com", sid: "first", sub: "ann" },
    // Ids of owners are not external ids.
    none: null,
  };
  for (const [id, externalId] of Object.entries(given)) {
    await insertNew(store, { id, userId: "alice", externalId });
  }
}

/** Returns the ids of the selected live sessions, sorted. */
async function listed(store: SessionStore, external: ExternalKey): Promise<string[]> {
  const { records } = await store.list({ external }, { cursor: undefined, limit: 100 });
  return records.map(({ id }) => id).sort();
}
