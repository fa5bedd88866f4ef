import { Code } from "@connectrpc/connect";
import type { OwnLifetimes, SessionError, SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { accessOf, apiOf, payloadOf, refreshOf } from "../helpers/api.ts";
import { cookieEffects, exchangeOf } from "../helpers/exchanges.ts";
import { sorted } from "../helpers/sorted.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const day = 86_400_000;

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const signIn = (userId = "alice", more: object = {}) =>
    api.open({}, (ctx) => sessions.create(ctx, { userId, ...more }));
  const live = async (userId = "alice") =>
    (await sessions.list({ userId })).sessions.map(({ id }) => id);
  return { sessions, api, events, signIn, live };
}

describe("lifetime of a session", () => {
  it("feat:D13 feat:A1 refreshes do not move the absolute end", async () => {
    const { sessions, api, events } = createWorld({ lifetimes: { idle: "7d", absolute: "30d" } });
    const { session, tokens } = await sessions.issue({ userId: "alice" });
    const end = sessions.clock.now() + 30 * day;
    let { refreshToken } = tokens;
    let last = payloadOf(tokens.accessToken);
    for (let spent = 0; spent < 29; spent++) {
      sessions.clock.advance("1d");
      const answer = await api.refresh("header", refreshToken);
      expect(answer.error).toBeUndefined();
      refreshToken = refreshOf(answer) ?? refreshToken;
      last = payloadOf(accessOf(answer));
      expect(last.session_exp * 1000).toBe(end);
    }
    const info = await sessions.find(session.id);
    expect([info?.expiresAt.getTime(), info?.idleExpiresAt.getTime()]).toEqual([end, end]);
    sessions.clock.advance("1434m");
    const nearly = await api.refresh("header", refreshToken);
    // Six minutes are left, and no token outlives them.
    expect(payloadOf(accessOf(nearly)).exp * 1000).toBe(end);
    sessions.clock.advance("6m");
    const over = await api.refresh("header", refreshToken);
    expect(over.error?.code).toBe(Code.Unauthenticated);
    expect(over.hint).toMatchObject({ reason: Reason.SESSION_EXPIRED, tokens: Tokens.CLEAR });
    const expired = { sessionId: session.id, userId: "alice" };
    expect(events.slice(-2)).toEqual([
      { type: "expired", ...expired },
      expect.objectContaining({ type: "refused", reason: "SESSION_EXPIRED", ...expired }),
    ]);
    const bearer = accessOf(nearly) ?? "";
    await expect(sessions.getSession(exchangeOf({ bearer }))).rejects.toMatchObject({
      kind: "tryRefreshToken",
    });
  });

  it("feat:D14 feat:D12 each refresh moves the idle end; without a refresh the session ends", async () => {
    const { sessions, api } = createWorld({ lifetimes: { idle: "1h" } });
    const { session, tokens } = await sessions.issue({ userId: "alice" });
    sessions.clock.advance("59m");
    const answer = await api.refresh("header", tokens.refreshToken);
    expect(answer.error).toBeUndefined();
    const idle = (await sessions.find(session.id))?.idleExpiresAt.getTime();
    expect(idle).toBe(sessions.clock.now() + 3_600_000);
    expect((await sessions.find(session.id))?.lastSeenAt.getTime()).toBe(sessions.clock.now());
    sessions.clock.advance("1h");
    const over = await api.refresh("header", refreshOf(answer) ?? tokens.refreshToken);
    expect(over.hint?.reason).toBe(Reason.SESSION_EXPIRED);
    expect(await sessions.find(session.id)).toBeUndefined();
  });

  it("feat:A10 access tokens expire up to 5 % early, never late, and not all at once", async () => {
    const { sessions } = createWorld({ lifetimes: { access: "20m" } });
    const lives: number[] = [];
    for (let i = 0; i < 300; i++) {
      const { tokens } = await sessions.issue({ userId: `u${i}` });
      const { exp, iat } = payloadOf(tokens.accessToken);
      lives.push(exp - iat);
    }
    expect(Math.min(...lives)).toBeGreaterThanOrEqual(Math.floor(1200 * 0.95));
    expect(Math.max(...lives)).toBeLessThanOrEqual(1200);
    // They spread over the whole span: every fifth of it has its share.
    const fifths = new Set(lives.map((life) => Math.min(4, Math.floor((life - 1140) / 12))));
    expect(fifths.size).toBe(5);
  });
});

