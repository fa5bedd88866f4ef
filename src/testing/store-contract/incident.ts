import assert from "node:assert/strict";
import type { AuditDetail, NewAuditEntry, SessionStore } from "../../engine/store.ts";
import { absolute, atOnce, idle, newSession, type Rules } from "./fixture.ts";

const issuer = "https://api.example.com";
const most = 256;

/** The rules of recorded secrets, of retired keys, and of what concerns all sessions. */
export const incidentRules: Rules = {
  async "recordSecrets returns every secret by id, with the time at which it was seen last"({
    store,
    clock,
  }) {
    assert.deepEqual(await store.recordSecrets([]), { secrets: [], now: clock.now() });
    const first = clock.now();
    await store.recordSecrets([secret("b"), secret("a", "https://former.example.com:8080/x")]);
    await clock.advance(5);
    assert.deepEqual(await store.recordSecrets([secret("b")]), {
      secrets: [
        { ...secret("a", "https://former.example.com:8080/x"), seenAt: first, deadAt: null },
        { ...secret("b"), seenAt: clock.now(), deadAt: null },
      ],
      now: clock.now(),
    });
  },

  async "a secret that was declared dead stays dead since then, also when it is seen again"({
    store,
    clock,
  }) {
    const first = clock.now();
    await store.recordSecrets([secret("a")]);
    await clock.advance(5);
    const deadAt = clock.now();
    const { secrets } = await store.retireSecrets([secret("a"), secret("never seen")]);
    assert.deepEqual(secrets, [
      { ...secret("a"), seenAt: first, deadAt },
      { ...secret("never seen"), seenAt: deadAt, deadAt },
    ]);
    await clock.advance(5);
    await store.retireSecrets([secret("a")]);
    const again = await store.recordSecrets([secret("a")]);
    assert.deepEqual(again.secrets[0], { ...secret("a"), seenAt: clock.now(), deadAt });
  },

  async "at most 256 secrets are kept: those seen last, and every dead one"({ store, clock }) {
    await store.retireSecrets([secret("dead")]);
    await clock.advance(1);
    await store.recordSecrets([secret("oldest"), secret("older")]);
    await clock.advance(1);
    const many = Array.from({ length: most - 3 }, (_, index) => secret(`many-${1000 + index}`));
    assert.equal((await store.recordSecrets(many)).secrets.length, most);
    await clock.advance(1);
    await store.recordSecrets([secret("older")]);
    const { secrets } = await store.recordSecrets([secret("newest")]);
    assert.equal(secrets.length, most);
    const ids = secrets.map(({ id }) => id);
    assert.deepEqual(
      ["dead", "oldest", "older", "newest"].map((id) => ids.includes(id)),
      [true, false, true, true],
    );
  },

  async "of more than 256 dead secrets those that died last are kept"({ store, clock }) {
    await store.retireSecrets([secret("first")]);
    await clock.advance(1);
    const many = Array.from({ length: most }, (_, index) => secret(`many-${1000 + index}`));
    const { secrets } = await store.retireSecrets(many);
    assert.deepEqual(
      secrets.map(({ id }) => id),
      many.map(({ id }) => id),
    );
  },

  async "concurrent calls record every secret, and a secret that dies meanwhile is dead"({
    store,
  }) {
    await atOnce(async (index) => {
      await (index === 32
        ? store.retireSecrets([secret("shared")])
        : store.recordSecrets([secret("shared"), secret(`own-${100 + index}`)]));
    });
    const { secrets } = await store.recordSecrets([]);
    assert.equal(secrets.length, 64);
    assert.notEqual(secrets.find(({ id }) => id === "shared")?.deadAt, null);
  },

  async "retireSecrets and announceKeys append to the change log and wake its readers"({
    store,
    clock,
  }) {
    const { cursor } = await store.changes(undefined, absolute);
    let woken = 0;
    const stop = store.onChange(() => {
      woken += 1;
    });
    const at = clock.now();
    await store.recordSecrets([secret("a")]);
    assert.equal((await store.changes(cursor, 0)).keys, undefined);
    await store.retireSecrets([secret("a")]);
    await store.announceKeys("rotate");
    await store.announceKeys("changed");
    stop();
    assert.ok(woken >= 3);
    const changes = await store.changes(cursor, 0);
    assert.deepEqual(changes.entries, []);
    assert.deepEqual(changes.keys, [
      { kind: "keys", change: "changed", at },
      { kind: "keys", change: "rotate", at },
      { kind: "keys", change: "changed", at },
    ]);
  },

  async "retireSigningKeys removes keys by id, and appends to the change log if it removed one"({
    store,
    clock,
  }) {
    for (const slot of [0, 1, 2]) {
      await store.addSigningKey(signingKey(slot));
    }
    const { cursor } = await store.changes(undefined, absolute);
    assert.deepEqual(await store.retireSigningKeys([]), []);
    assert.deepEqual(await store.retireSigningKeys(["none"]), []);
    assert.equal((await store.changes(cursor, 0)).keys, undefined);
    const retired = await store.retireSigningKeys(["kid-2", "none", "kid-0"]);
    assert.deepEqual([...retired].sort(), ["kid-0", "kid-2"]);
    const { keys } = await store.signingKeys();
    assert.deepEqual(
      keys.map(({ slot }) => slot),
      [1],
    );
    const entry = { kind: "keys", change: "changed", at: clock.now() };
    assert.deepEqual((await store.changes(cursor, 0)).keys, [entry]);
  },

  async "liveIds returns every live session of every user, page by page"({ store, clock }) {
    const [users, tenants] = [
      ["alice", "bob"],
      [null, "acme"],
    ];
    const live: string[] = [];
    for (let index = 0; index < 30; index++) {
      const id = `s-${String.fromCharCode(65 + (index % 2) * 32)}-${100 + index}`;
      const owner = { userId: users[index % 2] ?? "", tenantId: tenants[index % 2] ?? null };
      await store.insert(newSession({ id, ...owner, idle: index === 7 ? 1 : idle }));
      if (index === 8) {
        await store.revoke(id, "signOut");
      } else if (index !== 7) {
        live.push(id);
      }
    }
    await clock.advance(1);
    assert.deepEqual(await allLive(store, 4), live.sort());
    assert.deepEqual(await allLive(store, 100), live.sort());
  },
};

