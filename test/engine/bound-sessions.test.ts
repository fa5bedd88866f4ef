import { describe, expect, it } from "vitest";
import type { SessionError } from "../../src/base/errors.ts";
import { Engine } from "../../src/engine/engine.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";

const [key, other] = ["A".repeat(43), `${"B".repeat(42)}A`];

async function failure(work: Promise<unknown>): Promise<Partial<SessionError>> {
  return work.then(
    () => ({}),
    (error: SessionError) => error,
  );
}

const content = {
  ...{ userId: "alice", tenantId: null, claims: {}, data: {}, device: {} },
  ...{ transport: "header" as const, replaces: null },
};

interface WorldOptions {
  readonly store?: SessionStore;
  readonly onMismatch?: "refuse" | "revoke";
}

async function startWorld({ store = memoryStore(), onMismatch }: WorldOptions = {}) {
  const clock = createFakeClock();
  const events: Record<string, unknown>[] = [];
  const engine = await new Engine({
    ...{ issuer: "https://api.example.com", audience: "https://api.example.com" },
    ...{ store, secret: undefined, lifetimes: readLifetimes({}, {}), clockSkew: 60_000, clock },
    ...(onMismatch === undefined ? {} : { onMismatch }),
    emit: (event) => events.push({ ...event }),
  }).open();
  const signIn = (boundKey: string | null = key) => engine.creator.create({ ...content, boundKey });
  const refresh = (token: string, provenKey?: string) =>
    engine.refresher.refresh({ token, transport: "header", provenKey });
  /** Lets a generation be confirmed, so that its next refresh advances. */
  const confirm = async (token: string, provenKey?: string) => {
    clock.advance("60s");
    await refresh(token, provenKey);
    clock.advance("31s");
  };
  return { engine, store, clock, events, signIn, refresh, confirm };
}

/** A store that advances nothing by itself, so that the engine reads and decides. */
function withoutAdvance(): SessionStore {
  const store = memoryStore();
  return Object.assign(store, { advance: undefined });
}

