import assert from "node:assert/strict";
import { decideRefresh } from "../../engine/refresh/rule.ts";
import type { AdvanceWrite, SessionRecord, SessionStore, TokenProof } from "../../engine/store.ts";
import { advance, atOnce, confirmOne, idle, newSession, type Rules } from "./fixture.ts";

const overlap = 1_000;
const second = 1_000;
/** A session with tokens of format 2. */
const rooted = { salt: "", rootHash: "hash-of-root" } as const;

function write(given: Partial<AdvanceWrite> = {}): AdvanceWrite {
  return {
    ...{ id: "s1", generation: 0, secretId: "secret-a", transport: "cookie" },
    ...{ rootHash: rooted.rootHash, boundKey: null, overlap, idle, nextSecretId: "secret-b" },
    ...given,
  };
}

/** The write; the rules below apply only to stores that have it. */
function advanceOf(store: SessionStore) {
  return (given: AdvanceWrite) => {
    assert.ok(store.advance !== undefined);
    return store.advance(given);
  };
}

/** Returns rules that pass if the store does not try to advance sessions by itself. */
function ifTried(rules: Rules): Rules {
  const optional = Object.entries(rules).map(([name, check]): [string, Rules[string]] => [
    name,
    async (fixture) => (fixture.store.advance === undefined ? undefined : check(fixture)),
  ]);
  return Object.fromEntries(optional);
}