/** Reads all pages; a session may be returned twice. */
async function allLive(store: SessionStore, limit: number): Promise<string[]> {
  const ids = new Set<string>();
  let cursor: string | undefined;
  do {
    const page = await store.liveIds(cursor, limit);
    for (const id of page.ids) {
      ids.add(id);
    }
    cursor = page.cursor;
  } while (cursor !== undefined);
  return [...ids].sort();
}

function secret(id: string, of: string = issuer) {
  return { id, issuer: of };
}

function signingKey(slot: number) {
  const kid = `kid-${slot}`;
  return { slot, kid, alg: "ES256", publicJwk: `{"kid":"${kid}"}`, privateJwk: "sealed" };
}

const keep = 10 * 3_600_000;

/** An entry of the audit log of "alice". */
function entry(given: Partial<NewAuditEntry> = {}): NewAuditEntry {
  return {
    ...{ id: "a1", event: "signedIn", session: "s1", userId: "alice", tenantId: null },
    ...{ age: 0, keep, detail: {} },
    ...given,
  };
}

/** The methods of the audit log; the rules below apply only to stores that have them. */
function auditOf(store: SessionStore) {
  const { appendAudit, listAudit, forgetAudit } = store;
  assert.ok(appendAudit !== undefined && listAudit !== undefined && forgetAudit !== undefined);
  const list = async (userId = "alice", tenantId: string | null = null) => {
    const { records } = await listAudit({ userId, tenantId }, { cursor: undefined, limit: 100 });
    return records;
  };
  const ids = async (userId?: string, tenantId?: string) =>
    (await list(userId, tenantId)).map(({ id }) => id);
  return { append: appendAudit, list: listAudit, forget: forgetAudit, all: list, ids };
}