describe("feat:A9 lifetimes of a single session", () => {
  it.each(["create", "issue"] as const)(
    "feat:A9 feat:D13 feat:D14 set by %s: access, idle and absolute",
    async (by) => {
      const { sessions, api } = createWorld();
      const lifetimes: OwnLifetimes = { access: "5m", idle: "1h", absolute: "1d" };
      const began = sessions.clock.now();
      let access: string | undefined;
      let refresh: string | undefined;
      if (by === "create") {
        const answer = await api.open({}, (ctx) =>
          sessions.create(ctx, { userId: "alice", lifetimes }),
        );
        [access, refresh] = [accessOf(answer), refreshOf(answer)];
      } else {
        const { tokens } = await sessions.issue({ userId: "alice", lifetimes });
        [access, refresh] = [tokens.accessToken, tokens.refreshToken];
      }
      const first = payloadOf(access);
      expect(first.exp - first.iat).toBeLessThanOrEqual(300);
      expect(first.exp - first.iat).toBeGreaterThanOrEqual(285);
      expect(first.session_exp * 1000).toBe(began + day);
      const info = await sessions.find(first.sid);
      expect(info?.idleExpiresAt.getTime()).toBe(began + 3_600_000);
      sessions.clock.advance("50m");
      const answer = await api.refresh("header", refresh ?? "");
      const next = payloadOf(accessOf(answer));
      expect(next.exp - next.iat).toBeLessThanOrEqual(300);
      expect((await sessions.find(first.sid))?.idleExpiresAt.getTime()).toBe(
        began + 3_000_000 + 3_600_000,
      );
      sessions.clock.advance("1h");
      const over = await api.refresh("header", refreshOf(answer) ?? refresh ?? "");
      expect(over.hint?.reason).toBe(Reason.SESSION_EXPIRED);
    },
  );

  it.each<[object, RegExp]>([
    [{ access: "16m" }, /^lifetimes\.access must be at most 15m, got "16m"$/],
    [{ access: "1m" }, /^lifetimes\.access must be at least 60001ms, got "1m"$/],
    [{ idle: "15d" }, /^lifetimes\.idle must be at most 14d, got "15d"$/],
    [{ idle: "14m" }, /^lifetimes\.idle must be at least 15m, got "14m"$/],
    [{ absolute: "91d" }, /^lifetimes\.absolute must be at most 90d, got "91d"$/],
    [{ absolute: "1m" }, /^lifetimes\.absolute must be at least .*, got "1m"$/],
    [
      { idle: "soon" },
      /^lifetimes\.idle: "soon" is not a valid duration; use a value such as "15m" or "30s"$/,
    ],
    [{ idle: 7 }, /^lifetimes\.idle: 7 is not a valid duration/],
    [{ idle: null }, /^lifetimes\.idle: null is not a valid duration/],
  ])(
    "feat:A9 feat:N4 longer or impossible lifetimes are refused: %o",
    async (lifetimes, message) => {
      const store = watchedStore();
      const { sessions, signIn } = createWorld({ store: store.store });
      const given = { userId: "alice", lifetimes } as never;
      await expect(sessions.issue(given)).rejects.toThrow(TypeError);
      await expect(sessions.issue(given)).rejects.toThrow(message);
      const answer = await signIn("alice", { lifetimes });
      expect(answer.error?.code).toBe(Code.Internal);
      expect(answer.error?.rawMessage).toMatch(message);
      expect(store.inserted).toEqual([]);
    },
  );

  it("feat:A9 shortening the service's lifetimes shortens existing sessions", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    const before = testSessions({ store, clock });
    const { tokens } = await before.issue({ userId: "a", lifetimes: { access: "10m" } });
    const after = testSessions({
      ...{ store, clock, lifetimes: { access: "4m" } },
      public: [NotesService.method.signIn],
    });
    const { exp, iat } = payloadOf(
      accessOf(await apiOf(after).refresh("header", tokens.refreshToken)),
    );
    expect(exp - iat).toBeLessThanOrEqual(240);
  });
});