describe.each([
  ["one statement", () => memoryStore()],
  ["read and decide", withoutAdvance],
])("a bound session (%s)", (_name, newStore) => {
  it("feat:S2 sec:P02 cannot be ended by a copied access token, although its owner has lost the newest refresh token in a crash", async () => {
    const { engine, clock, events, signIn, refresh, confirm } = await startWorld({
      store: newStore(),
    });
    const { refreshToken: before } = await signIn();
    await confirm(before, key);
    // The answer reaches the owner and the thief. Then the owner's device crashes, and has the token before.
    const { access, refreshToken } = await refresh(before, key);
    expect(refreshToken).toBeDefined();
    clock.advance("60s");
    engine.used(access.claims);
    await engine.settled();
    clock.advance("31s");
    const again = await refresh(before, key);
    expect(again.refreshToken).toBe(refreshToken);
    expect(events.map(({ type }) => type)).not.toContain("theft");
    // A proof confirms: from then on, the token before is a theft.
    await confirm(refreshToken ?? "", key);
    expect(await failure(refresh(before, key))).toMatchObject({ reason: "TOKEN_THEFT" });
  });

  it("feat:S1 is named in the row, in `cnf.jkt` of its access tokens and in its refresh tokens, through every refresh", async () => {
    const { engine, signIn, refresh, confirm } = await startWorld({ store: newStore() });
    const created = await signIn();
    expect(created.record.boundKey).toBe(key);
    await confirm(created.refreshToken, key);
    const next = await refresh(created.refreshToken, key);
    expect(next.record).toMatchObject({ generation: 1, boundKey: key });
    for (const token of [created.refreshToken, next.refreshToken ?? ""]) {
      expect(parseRefreshToken(token)).toMatchObject({ format: 2, boundKey: key });
    }
    const payload = next.access.token.split(".")[1] ?? "";
    expect(JSON.parse(Buffer.from(payload, "base64url").toString()).cnf).toEqual({ jkt: key });
    const verified = await engine.verify(next.access.token, engine.revocations.storeNow());
    expect(verified).toMatchObject({ status: "valid", claims: { jkt: key } });
  });

  it.each([
    ["no proof", undefined, "missing", "PROOF_REQUIRED"],
    ["a proof by another key", other, "otherKey", "PROOF_INVALID"],
  ])(
    "sec:P02, feat:S2 refuses a valid refresh token with %s, changes nothing, and reports it",
    async (_, proven, why, reason) => {
      const { store, events, signIn, refresh, confirm } = await startWorld({ store: newStore() });
      const { record, refreshToken } = await signIn();
      for (const ripen of [async () => {}, () => confirm(refreshToken, key)]) {
        await ripen();
        const before = await store.load(record.id);
        events.length = 0;
        expect(await failure(refresh(refreshToken, proven))).toMatchObject({
          ...{ kind: "unauthorized", reason, clearTokens: false, sessionId: record.id },
        });
        const { id: sessionId, userId } = record;
        expect(events).toEqual([{ type: "proofRefused", sessionId, userId, why }]);
        expect((await store.load(record.id)).record).toEqual(before.record);
      }
      expect((await refresh(refreshToken, key)).record.generation).toBe(1);
    },
  );

  it("sec:P02, feat:S2 an outdated token without a proof ends nothing: the key is asked for before the rule", async () => {
    const { store, events, signIn, refresh, confirm } = await startWorld({ store: newStore() });
    const { record, refreshToken } = await signIn();
    await confirm(refreshToken, key);
    const next = await refresh(refreshToken, key);
    await confirm(next.refreshToken ?? "", key);
    expect(await failure(refresh(refreshToken))).toMatchObject({ reason: "PROOF_REQUIRED" });
    expect((await store.load(record.id)).record?.revokedAt).toBeNull();
    // With the key, it is a theft as any other.
    expect(await failure(refresh(refreshToken, key))).toMatchObject({ reason: "TOKEN_THEFT" });
    expect(events.map(({ type }) => type)).toContain("theft");
  });

  it("sec:P02, feat:S2 an answer is not shared with an equal token whose request has not proven the key", async () => {
    const { signIn, refresh, confirm } = await startWorld({ store: newStore() });
    const { refreshToken } = await signIn();
    await confirm(refreshToken, key);
    const honest = refresh(refreshToken, key);
    const thief = failure(refresh(refreshToken));
    expect((await honest).record.generation).toBe(1);
    expect(await thief).toMatchObject({ reason: "PROOF_REQUIRED" });
    // And the other way round.
    const { refreshToken: second } = await signIn();
    const early = failure(refresh(second));
    expect((await refresh(second, key)).record.generation).toBe(0);
    expect(await early).toMatchObject({ reason: "PROOF_REQUIRED" });
  });

  it("feat:S3 onMismatch revoke ends the session and its forks", async () => {
    const world = await startWorld({ store: newStore(), onMismatch: "revoke" });
    const { engine, store, events, signIn, refresh } = world;
    const { record, refreshToken } = await signIn();
    const { id: session, version } = record;
    const from = {
      session,
      lineage: session,
      version,
      boundKey: key,
      transport: "header" as const,
      authTime: null,
      endsBy: null,
    };
    const fork = await engine.creator.create({ ...content, from, provenKey: key, boundKey: other });
    expect(await failure(refresh(refreshToken))).toMatchObject({ reason: "TOKEN_THEFT" });
    for (const { id } of [record, fork.record]) {
      expect((await store.load(id)).record?.endedBy).toBe("theft");
    }
    expect(events.filter(({ type }) => type === "proofRefused")).toHaveLength(1);
    expect(events).toContainEqual({ type: "revoked", sessionId: session, endedBy: "theft" });
  });

  it("sec:P02, feat:S4 a row restored to a state before the binding gets it back from the token", async () => {
    const store = restoredBeforeBinding(newStore());
    const { clock, signIn, refresh } = await startWorld({ store });
    const { record, refreshToken } = await signIn();
    clock.advance("60s");
    await store.confirm([{ session: record.id, generation: 0, settle: 0 }]);
    clock.advance("31s");
    expect(await failure(refresh(refreshToken))).toMatchObject({ reason: "PROOF_REQUIRED" });
    expect((await store.load(record.id)).record?.boundKey).toBeNull();
    expect((await refresh(refreshToken, key)).record).toMatchObject({
      generation: 1,
      boundKey: key,
    });
    expect((await store.load(record.id)).record?.boundKey).toBe(key);
  });

  it("a token from before the binding needs the key of the row; one of another key proves nothing", async () => {
    const { store, signIn, refresh } = await startWorld({ store: newStore() });
    const early = await signIn(null);
    await bindRow(store, early.record.id, key);
    expect(await failure(refresh(early.refreshToken))).toMatchObject({ reason: "PROOF_REQUIRED" });
    expect((await refresh(early.refreshToken, key)).record.boundKey).toBe(key);
    const bound = await signIn();
    await bindRow(store, bound.record.id, other);
    for (const proven of [undefined, key, other]) {
      expect(await failure(refresh(bound.refreshToken, proven))).toMatchObject({
        reason: "TOKEN_INVALID",
      });
    }
  });

  it("a proof beside the token of an unbound session binds nothing", async () => {
    const { signIn, refresh, confirm } = await startWorld({ store: newStore() });
    const { refreshToken } = await signIn(null);
    await confirm(refreshToken, key);
    const { record, access } = await refresh(refreshToken, key);
    expect(record).toMatchObject({ generation: 1, boundKey: null });
    expect(access.claims.jkt).toBeUndefined();
  });
});

