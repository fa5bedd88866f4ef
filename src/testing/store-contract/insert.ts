import assert from "node:assert/strict";
import type { SessionRecord } from "../../engine/store.ts";
import {
  absolute,
  advance,
  atOnce,
  awkwardJson,
  idle,
  insertNew,
  newSession,
  type Rules,
} from "./fixture.ts";

/** The rules of `insert` and `load`. */
export const insertRules: Rules = {
  async "insert starts at generation 0, unconfirmed, with times from the store's clock"({
    store,
    clock,
  }) {
    const now = clock.now();
    const {
      idle: _i,
      absolute: _a,
      endsBy: _e,
      createdAt: _c,
      replaces: _p,
      requires: _q,
      limit: _l,
      ...given
    } = newSession();
    const expected: SessionRecord = {
      ...given,
      generation: 0,
      confirmedAt: null,
      rotatedAt: now,
      sentAt: now,
      prolonged: 0,
      createdAt: now,
      authTime: now,
      idleExpiresAt: now + idle,
      expiresAt: now + absolute,
      claimsVersion: 0,
      version: 0,
      lastSeenAt: now,
      revokedAt: null,
      lastSalted: null,
      formerSecretId: null,
      endedBy: null,
    };
    const inserted = await store.insert(newSession());
    assert.deepEqual(inserted, { record: expected, now, replaced: false, evicted: [] });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
  },

  async "insert limits the idle end to the absolute end"({ store }) {
    const { record } = await insertNew(store, { idle: absolute + 1 });
    assert.equal(record.idleExpiresAt, record.expiresAt);
  },

  async "insert limits both ends to `endsBy`, if that is earlier"({ store, clock }) {
    const start = clock.now();
    const early = await insertNew(store, { endsBy: start + idle - 1 });
    assert.equal(early.record.expiresAt, start + idle - 1);
    assert.equal(early.record.idleExpiresAt, start + idle - 1);
    const between = await insertNew(store, { id: "s2", endsBy: start + idle + 1 });
    assert.equal(between.record.expiresAt, start + idle + 1);
    assert.equal(between.record.idleExpiresAt, start + idle);
    const late = await insertNew(store, { id: "s3", endsBy: start + absolute + 1 });
    assert.equal(late.record.expiresAt, start + absolute);
    assert.deepEqual((await store.load("s2")).record, between.record);
    await clock.advance(idle - 1);
    assert.equal((await store.refresh(advance(0))).record, undefined);
    const { record } = await store.refresh({ ...advance(0), id: "s2" });
    assert.equal(record?.idleExpiresAt, start + idle + 1);
  },

  async "insert stores the session's own lifetimes and the time of authentication"({
    store,
    clock,
  }) {
    const authTime = clock.now() - 3_600_000;
    const lives = { accessLife: 60_000, idleLife: idle };
    const { record } = await insertNew(store, { authTime, ...lives, lineage: "s0.s1" });
    assert.equal(record.authTime, authTime);
    assert.equal(record.lineage, "s0.s1");
    assert.equal((await insertNew(store, { id: "s2" })).record.lineage, null);
    assert.deepEqual([record.accessLife, record.idleLife], [60_000, idle]);
    assert.deepEqual((await store.load("s1")).record, record);
    const refreshed = (await store.refresh(advance(0))).record;
    assert.equal(refreshed?.authTime, authTime);
    assert.equal(refreshed?.lineage, "s0.s1");
    assert.deepEqual([refreshed?.accessLife, refreshed?.idleLife], [60_000, idle]);
  },

  async "insert stores when another system began the session, and changes no other time for it"({
    store,
    clock,
  }) {
    const now = clock.now();
    const createdAt = now - 400 * 86_400_000;
    const externalId = { issuer: "former", sid: "1" };
    const old = { createdAt, externalId, tenantId: "one" };
    const { record } = await insertNew(store, old);
    assert.deepEqual(
      [record.createdAt, record.authTime, record.lastSeenAt, record.rotatedAt, record.sentAt],
      [createdAt, now, now, now, now],
    );
    assert.deepEqual([record.idleExpiresAt, record.expiresAt], [now + idle, now + absolute]);
    const { record: newer } = await insertNew(store, { id: "s2", externalId, tenantId: "one" });
    assert.equal(newer.createdAt, now);
    // Lists are ordered by it, from page to page.
    for (const selection of [
      { userId: "alice", tenantId: null },
      { userId: null, tenantId: "one" },
      { external: { by: "sid", issuer: "former", id: "1" } },
    ] as const) {
      const first = await store.list(selection, { cursor: undefined, limit: 1 });
      const second = await store.list(selection, { cursor: first.cursor, limit: 1 });
      const ids = [...first.records, ...second.records].map(({ id }) => id);
      assert.deepEqual(ids, ["s2", "s1"]);
    }
    // It stays, and counts as the oldest.
    assert.equal((await store.refresh(advance(0))).record?.createdAt, createdAt);
    const limit = { max: 2, overflow: "evict" } as const;
    const { evicted } = await insertNew(store, { id: "s3", tenantId: "one", limit });
    assert.deepEqual(evicted, ["s1"]);
    assert.equal((await store.load("s1")).record?.createdAt, createdAt);
  },

  async "insert stores tenant, transport, device and unusual JSON unchanged"({ store }) {
    const session = newSession({
      tenantId: "tenant-ü",
      transport: "header",
      claims: awkwardJson,
      data: { inner: awkwardJson },
      device: {},
    });
    await store.insert(session);
    const { record } = await store.load("s1");
    assert.equal(record?.tenantId, "tenant-ü");
    assert.equal(record?.transport, "header");
    assert.deepEqual(record?.claims, awkwardJson);
    assert.deepEqual(record?.data, { inner: awkwardJson });
    assert.deepEqual(record?.device, {});
    assert.equal(Object.hasOwn(record?.claims ?? {}, "__proto__"), true);
  },

  async "insert rejects an existing id and changes nothing"({ store }) {
    await store.insert(newSession({ id: "old" }));
    await store.insert(newSession());
    const before = [await store.load("s1"), await store.load("old")];
    await assert.rejects(store.insert(newSession({ userId: "mallory", replaces: "old" })));
    assert.deepEqual([await store.load("s1"), await store.load("old")], before);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
  },

  async "insert rejects the id of an ended session"({ store }) {
    await store.insert(newSession());
    await store.revoke("s1", "theft");
    await assert.rejects(store.insert(newSession()));
    assert.equal((await store.load("s1")).record?.endedBy, "theft");
  },

  async "exactly one of the concurrent inserts with the same id succeeds"({ store }) {
    const done = await atOnce((index) =>
      insertNew(store, { userId: `user-${index}` }).then(
        ({ record }) => record.userId,
        () => undefined,
      ),
    );
    const winners = done.filter((userId) => userId !== undefined);
    assert.equal(winners.length, 1);
    assert.equal((await store.load("s1")).record?.userId, winners[0]);
  },

  async "insert ends the session it replaces, and logs it"({ store, clock }) {
    await store.insert(newSession({ id: "old" }));
    await clock.advance(7);
    const { record, replaced } = await insertNew(store, { replaces: "old" });
    assert.equal(replaced, true);
    assert.equal(record.revokedAt, null);
    const old = (await store.load("old")).record;
    assert.deepEqual([old?.revokedAt, old?.endedBy], [clock.now(), "replaced"]);
    const { entries } = await store.changes(undefined, absolute);
    const at = clock.now();
    assert.deepEqual(entries, [{ kind: "revoked", session: "old", endedBy: "replaced", at }]);
  },

  async "insert logs nothing if the session to replace is missing or has ended"({ store }) {
    const { replaced } = await insertNew(store, { replaces: "absent" });
    assert.equal(replaced, false);
    assert.deepEqual((await store.changes(undefined, absolute)).entries, []);
    await store.revoke("s1", "signOut");
    await store.insert(newSession({ id: "s2", replaces: "s1" }));
    assert.equal((await store.load("s1")).record?.endedBy, "signOut");
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },

  async "load returns no record for an unknown id"({ store, clock }) {
    assert.deepEqual(await store.load("absent"), { record: undefined, now: clock.now() });
  },

  async "load compares ids exactly"({ store }) {
    await store.insert(newSession({ id: "Id" }));
    for (const id of ["id", "ID", "Id ", "I%", "I_", ""]) {
      assert.equal((await store.load(id)).record, undefined, JSON.stringify(id));
    }
  },

  async "load returns expired and ended sessions"({ store, clock }) {
    await store.insert(newSession());
    await store.insert(newSession({ id: "s2" }));
    await store.revoke("s2", "revoked");
    await clock.advance(absolute + 1);
    const { record, now } = await store.load("s1");
    assert.equal(now, clock.now());
    assert.equal(record?.expiresAt, now - 1);
    assert.equal((await store.load("s2")).record?.endedBy, "revoked");
  },

  async "changing a returned or passed object does not change stored data"({ store }) {
    const claims = { role: "user", list: [1] };
    const device = { ip: "192.0.2.1" };
    const inserted = await insertNew(store, { claims, device });
    const kept = structuredClone(inserted.record);
    claims.role = "admin";
    claims.list.push(2);
    device.ip = "198.51.100.1";
    const loaded = await store.load("s1");
    for (const { record } of [inserted, loaded]) {
      tamper(() => Object.assign(record ?? {}, { generation: 9, userId: "mallory" }));
      tamper(() => Object.assign(record?.claims ?? {}, { role: "admin" }));
      tamper(() => Object.assign(record?.claims.list ?? {}, { 0: 3 }));
      tamper(() => Object.assign(record?.device ?? {}, { ip: "198.51.100.1" }));
    }
    assert.deepEqual((await store.load("s1")).record, kept);
  },
};