/** The rules of the audit log. */
export const auditRules: Rules = ifAudited({
  async "the audit log returns entries as they were given, with their time"({ store, clock }) {
    const { append, all } = auditOf(store);
    const detail: AuditDetail = {
      ...{ endedBy: "revoked", by: "admin: 'Zoë' 🦊", reason: 'a "quoted"\nline', from: "s2" },
      ...{ claims: ["role", "__proto__", ""], device: { ip: "192.0.2.1", userAgent: "Agent/1.0" } },
    };
    const at = clock.now();
    await append([entry({ event: "ended", tenantId: "acme", detail })]);
    assert.deepEqual(await all(), [
      ...[
        { id: "a1", at, event: "ended", session: "s1", userId: "alice", tenantId: "acme", detail },
      ],
    ]);
    await append([]);
  },

  async "the audit log is listed by user and tenant, newest first, then by descending id"({
    store,
    clock,
  }) {
    const { append, ids } = auditOf(store);
    await append([entry({ id: "b" }), entry({ id: "a", tenantId: "t" }), entry({ id: "c" })]);
    await clock.advance(5);
    await append([
      ...[entry({ id: "old", age: 3 }), entry({ id: "new", tenantId: "t" })],
      ...[entry({ id: "x", userId: "bob" }), entry({ id: "y", tenantId: "u" })],
    ]);
    assert.deepEqual(await ids(), ["y", "new", "old", "c", "b", "a"]);
    assert.deepEqual(await ids("alice", "t"), ["new", "a"]);
    assert.deepEqual(await ids("bob"), ["x"]);
    assert.deepEqual(await ids("bob", "t"), []);
    assert.deepEqual(await ids("nobody"), []);
  },

  async "the audit log is read in pages, each entry once, also at equal times"({ store, clock }) {
    const { append, list } = auditOf(store);
    const names = Array.from({ length: 250 }, (_, index) => `e${String(index).padStart(3, "0")}`);
    for (let from = 0; from < names.length; from += 50) {
      await append(names.slice(from, from + 50).map((id) => entry({ id })));
      await (from % 100 === 0 ? clock.advance(1) : undefined);
    }
    for (const limit of [1, 7, 50, 100, 249, 250, 251]) {
      const seen: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await list({ userId: "alice", tenantId: null }, { cursor, limit });
        assert.ok(page.records.length <= limit);
        seen.push(...page.records.map(({ id }) => id));
        cursor = page.cursor;
        // A new entry belongs to no later page.
        await append([entry({ id: `later-${limit}-${seen.length}`, userId: "bob" })]);
      } while (cursor !== undefined);
      assert.deepEqual(seen, names.toReversed());
    }
  },

  async "an entry that is written again is not doubled, and keeps its time"({ store, clock }) {
    const { append, all } = auditOf(store);
    const at = clock.now();
    await append([entry()]);
    await clock.advance(9);
    await append([entry(), entry({ id: "a2" })]);
    const times = (await all()).map((found) => [found.id, found.at]);
    assert.deepEqual(times, [
      ["a2", at + 9],
      ["a1", at],
    ]);
  },

  async "an entry without a user gets that of its session, also once that has ended"({ store }) {
    const { append, all, ids } = auditOf(store);
    await store.insert(newSession({ tenantId: "acme" }));
    await store.revoke("s1", "revoked");
    await append([
      entry({ id: "known", userId: null }),
      entry({ id: "unknown", session: "s9", userId: null }),
    ]);
    const found = (await all()).map(({ id, userId, tenantId }) => [id, userId, tenantId]);
    assert.deepEqual(found, [["known", "alice", "acme"]]);
    assert.deepEqual(await ids("", ""), []);
  },

  async "entries are kept as long as each says, and prune then removes them"({ store, clock }) {
    const { append, ids } = auditOf(store);
    const short = Array.from({ length: 7 }, (_, index) => entry({ id: `s${index}`, keep: 1_000 }));
    await append([
      ...short,
      entry({ id: "long" }),
      entry({ id: "bob", userId: "bob", keep: 1_000 }),
    ]);
    await clock.advance(999);
    assert.equal((await ids()).length, 8);
    assert.equal(await store.prune(3), 0);
    await clock.advance(1);
    assert.deepEqual(await ids(), ["long"]);
    assert.deepEqual(await ids("bob"), []);
    assert.equal(await store.prune(3), 3);
    assert.equal(await store.prune(3), 3);
    assert.equal(await store.prune(3), 2);
    assert.equal(await store.prune(3), 0);
    assert.deepEqual(await ids(), ["long"]);
    await clock.advance(keep);
    assert.equal(await store.prune(3), 1);
  },

  async "a user can be forgotten, in one tenant or in all"({ store, clock }) {
    const { append, forget, ids } = auditOf(store);
    await append([
      ...[entry({ id: "a" }), entry({ id: "b", tenantId: "t" }), entry({ id: "c", tenantId: "u" })],
      entry({ id: "d", userId: "bob", tenantId: "t" }),
    ]);
    await forget({ userId: "alice", tenantId: "t" });
    assert.deepEqual(await ids(), ["c", "a"]);
    await forget({ userId: "alice", tenantId: null });
    assert.deepEqual(await ids(), []);
    assert.deepEqual(await ids("bob"), ["d"]);
    // Nothing is left of them for prune.
    await clock.advance(keep);
    assert.equal(await store.prune(10), 1);
  },
});

/** Returns rules that pass if the store has no audit log. */
function ifAudited(rules: Rules): Rules {
  const optional = Object.entries(rules).map(([name, check]): [string, Rules[string]] => [
    name,
    async (fixture) => (fixture.store.appendAudit === undefined ? undefined : check(fixture)),
  ]);
  return Object.fromEntries(optional);
}