/** A store whose rows are those of a backup from before their sessions were bound. */
function restoredBeforeBinding(store: SessionStore): SessionStore {
  const insert = store.insert.bind(store);
  const lose: SessionStore["insert"] = async (session) => {
    const inserted = await insert({ ...session, boundKey: null });
    return inserted.record === undefined
      ? inserted
      : { ...inserted, record: { ...inserted.record, boundKey: session.boundKey } };
  };
  return Object.assign(store, { insert: lose });
}

/** Binds the row of a session that began unbound, or to another key. */
async function bindRow(store: SessionStore, id: string, boundKey: string): Promise<void> {
  await store.refresh({ kind: "keep", settle: null, id, generation: 0, idle: 1e9, boundKey });
}

describe("copies of a bound session", () => {
  it.each([
    ["no proof", undefined, "PROOF_REQUIRED"],
    ["a proof by another key", other, "PROOF_INVALID"],
  ])(
    "sec:P02, feat:S5 are refused with %s, and nothing is stored",
    async (_, provenKey, reason) => {
      const { engine, store, signIn } = await startWorld();
      const { record } = await signIn();
      const { id: session, version } = record;
      const from = {
        session,
        lineage: session,
        version,
        boundKey: key,
        transport: "header" as const,
        authTime: null,
        endsBy: null,
      };
      for (const replaces of [null, session]) {
        const copy = { ...content, from, replaces, provenKey, boundKey: key };
        expect(await failure(engine.creator.create(copy))).toMatchObject({ reason });
      }
      const page = await store.list(
        { userId: "alice", tenantId: null },
        { cursor: undefined, limit: 9 },
      );
      expect(page.records.map(({ id }) => id)).toEqual([session]);
    },
  );

  it("feat:S5 are never unbound", async () => {
    const { engine, signIn } = await startWorld();
    const { record } = await signIn();
    const { id: session, version } = record;
    const from = {
      session,
      lineage: session,
      version,
      boundKey: key,
      transport: "header" as const,
      authTime: null,
      endsBy: null,
    };
    const copy = engine.creator.create({ ...content, from, provenKey: key });
    await expect(copy).rejects.toThrow("must be bound to a key, too");
  });
});

