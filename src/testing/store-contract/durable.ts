import assert from "node:assert/strict";
import type { SessionStore } from "../../engine/store.ts";
import {
  absolute,
  advance,
  atOnce,
  awkwardJson,
  type DurableStoreFixture,
  evictAbove,
  newSession,
  type Rules,
} from "./fixture.ts";

/** The rules of a store that keeps its sessions outside the process. */
export const durableRules: Rules<DurableStoreFixture> = {
  async "everything survives a restart"(fixture) {
    const { store, clock } = fixture;
    await store.secret?.();
    await store.insert(newSession({ claims: awkwardJson }));
    await store.insert(
      newSession({ id: "s2", replaces: "s1", accessLife: 1, idleLife: 2, lineage: "s1" }),
    );
    await store.update({ id: "s2", version: 0, claims: { role: "user" }, data: awkwardJson });
    await store.addSigningKey({ slot: 0, kid: "k", alg: "ES256", publicJwk: "", privateJwk: "" });
    // The first read of the change log names the history of the data.
    await store.changes(undefined, absolute);
    const before = await everything(store);
    await store.close();
    const restarted = fixture.another();
    await restarted.open({ clock });
    assert.deepEqual(await everything(restarted), before);
    await restarted.close();
  },

  async "the change log continues after a restart"(fixture) {
    const { store, clock } = fixture;
    await store.insert(newSession());
    await store.revoke("s1", "revoked");
    const { cursor } = await store.changes(undefined, absolute);
    await store.close();
    const restarted = fixture.another();
    await restarted.open({ clock });
    await restarted.insert(newSession({ id: "s2" }));
    await restarted.revoke("s2", "revoked");
    const { entries } = await restarted.changes(cursor, 0);
    assert.deepEqual(
      entries.map(({ session }) => session),
      ["s2"],
    );
    await restarted.close();
  },

  async "stores that open the same empty data concurrently agree on the secret"(fixture) {
    const stores = [fixture.another(), fixture.another(), fixture.another()];
    await Promise.all(stores.map((store) => store.open(fixture)));
    const secrets = await Promise.all(stores.map(async (store) => store.secret?.()));
    assert.deepEqual(
      secrets,
      secrets.map(() => secrets[0]),
    );
    await Promise.all(stores.map((store) => store.close()));
  },

  async "a change by one server is visible to every other server"(fixture) {
    const { store } = fixture;
    const other = fixture.another();
    await other.open(fixture);
    await store.insert(newSession());
    assert.equal((await other.refresh(advance(0))).record?.generation, 1);
    assert.equal((await store.refresh(advance(0))).record, undefined);
    assert.equal((await store.revoke("s1", "theft")).revoked, true);
    assert.equal((await other.revoke("s1", "signOut")).revoked, false);
    assert.equal((await other.load("s1")).record?.endedBy, "theft");
    assert.equal((await other.changes(undefined, absolute)).entries.length, 1);
    await other.close();
  },

  async "only one of two servers holds a lease, and the lease survives a restart"(fixture) {
    const { store, clock } = fixture;
    const other = fixture.another();
    await other.open(fixture);
    assert.equal(await store.lease("work", "a", 1000), true);
    await store.close();
    assert.equal(await other.lease("work", "b", 1000), false);
    await clock.advance(1000);
    assert.equal(await other.lease("work", "b", 1000), true);
    await other.close();
  },

  async "exactly one of the concurrent changes by two servers succeeds"(fixture) {
    const other = fixture.another();
    await other.open(fixture);
    const servers = [fixture.store, other];
    const server = (index: number): SessionStore => servers[index % 2] ?? other;
    await fixture.store.insert(newSession());
    const advanced = await atOnce((index) => server(index).refresh(advance(0)));
    assert.equal(advanced.filter(({ record }) => record !== undefined).length, 1);
    const ended = await atOnce((index) => server(index).revoke("s1", "theft"));
    assert.equal(ended.filter(({ revoked }) => revoked).length, 1);
    assert.equal((await other.changes(undefined, absolute)).entries.length, 1);
    await other.close();
  },

  async "limits and revokeAll cover sessions that two servers insert concurrently"(fixture) {
    const { store } = fixture;
    const other = fixture.another();
    await other.open(fixture);
    const limit = evictAbove(3);
    await atOnce((index) =>
      (index % 2 ? store : other).insert(newSession({ id: `s-${index}`, limit })),
    );
    const page = { cursor: undefined, limit: 100 };
    const left = (await other.list(alice, page)).records;
    assert.equal(left.length, 3);
    const { revoked } = await store.revokeAll({ ...alice, except: null }, "revoked");
    assert.deepEqual([...revoked].sort(), left.map(({ id }) => id).sort());
    assert.deepEqual((await other.list(alice, page)).records, []);
    assert.equal((await other.changes(undefined, absolute)).entries.length, 64);
    await other.close();
  },
};

const alice = { userId: "alice", tenantId: null };

async function everything(store: SessionStore) {
  return {
    sessions: [await store.load("s1"), await store.load("s2")],
    list: await store.list(alice, { cursor: undefined, limit: 10 }),
    changes: await store.changes(undefined, absolute),
    keys: await store.signingKeys(),
    secret: await store.secret?.(),
  };
}
