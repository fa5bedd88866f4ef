import assert from "node:assert/strict";
import type { SessionStore } from "../../engine/store.ts";
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