describe("a store that does not keep the key", () => {
  it("is refused, and leaves no session behind", async () => {
    const store = memoryStore();
    const insert = store.insert.bind(store);
    Object.assign(store, {
      insert: (session: Parameters<SessionStore["insert"]>[0]) =>
        insert({ ...session, boundKey: null }),
    });
    const { signIn } = await startWorld({ store });
    await expect(signIn()).rejects.toThrow("does not keep boundKey");
    const page = await store.list(
      { userId: "alice", tenantId: null },
      { cursor: undefined, limit: 9 },
    );
    expect(page.records).toEqual([]);
    expect((await signIn(null)).record.boundKey).toBeNull();
  });
});

describe.each([
  ["one statement", () => memoryStore()],
  ["read and decide", withoutAdvance],
])("a session in cookies (%s)", (_name, newStore) => {
  async function signIn() {
    const world = await startWorld({ store: newStore() });
    const { engine, clock } = world;
    const content = { ...cookieContent, boundKey: null };
    const { record, refreshToken } = await engine.creator.create(content);
    const refresh = (token: string, provenKey?: string) =>
      engine.refresher.refresh({ token, transport: "cookie", provenKey });
    const confirm = async (token: string, provenKey?: string) => {
      clock.advance("60s");
      await refresh(token, provenKey);
      clock.advance("31s");
    };
    return { ...world, record, refreshToken, refresh, confirm };
  }

  it("feat:S11 is bound by the first proof that advances it, and its tokens say so", async () => {
    const { store, record, refreshToken, refresh, confirm } = await signIn();
    // A proof that advances nothing binds nothing.
    await confirm(refreshToken, key);
    expect((await store.load(record.id)).record?.boundKey).toBeNull();
    const next = await refresh(refreshToken, key);
    expect(next.record).toMatchObject({ generation: 1, boundKey: key });
    expect(parseRefreshToken(next.refreshToken ?? "")).toMatchObject({ boundKey: key });
    expect(next.access.claims.jkt).toBe(key);
    // The answer may be lost: the token from before goes on, with the key.
    expect(await failure(refresh(refreshToken))).toMatchObject({ reason: "PROOF_REQUIRED" });
    expect((await refresh(refreshToken, key)).refreshToken).toBe(next.refreshToken);
  });

  it("feat:S11 of two keys the first one wins, also at the same moment", async () => {
    const { store, record, refreshToken, refresh, confirm } = await signIn();
    await confirm(refreshToken);
    const outcomes = await Promise.all(
      [key, other].map((one) => failure(refresh(refreshToken, one))),
    );
    const bound = (await store.load(record.id)).record?.boundKey;
    expect([key, other]).toContain(bound);
    const reasons = outcomes.map(({ reason }) => reason);
    expect(reasons).toEqual(
      bound === key ? [undefined, "PROOF_INVALID"] : ["PROOF_INVALID", undefined],
    );
  });

  it("feat:S11 says that it is over, not that a proof is missing", async () => {
    const { engine, record, refreshToken, refresh, confirm } = await signIn();
    await confirm(refreshToken);
    const next = await refresh(refreshToken, key);
    await engine.revoke(record.id, "revoked");
    expect(await failure(refresh(next.refreshToken ?? ""))).toMatchObject({
      reason: "SESSION_REVOKED",
    });
  });

  it.each(["stale", "skipped"] as const)(
    "feat:S11 a proof that is %s is asked for later, and revokes nothing",
    async (unproven) => {
      const { engine, store, events, clock } = await startWorld({
        store: newStore(),
        onMismatch: "revoke",
      });
      const created = await engine.creator.create({ ...cookieContent, boundKey: key });
      clock.advance("5m");
      const token = created.refreshToken;
      const refused = engine.refresher.refresh({ token, transport: "cookie", unproven });
      expect(await failure(refused)).toMatchObject({
        ...{ kind: "unavailable", reason: "PROOF_REQUIRED", sessionId: created.record.id },
      });
      expect(events.at(-1)).toMatchObject({ type: "proofRefused", why: unproven });
      expect((await store.load(created.record.id)).record).toEqual(created.record);
    },
  );
});

const cookieContent = { ...content, transport: "cookie" as const };