/** The rules of `advance`. */
export const advanceRules: Rules = ifTried({
  async "a session that was confirmed longer ago than the overlap advances in one write"({
    store,
    clock,
  }) {
    const { record } = await store.insert(newSession(rooted));
    await clock.advance(10);
    await confirmOne(store, "s1", 0, 0);
    await clock.advance(overlap + 1);
    const now = clock.now();
    const expected = {
      ...record,
      ...{ generation: 1, secretId: "secret-b", formerSecretId: "secret-a" },
      ...{ confirmedAt: null, rotatedAt: now, sentAt: now, prolonged: 0 },
      ...{ lastSeenAt: now, idleExpiresAt: now + idle },
    };
    const advanced = await advanceOf(store)(write());
    assert.deepEqual(advanced, { record: expected, now, advanced: true });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
    const again = await advanceOf(store)(write());
    assert.deepEqual(again, { record: expected, now, advanced: false });
  },

  async "it returns the whole session as a read does, whichever fields it has"({ store, clock }) {
    const start = clock.now();
    await store.insert(
      newSession({
        ...{ tenantId: "acme", transport: "header", boundKey: "key-a", lineage: "l1.l2" },
        ...{ accessLife: 600_000, idleLife: 900_000 },
        ...{
          createdAt: start - 3 * second,
          authTime: start - 2 * second,
          endsBy: start + 2_000_000,
        },
        externalId: { issuer: "https://id.example", sid: "sid-1", sub: "sub-1" },
        authentication: { acr: "high", amr: ["pwd", "otp"] },
        device: { userAgent: `Agent/1.0 (${"ö".repeat(200)})`, ip: "192.0.2.1" },
      }),
    );
    await store.update({ id: "s1", version: 0, claims: { role: "owner" } });
    await store.update({ id: "s1", version: 1, data: { cart: [3] } });
    const proof = { salt: "", rootHash: rooted.rootHash, lastSalted: "hash-of-token" };
    const first = { kind: "advance", id: "s1", generation: 0, secretId: "secret-b" } as const;
    await store.refresh({ ...first, idle, proof });
    await confirmOne(store, "s1", 1, 0);
    await clock.advance(overlap + 1);
    const { record: before } = await store.load("s1");
    assert.ok(before !== undefined);
    const given = { transport: "header", boundKey: "key-a", generation: 1 } as const;
    const { record } = await advanceOf(store)(write({ ...given, secretId: before.secretId }));
    const now = clock.now();
    assert.deepEqual(record, {
      ...before,
      ...{ generation: 2, secretId: "secret-b", formerSecretId: before.secretId },
      ...{ confirmedAt: null, rotatedAt: now, sentAt: now, prolonged: 0 },
      ...{ lastSeenAt: now, idleExpiresAt: now + 900_000 },
    });
    assert.deepEqual((await store.load("s1")).record, record);
  },

  async "the idle end is that of the session's own idle life, and never after the absolute end"({
    store,
    clock,
  }) {
    await store.insert(newSession({ ...rooted, idleLife: 700_000 }));
    await store.insert(newSession({ ...rooted, id: "s2", absolute: 20 * second }));
    for (const id of ["s1", "s2"]) {
      await confirmOne(store, id, 0, 0);
    }
    await clock.advance(overlap + 1);
    const { record: own, now } = await advanceOf(store)(write());
    assert.equal(own?.idleExpiresAt, now + 700_000);
    const { record: short } = await advanceOf(store)(write({ id: "s2" }));
    assert.equal(short?.idleExpiresAt, short?.expiresAt);
  },

  async "it applies exactly where the rule of refreshing says so, for every row and every token"({
    store,
    clock,
  }) {
    const applied: string[] = [];
    for (const [index, row] of rows.entries()) {
      const id = `row-${index}`;
      await makeRow(store, clock, id, row);
      for (const token of tokens) {
        const { record, now } = await store.load(id);
        const given = write({ id, ...token });
        const { advanced, ...found } = await advanceOf(store)(given);
        const should = ruleSays(record, given, now);
        assert.equal(advanced, should, JSON.stringify({ row, token }));
        if (advanced) {
          applied.push(id);
          assert.equal(found.record?.generation, (record?.generation ?? 0) + 1);
        } else {
          assert.deepEqual(found, { record, now });
        }
      }
    }
    // Two of the rows are ripe and live: the right token advances each of them once.
    assert.equal(applied.length, rows.filter(({ ripe, end }) => ripe && end === "none").length);
    assert.equal(new Set(applied).size, applied.length);
  },

  async "writes at the same time change what they would change one after the other"({
    store,
    clock,
  }) {
    // Those that end by a time pass so much of it that the others would end too.
    const some = rows.filter(({ end }) => end === "none" || end === "revoked");
    const ids = some.map((_, index) => `row-${index}`);
    for (const [index, row] of some.entries()) {
      await makeRow(store, clock, ids[index] ?? "", row);
    }
    const before = await Promise.all(ids.map(async (id) => store.load(id)));
    const given = before.flatMap(({ record, now }, index) =>
      tokens.map((token) => {
        const one = write({ id: ids[index] ?? "", ...token });
        return { index, one, should: ruleSays(record, one, now) };
      }),
    );
    const done = await Promise.all(given.map(({ one }) => advanceOf(store)(one)));
    for (const [place, { index, one, should }] of given.entries()) {
      assert.equal(done[place]?.advanced, should, JSON.stringify({ row: some[index], one }));
      assert.equal(done[place]?.record?.id, one.id);
    }
    for (const [index, { record }] of before.entries()) {
      const place = given.findIndex((one) => one.index === index && one.should);
      const expected = place < 0 ? record : done[place]?.record;
      assert.deepEqual((await store.load(ids[index] ?? "")).record, expected);
    }
    assert.ok(given.some(({ should }) => should));
  },

  async "a session that does not exist stays so"({ store, clock }) {
    const nobody = await advanceOf(store)(write({ id: "nobody" }));
    assert.deepEqual(nobody, { record: undefined, now: clock.now(), advanced: false });
  },

  async "exactly one of the concurrent writes of a generation succeeds"({ store, clock }) {
    await store.insert(newSession(rooted));
    await confirmOne(store, "s1", 0, 0);
    await clock.advance(overlap + 1);
    const done = await atOnce((index) =>
      advanceOf(store)(write({ nextSecretId: `secret-${index}` })),
    );
    assert.equal(done.filter(({ advanced }) => advanced).length, 1);
    const { record } = await store.load("s1");
    assert.equal(record?.generation, 1);
    assert.deepEqual(done.find(({ advanced }) => advanced)?.record, record);
  },

  async "it erases the salt, and keeps the hash of the last salted token"({ store, clock }) {
    await store.insert(newSession());
    const proof: TokenProof = { salt: "c2FsdA", rootHash: rooted.rootHash, lastSalted: "last" };
    const moved = await store.refresh({ ...advance(0), kind: "advance", secretId: "a", proof });
    assert.deepEqual(proofOf(moved.record), proof);
    await confirmOne(store, "s1", 1, 0);
    await clock.advance(overlap + 1);
    const { record } = await advanceOf(store)(write({ generation: 1, secretId: "a" }));
    assert.deepEqual(proofOf(record), { ...proof, salt: "" });
    const kept = await store.refresh(advance(2));
    assert.deepEqual(proofOf(kept.record), { ...proof, salt: "" });
    const none = { salt: "", rootHash: null, lastSalted: null };
    const write3 = { ...advance(3), kind: "forward", to: 9, secretId: "b", proof: none } as const;
    const { record: forwarded } = await store.refresh(write3);
    assert.deepEqual(proofOf(forwarded), none);
    assert.equal(forwarded?.formerSecretId, null);
  },
});

