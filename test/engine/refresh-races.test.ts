import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { SessionError } from "../../src/base/errors.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";

const secret = "an honest secret of at least 32 bytes";

async function failure(work: Promise<unknown>): Promise<Partial<SessionError>> {
  return work.then(
    () => ({}),
    (error: SessionError) => error,
  );
}

/** Counts the calls of a store's methods. */
function counting(store: SessionStore): SessionStore & { readonly count: Map<string, number> } {
  const count = new Map<string, number>();
  const counted = new Proxy(store, {
    get(target, name: keyof SessionStore | "count") {
      if (name === "count") {
        return count;
      }
      const member = target[name];
      if (typeof member !== "function") {
        return member;
      }
      return (...args: unknown[]) => {
        count.set(name, (count.get(name) ?? 0) + 1);
        return (member as (...args: unknown[]) => unknown).apply(target, args);
      };
    },
  });
  return counted as SessionStore & { readonly count: Map<string, number> };
}

describe("concurrent refreshes", () => {
  it("feat:D4 64 refreshes of one token create one generation, with one write and 64 equal answers", async () => {
    const store = counting(memoryStore());
    const engine = await startEngine({ store });
    const { id, token } = await engine.signIn();
    await engine.confirm(token);
    store.count.clear();
    const answers = await Promise.all(Array.from({ length: 64 }, () => engine.exchange(token)));
    expect(new Set(answers.map((a) => a.refreshToken)).size).toBe(1);
    expect(parseRefreshToken(answers[0]?.refreshToken ?? "")?.generation).toBe(1);
    expect((await engine.load(id)).record?.generation).toBe(1);
    expect([...store.count].filter(([name]) => name !== "load" && name !== "pushed")).toEqual([
      ["advance", 1],
    ]);
  });

  it("feat:B14, feat:D4 64 refreshes on four servers create one generation and 64 equal refresh tokens", async () => {
    const store = memoryStore();
    const first = await startEngine({ store, secret });
    const { clock } = first;
    const more = await Promise.all([1, 2, 3].map(() => startEngine({ store, secret, clock })));
    const { id, token } = await first.signIn();
    await first.confirm(token);
    const servers = [first, ...more];
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, i) => (servers[i % 4] as TestEngine).exchange(token)),
    );
    expect(new Set(answers.map((a) => a.refreshToken)).size).toBe(1);
    expect((await first.load(id)).record?.generation).toBe(1);
    expect(servers.flatMap((s) => s.events).filter((e) => e.type === "theft")).toEqual([]);
  });

  it("a write that loses is decided again at most twice; then the call is Unavailable and keeps its tokens", async () => {
    const store = memoryStore();
    let refreshes = 0;
    const losing = await startEngine({
      store: {
        ...store,
        async refresh(write) {
          refreshes++;
          return { record: undefined, now: (await store.load(write.id)).now };
        },
      },
    });
    const { token } = await losing.signIn();
    expect(await failure(losing.exchange(token))).toMatchObject({
      kind: "unavailable",
      clearTokens: false,
    });
    expect(refreshes).toBe(3);
  });

  it("an answer is shared for one second, and never after a revocation", async () => {
    const engine = await startEngine();
    const { id, token } = await engine.signIn();
    const [first, second] = [await engine.exchange(token), await engine.exchange(token)];
    expect(second.access.token).toBe(first.access.token);
    await engine.revoke(id, "revoked");
    expect(await failure(engine.exchange(token))).toMatchObject({ reason: "SESSION_REVOKED" });
  });
});