describe("feat:A8 session limit per user", () => {
  it.each([undefined, "evictOldest"] as const)(
    "feat:A8 the oldest sessions end with overflow %s",
    async (overflow) => {
      const { sessions, api, signIn, live, events } = createWorld({
        sessionsPerUser: { max: 2, ...(overflow && { overflow }) },
      });
      const answers = [];
      for (let i = 0; i < 3; i++) {
        answers.push(await signIn());
        sessions.clock.advance("1s");
      }
      await signIn("bob");
      const [first, second, third] = answers.map(({ result }) => result?.id ?? "");
      expect(await live()).toEqual([third, second]);
      expect(events.filter(({ type }) => type === "revoked")).toEqual([
        { type: "revoked", sessionId: first, endedBy: "evicted" },
      ]);
      const late = await api.call(
        { bearer: accessOf(answers[0] ?? { headers: new Headers() }) ?? "" },
        () => {},
      );
      expect(late.hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.CLEAR });
    },
  );

  it("feat:A8 overflow reject: PermissionDenied, no tokens, nothing ends", async () => {
    const { sessions, api, signIn, live, events } = createWorld({
      sessionsPerUser: { max: 2, overflow: "reject" },
    });
    const kept = [(await signIn()).result?.id, (await signIn()).result?.id];
    const answer = await signIn();
    expect(answer.error?.code).toBe(Code.PermissionDenied);
    expect(answer.error?.rawMessage).toBe(
      "the user already has 2 sessions, which is the limit; end one of them first",
    );
    expect(answer.hint).toMatchObject({ reason: Reason.SESSION_LIMIT, tokens: Tokens.KEEP });
    expect([accessOf(answer), answer.notice]).toEqual([undefined, undefined]);
    expect(sorted(await live())).toEqual(sorted(kept));
    const byPage = await api.open({ headers: { "sec-fetch-site": "same-origin" } }, (ctx) =>
      sessions.create(ctx, { userId: "alice" }),
    );
    expect(cookieEffects(byPage.headers)).toEqual([]);
    const issued = await sessions.issue({ userId: "alice" }).catch((e: SessionError) => e);
    expect(issued).toMatchObject({ kind: "forbidden", reason: "SESSION_LIMIT" });
    expect(events.filter(({ type }) => type === "failed" || type === "revoked")).toEqual([]);
    expect((await signIn("bob")).error).toBeUndefined();
    await sessions.revoke(kept[0] ?? "");
    expect((await signIn()).error).toBeUndefined();
  });

  it.each(["reject", "evictOldest"] as const)(
    "feat:A8 feat:A7 a session replaced by the new one does not count: %s",
    async (overflow) => {
      const { sessions, api, signIn, live } = createWorld({
        sessionsPerUser: { max: 2, overflow },
      });
      const old = await signIn();
      sessions.clock.advance("1s");
      const other = await signIn();
      const bearer = accessOf(old) ?? "";
      const again = await api.open({ bearer }, (ctx) => sessions.create(ctx, { userId: "alice" }));
      expect(again.error).toBeUndefined();
      expect(sorted(await live())).toEqual(sorted([other.result?.id, again.result?.id]));
      const anew = await api.call({ bearer: accessOf(again) ?? "" }, (ctx) =>
        sessions.reauthenticate(ctx),
      );
      expect(anew.error).toBeUndefined();
      expect(sorted(await live())).toEqual(sorted([other.result?.id, anew.result?.id]));
    },
  );

  it("feat:A8 feat:M1 each tenant counts by itself: the same user id elsewhere is another user", async () => {
    const { sessions, signIn } = createWorld({ sessionsPerUser: { max: 1 } });
    const ids: (string | undefined)[] = [];
    for (const tenantId of ["a", "b", undefined]) {
      const { result } = await signIn("alice", tenantId === undefined ? {} : { tenantId });
      ids.push(result?.id);
    }
    for (const id of ids) {
      expect(await sessions.find(id ?? "")).toBeDefined();
    }
    await signIn("alice", { tenantId: "b" });
    const left = await Promise.all(ids.map(async (id) => sessions.find(id ?? "")));
    expect(left.map((session) => session !== undefined)).toEqual([true, false, true]);
  });

  it("feat:A8 feat:M1 ended sessions do not count", async () => {
    const { sessions, signIn } = createWorld({
      sessionsPerUser: { max: 2, overflow: "reject" },
      lifetimes: { idle: "1h" },
    });
    expect((await signIn("alice", { tenantId: "a" })).error).toBeUndefined();
    expect((await signIn("alice", { tenantId: "a" })).error).toBeUndefined();
    expect((await signIn("alice", { tenantId: "a" })).error?.code).toBe(Code.PermissionDenied);
    sessions.clock.advance("1h");
    expect((await signIn("alice", { tenantId: "a" })).error).toBeUndefined();
  });

  it.each(["reject", "evictOldest"] as const)(
    "feat:A8 40 concurrent sign-ins never exceed the limit: %s",
    async (overflow) => {
      const { signIn, live } = createWorld({ sessionsPerUser: { max: 3, overflow } });
      const answers = await Promise.all(Array.from({ length: 40 }, () => signIn()));
      expect(await live()).toHaveLength(3);
      const good = answers.filter(({ error }) => error === undefined).length;
      expect(good).toBe(overflow === "reject" ? 3 : 40);
    },
  );

  it("feat:A8 feat:N4 an invalid limit is refused at construction", () => {
    for (const max of [0, -1, 1.5, Number.NaN, "2", undefined]) {
      expect(() => testSessions({ sessionsPerUser: { max } as never })).toThrow(
        new TypeError(`sessionsPerUser.max must be an integer of at least 1, got ${String(max)}`),
      );
    }
    expect(() => testSessions({ sessionsPerUser: { max: 1, overflow: "drop" } as never })).toThrow(
      /^sessionsPerUser\.overflow must be one of "evictOldest", "reject", got "drop"$/,
    );
  });
});