function tamper(action: () => unknown): void {
  try {
    action();
  } catch {
    // Frozen records throw, copies do not.
  }
}

/** The rules of an `insert` with `requires`. */
export const requiresRules: Rules = {
  async "insert is refused if the required session is not live"({ store, clock }) {
    await store.insert(newSession({ id: "live" }));
    await store.insert(newSession({ id: "ended" }));
    await store.insert(newSession({ id: "expired", idle: 1 }));
    await store.insert(newSession({ id: "bystander" }));
    await store.revoke("ended", "signOut");
    await clock.advance(1);
    const { cursor } = await store.changes(undefined, 0);
    for (const requires of ["absent", "ended", "expired"]) {
      const answer = await store.insert(newSession({ requires, replaces: "bystander" }));
      assert.deepEqual(answer, { record: undefined, now: clock.now(), refused: "notLive" });
      assert.equal((await store.load("s1")).record, undefined);
    }
    assert.equal((await store.load("bystander")).record?.revokedAt, null);
    assert.deepEqual((await store.changes(cursor, 0)).entries, []);
    const { record } = await insertNew(store, { requires: "live" });
    assert.deepEqual((await store.load("s1")).record, record);
    assert.equal((await store.load("live")).record?.revokedAt, null);
  },

  async "insert stores how the user authenticated unchanged, and nothing changes it"({ store }) {
    const given = [
      { acr: "phr", amr: ["hwk", "user"] },
      { acr: "urn:mace:loa-2" },
      { amr: ["pwd"] },
    ];
    for (const [index, authentication] of given.entries()) {
      const { record } = await insertNew(store, { id: `s${index + 1}`, authentication });
      assert.deepEqual(record.authentication, authentication);
      assert.deepEqual((await store.load(record.id)).record?.authentication, authentication);
    }
    assert.equal((await insertNew(store, { id: "s4" })).record.authentication, null);
    assert.deepEqual((await store.refresh(advance(0))).record?.authentication, given[0]);
    const updated = await store.update({ id: "s1", version: 0, claims: {}, data: {} });
    assert.deepEqual(updated.record?.authentication, given[0]);
    assert.deepEqual((await store.revoke("s1", "signOut")).record?.authentication, given[0]);
  },

  async "one of many concurrent inserts may replace the session that all of them require"({
    store,
  }) {
    await store.insert(newSession({ id: "old" }));
    const done = await atOnce((index) =>
      store.insert(newSession({ id: `s-${index}`, requires: "old", replaces: "old" })),
    );
    const winners = done.filter(({ record }) => record !== undefined);
    assert.deepEqual(
      winners.map((winner) => "replaced" in winner && winner.replaced),
      [true],
    );
    assert.equal((await store.load("old")).record?.endedBy, "replaced");
    const loaded = await atOnce((index) => store.load(`s-${index}`));
    assert.equal(loaded.filter(({ record }) => record !== undefined).length, 1);
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },
};