describe("a shared answer", () => {
  it("does not replace a use that confirms the generation", async () => {
    const engine = await startEngine();
    const { id, token } = await engine.signIn();
    engine.clock.advance("59500ms");
    await engine.exchange(token);
    expect((await engine.load(id)).record?.confirmedAt).toBeNull();
    engine.clock.advance("500ms");
    await engine.exchange(token);
    expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
  });

  it("is not given again once its token counts as stolen", async () => {
    const engine = await startEngine();
    const { token } = await engine.signIn();
    await engine.confirm(token);
    const { refreshToken: next = "" } = await engine.exchange(token);
    engine.clock.advance("60s");
    await engine.exchange(next);
    engine.clock.advance("29500ms");
    expect((await engine.exchange(token)).refreshToken).toBe(next);
    engine.clock.advance("600ms");
    expect(await failure(engine.exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
  });
});

describe("a refresh that races with a revocation", () => {
  it("no successor is minted after the revocation is acknowledged, at whichever step that happens", async () => {
    for (const step of ["load", "advance", "refresh"] as const) {
      const store = memoryStore();
      let revoked: Promise<unknown> = Promise.resolve();
      const racing = await startEngine({
        store: {
          ...store,
          async [step](...args: never[]) {
            // The revocation is acknowledged after the read, or right before the write.
            const read =
              step === "load" ? await store.load(...(args as never as [string])) : undefined;
            revoked = store.revoke(id, "revoked");
            await revoked;
            return read ?? (store[step] as (...args: never[]) => unknown)(...args);
          },
          ...(step === "load" ? { advance: undefined } : {}),
        } as SessionStore,
      });
      const { id, token } = await racing.signIn();
      expect(await failure(racing.exchange(token)), step).toMatchObject({
        kind: "unauthorized",
        reason: "SESSION_REVOKED",
      });
    }
  });

  it("a revoked session stays revoked in random orders of refreshes and revocations", async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), async (scheduler) => {
        const store = memoryStore();
        const engine = await startEngine({ store });
        const { id, token } = await engine.signIn();
        await engine.confirm(token);
        const slowly = async <T>(act: () => Promise<T>): Promise<T> => {
          await scheduler.schedule(Promise.resolve());
          const result = await act();
          await scheduler.schedule(Promise.resolve());
          return result;
        };
        const slow = await startEngine({
          clock: engine.clock,
          store: {
            ...store,
            load: (...args) => slowly(() => store.load(...args)),
            refresh: (...args) => slowly(() => store.refresh(...args)),
            revoke: (...args) => slowly(() => store.revoke(...args)),
          },
        });
        const work = Promise.all([
          ...Array.from({ length: 3 }, () => failure(slow.exchange(token))),
          slow.revoke(id, "revoked").then(async () => {
            // Acknowledged: no call that begins after this point succeeds.
            expect(await failure(slow.exchange(token))).toMatchObject({ kind: "unauthorized" });
          }),
        ]);
        await scheduler.waitFor(work);
        const { entries } = await store.changes(undefined, 3_600_000);
        expect(entries.filter((entry) => entry.session === id)).toHaveLength(1);
      }),
      { numRuns: 200 },
    );
  });
});