function proofOf(record: SessionRecord | undefined): TokenProof | undefined {
  return record && { salt: record.salt, rootHash: record.rootHash, lastSalted: record.lastSalted };
}

/** A state of a row. */
interface Row {
  readonly rootHash: string | null;
  readonly boundKey: string | null;
  /** Milliseconds ago; undefined if it is not confirmed. */
  readonly confirmed: number | undefined;
  readonly end: "none" | "revoked" | "idle" | "absolute";
  readonly ripe: boolean;
}

const rows: readonly Row[] = [
  { rootHash: rooted.rootHash, boundKey: null },
  { rootHash: rooted.rootHash, boundKey: "key-a" },
  { rootHash: "hash-of-another", boundKey: null },
  { rootHash: null, boundKey: null },
].flatMap((held) =>
  ([undefined, -60 * second, 0, overlap, overlap + 1] as const).flatMap((confirmed) =>
    (["none", "revoked", "idle", "absolute"] as const).map((end) => {
      const isConfirmed = confirmed !== undefined && confirmed > overlap;
      return { ...held, confirmed, end, ripe: isConfirmed && held.rootHash === rooted.rootHash };
    }),
  ),
);

/** Everything that a token of an unbound session can present. The right one comes last. */
const unbound: readonly Partial<AdvanceWrite>[] = [0, 2, 1].flatMap((generation) =>
  ["secret-b", "secret-a"].flatMap((secretId) =>
    (["header", "cookie"] as const).flatMap((transport) =>
      ["hash-of-nothing", rooted.rootHash].map((rootHash) => {
        return { generation, secretId, transport, rootHash };
      }),
    ),
  ),
);

/** And with it the keys that a request can have proven. The right token of a row changes it. */
const tokens: readonly Partial<AdvanceWrite>[] = [
  ...unbound,
  ...["key-b", "key-a"].map((boundKey) => ({ generation: 1, boundKey })),
];

/** Makes a row of generation 1. */
async function makeRow(
  store: SessionStore,
  clock: { advance(ms: number): void | Promise<void> },
  id: string,
  { rootHash, boundKey, confirmed, end }: Row,
): Promise<void> {
  const life = end === "absolute" ? { absolute: 60 * second } : {};
  const idleFor = end === "idle" ? 60 * second : idle;
  await store.insert(newSession({ id, salt: "", rootHash, boundKey, idle: idleFor, ...life }));
  await store.refresh({ kind: "advance", id, generation: 0, idle: idleFor, secretId: "secret-a" });
  const pass = end === "idle" || end === "absolute" ? 60 * second : 0;
  if (confirmed === undefined) {
    await clock.advance(pass);
    return;
  }
  await confirmOne(store, id, 1, 0);
  await clock.advance(confirmed);
  if (pass > confirmed) {
    // The age of the confirmation does not matter any more.
    await clock.advance(pass - confirmed);
  }
  if (end === "revoked") {
    await store.revoke(id, "revoked");
  }
}

/** What the pure rule decides for a token, once the row has proven it. */
function ruleSays(record: SessionRecord | undefined, given: AdvanceWrite, now: number): boolean {
  const isProven =
    record !== undefined &&
    record.rootHash === given.rootHash &&
    record.transport === given.transport &&
    record.boundKey === given.boundKey &&
    record.secretId === given.secretId;
  return (
    isProven &&
    decideRefresh(record, given.generation, { now, overlap, settle: 0 }).kind === "advance"
  );
}