describe("a refresh that cannot succeed", () => {
  it("a malformed or forged token is refused without reading the store", async () => {
    const store = counting(memoryStore());
    const engine = await startEngine({ store });
    const { token } = await engine.signIn();
    store.count.clear();
    const forged = token.replace(/[^.]+$/, "A".repeat(43));
    const anotherGeneration = token.replace(".0.", ".1.");
    for (const junk of ["", "junk", forged, anotherGeneration, "x".repeat(10_000)]) {
      expect(await failure(engine.exchange(junk))).toMatchObject({
        kind: "unauthorized",
        reason: "TOKEN_INVALID",
        sessionId: undefined,
      });
    }
    expect([...store.count]).toEqual([]);
  });

  it("an unreachable store makes the call Unavailable, and no token is cleared", async () => {
    const store = memoryStore();
    const engine = await startEngine({ store });
    const { token } = await engine.signIn();
    const down = await startEngine({
      clock: engine.clock,
      store: {
        ...store,
        advance: () => Promise.reject(new Error("connection refused to 10.0.0.1")),
      },
    });
    const error = await failure(down.exchange(token));
    expect(error).toMatchObject({ kind: "unavailable", clearTokens: false });
    expect(error.message).not.toContain("10.0.0.1");
  });

  it("a token that waited for a stalled store is not taken for theft until it comes again", async () => {
    const store = memoryStore();
    const engine = await startEngine({ store });
    const { id, token } = await engine.signIn();
    await engine.confirm(token);
    const { refreshToken = "" } = await engine.exchange(token);
    await engine.confirm(refreshToken);
    const stall = { ms: 20_001 };
    const stalled = await startEngine({
      clock: engine.clock,
      store: {
        ...store,
        advance(write) {
          engine.clock.advance(`${stall.ms}ms`);
          return store.advance?.(write) as ReturnType<NonNullable<SessionStore["advance"]>>;
        },
      },
    });
    expect(await failure(stalled.exchange(token))).toMatchObject({
      kind: "unavailable",
      clearTokens: false,
    });
    expect((await engine.load(id)).record?.revokedAt).toBeNull();
    stall.ms = 20_000;
    expect(await failure(stalled.exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
  });

  it("feat:D12, feat:D13 the idle and the absolute end apply, and a refresh never extends the absolute end", async () => {
    const engine = await startEngine({ lifetimes: { idle: "2d", absolute: "3d" } });
    const { token } = await engine.signIn();
    engine.clock.advance("47h");
    const { record, access } = await engine.exchange(token);
    expect(record.idleExpiresAt).toBe(record.expiresAt);
    engine.clock.advance("24h");
    const late = await engine.exchange(token);
    engine.clock.advance("59m");
    expect((await engine.exchange(token)).access.claims.exp * 1000).toBe(record.expiresAt);
    engine.clock.advance("1m");
    expect(await failure(engine.exchange(token))).toMatchObject({ reason: "SESSION_EXPIRED" });
    expect(access.claims.exp).toBeLessThan(late.access.claims.exp);
  });
});

describe("feat:H8 a roll-out of a new secret", () => {
  const [old, next] = [
    "the old secret, of at least 32 bytes!",
    "the new secret, of at least 32 bytes!",
  ];

  it("mints equal successors on servers before and after the change, and signs nobody out", async () => {
    const store = memoryStore();
    const before = await startEngine({ store, secret: [old, next] });
    const { clock } = before;
    const after = await startEngine({ store, clock, secret: [next, old] });
    const { token } = await before.signIn();
    await before.confirm(token);
    const [a, b] = await Promise.all([before.exchange(token), after.exchange(token)]);
    expect(a.refreshToken).toBe(b.refreshToken);
    await after.confirm(a.refreshToken ?? "");
    const { refreshToken = "" } = await after.exchange(a.refreshToken ?? "");
    const settled = await startEngine({ store, clock, secret: next });
    expect((await settled.exchange(refreshToken)).record.generation).toBe(2);
  });

  it("a token under an unknown secret is Unavailable, with one event per secret", async () => {
    const store = memoryStore();
    const engine = await startEngine({ store, secret: [next, old] });
    const { token } = await engine.signIn();
    const behind = await startEngine({ store, clock: engine.clock, secret: old });
    for (let i = 0; i < 3; i++) {
      expect(await failure(behind.exchange(token))).toMatchObject({
        kind: "unavailable",
        clearTokens: false,
        retryAfter: 1_000,
      });
    }
    expect(behind.events.filter((e) => e.type === "unknownSecret")).toHaveLength(1);
  });
});

describe("tabs that share one cookie jar", () => {
  // A client abandons a refresh after this time (its `refreshTimeout`); a later response is lost.
  const clientTimeout = 10_000;
  const action = fc.record({
    kind: fc.constantFrom("send", "send", "process", "process", "arrive", "use", "lose"),
    which: fc.nat({ max: 100 }),
    pause: fc.oneof(fc.integer({ min: 0, max: 2_000 }), fc.integer({ min: 0, max: 9_000 })),
  });
  interface UnderWay {
    readonly token: string;
    readonly sentAt: number;
    answer?: Refreshed;
  }

  it("stay signed in for every order of requests and responses, and whichever of them are lost", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(action, { minLength: 30, maxLength: 120 }), async (actions) => {
        // The shortest permitted times, so that a lot happens within a few steps.
        const refresh = { clientTimeout: "10s", overlap: "11s", settle: "0s" } as const;
        const engine = await startEngine({ refresh });
        const { token } = await engine.signIn();
        const jar: { token: string; access: Refreshed["access"] | undefined } = {
          token,
          access: undefined,
        };
        let underWay: UnderWay[] = [];
        for (const { kind, which, pause } of actions) {
          engine.clock.advance(`${pause}ms`);
          const now = engine.clock.now();
          underWay = underWay.filter(({ sentAt }) => now - sentAt < clientTimeout);
          const chosen = underWay[which % Math.max(1, underWay.length)];
          if (kind === "send") {
            underWay.push({ token: jar.token, sentAt: now });
          } else if (kind === "use" && jar.access !== undefined) {
            engine.used(jar.access.claims);
            await engine.settled();
          } else if (kind === "process" && chosen !== undefined) {
            chosen.answer ??= await engine.exchange(chosen.token);
          } else if (chosen !== undefined) {
            underWay = underWay.filter((one) => one !== chosen);
            if (kind === "arrive") {
              jar.access = chosen.answer?.access ?? jar.access;
              jar.token = chosen.answer?.refreshToken ?? jar.token;
            }
          }
        }
        expect(engine.events.filter((event) => event.type === "theft")).toEqual([]);
      }),
      { numRuns: 800 },
    );
  });
});
