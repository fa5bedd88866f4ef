import { Code } from "@connectrpc/connect";
import type { SessionError, SessionEvent, SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { accessOf, apiOf, payloadOf, presentedBy, refreshOf } from "../helpers/api.ts";
import { cookieEffects, exchangeOf, type Presented } from "../helpers/exchanges.ts";
import { sorted } from "../helpers/sorted.ts";
import { watchedStore } from "../helpers/watched-store.ts";

type Transport = "cookie" | "header";
const transports = ["cookie", "header"] as const;

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    clientIp: (ctx) => ctx.requestHeader.get("x-real-ip") ?? undefined,
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const begin = async (transport: Transport, given: object = {}) => {
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      tenantId: "acme",
      claims: { role: "admin" },
      data: { cart: 1 },
      label: "laptop",
      ...given,
      transport,
    });
    const { accessToken: access, refreshToken: refresh } = tokens;
    return { id: session.id, access, refresh, presented: presentedBy(transport, access) };
  };
  const reasonOf = (presented: Presented): Promise<string | undefined> =>
    sessions.getSession(exchangeOf(presented)).then(
      () => undefined,
      (error: SessionError) => error.reason,
    );
  const live = async () => (await sessions.list({ userId: "alice" })).sessions;
  return { sessions, api, events, begin, reasonOf, live };
}

/** A store that runs a function right before it inserts a session. */
function before(inner: SessionStore, happens: () => Promise<unknown>): SessionStore {
  return {
    ...inner,
    async insert(session) {
      await happens();
      return inner.insert(session);
    },
  };
}

/** Copies the methods of a store, because a proxy cannot be spread. */
function methodsOf(store: SessionStore): SessionStore {
  const names = Object.keys(memoryStore()) as (keyof SessionStore)[];
  return Object.fromEntries(names.map((name) => [name, store[name]])) as unknown as SessionStore;
}

describe.each(transports)("reauthenticate in a %s session", (transport) => {
  it("feat:A7 feat:D14 changes the id, the tokens and authTime, and nothing else", async () => {
    const { sessions, api, begin, reasonOf, live, events } = createWorld();
    const old = await begin(transport);
    await sessions.updateClaims(old.id, { level: 2 });
    sessions.clock.advance("10m");
    const device = { "user-agent": "Browser/2", "x-real-ip": "192.0.2.7" };
    const answer = await api.call({ ...old.presented, headers: device }, async (ctx) => {
      const session = await sessions.reauthenticate(ctx);
      return [session, sessions.require(ctx).id, await session.data()] as const;
    });
    expect(answer.error).toBeUndefined();
    const [session, current, data] = answer.result ?? [];
    expect(session?.id).not.toBe(old.id);
    expect(current).toBe(session?.id);
    expect(session?.authTime.getTime()).toBe(sessions.clock.now());
    expect(session).toMatchObject({ userId: "alice", tenantId: "acme", tokenTransport: transport });
    expect([session?.claims, data]).toEqual([{ role: "admin", level: 2 }, { cart: 1 }]);
    expect((await live()).map(({ id, device: d }) => [id, d])).toEqual([
      [session?.id, { label: "laptop", userAgent: "Browser/2", ip: "192.0.2.7" }],
    ]);
    expect(answer.notice).toMatchObject({ event: "created", session: session?.id });
    expect(cookieEffects(answer.headers)).toEqual(
      transport === "cookie" ? ["access set", "refresh set"] : [],
    );
    expect(payloadOf(accessOf(answer))).toMatchObject({
      sid: session?.id,
      auth_time: sessions.clock.now() / 1000,
      level: 2,
      tid: "acme",
    });
    expect(await reasonOf(presentedBy(transport, accessOf(answer) ?? ""))).toBeUndefined();
    expect((await api.refresh(transport, refreshOf(answer) ?? "")).error).toBeUndefined();
    expect(events.map((e) => e.type === "revoked" && [e.sessionId, e.endedBy])).toContainEqual([
      old.id,
      "replaced",
    ]);
  });

  it("feat:A7 the former tokens are refused but not cleared, because the response carried new ones", async () => {
    const { sessions, api, begin, events } = createWorld();
    const old = await begin(transport);
    await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    const late = await api.call(old.presented, () => {});
    expect(late.error?.code).toBe(Code.Unauthenticated);
    expect(late.hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.KEEP });
    expect(cookieEffects(late.headers)).toEqual([]);
    const refreshed = await api.refresh(transport, old.refresh);
    expect(refreshed.hint?.reason).toBe(Reason.SESSION_REVOKED);
    expect(cookieEffects(refreshed.headers)).toEqual([]);
    expect(events.filter(({ type }) => type === "theft")).toEqual([]);
  });

  it("feat:D13 feat:A9 keeps the session's own lifetimes and counts them from now", async () => {
    const { sessions, api, begin } = createWorld();
    const lifetimes = { access: "5m", idle: "1h", absolute: "1d" } as const;
    const old = await begin(transport, { lifetimes });
    sessions.clock.advance("4m");
    const answer = await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    const now = sessions.clock.now();
    const info = await sessions.find(answer.result?.id ?? "");
    expect(info?.expiresAt.getTime()).toBe(now + 86_400_000);
    expect(info?.idleExpiresAt.getTime()).toBe(now + 3_600_000);
    const { exp, iat } = payloadOf(accessOf(answer));
    expect(exp - iat).toBeLessThanOrEqual(300);
    sessions.clock.advance("30m");
    const refreshed = await api.refresh(transport, refreshOf(answer) ?? "");
    const next = payloadOf(accessOf(refreshed));
    expect(next.exp - next.iat).toBeLessThanOrEqual(300);
    expect((await sessions.find(next.sid))?.idleExpiresAt.getTime()).toBe(now + 5_400_000);
  });

  it("feat:A7 of ten calls at once, one succeeds and one session is left", async () => {
    const { sessions, api, begin, live, events } = createWorld();
    const old = await begin(transport);
    const answers = await Promise.all(
      Array.from({ length: 10 }, () =>
        api.call(old.presented, (ctx) => sessions.reauthenticate(ctx)),
      ),
    );
    const good = answers.filter(({ error }) => error === undefined);
    expect(good).toHaveLength(1);
    expect((await live()).map(({ id }) => id)).toEqual([good[0]?.result?.id]);
    for (const { error, headers, hint } of answers.filter((a) => a.error !== undefined)) {
      expect(error?.code).toBe(Code.Unauthenticated);
      expect(hint?.tokens).toBe(Tokens.KEEP);
      expect(cookieEffects(headers)).toEqual([]);
    }
    expect(events.filter(({ type }) => type === "created")).toHaveLength(2);
  });

  it("feat:A7 uses one transaction: if the store fails, the former session stays alive", async () => {
    const store = watchedStore();
    const { sessions, api, begin, reasonOf, live } = createWorld({ store: store.store });
    const old = await begin(transport);
    store.failing.add("insert");
    const failed = await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    expect([failed.error?.code, failed.notice]).toEqual([Code.Unavailable, undefined]);
    expect(cookieEffects(failed.headers)).toEqual([]);
    store.failing.clear();
    expect(await reasonOf(old.presented)).toBeUndefined();
    store.take();
    await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    expect(store.take().filter((name) => name !== "load" && name !== "changes")).toEqual([
      "insert",
    ]);
    expect(await live()).toHaveLength(1);
  });

  it("feat:B11 feat:A7 succeeds even if an outage begins right after the insert", async () => {
    const store = watchedStore();
    const failing: SessionStore = {
      ...methodsOf(store.store),
      async insert(session) {
        const inserted = await store.store.insert(session);
        store.failing.add("load");
        return inserted;
      },
    };
    const { sessions, api, begin } = createWorld({ store: failing });
    const old = await begin(transport);
    store.failing.clear();
    const answer = await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    expect(answer.error).toBeUndefined();
    expect(accessOf(answer)).toBeDefined();
  });

  it("feat:A7 refuses a session that ended in the meantime, even right before the insert", async () => {
    const inner = memoryStore();
    const ends: { id: string | undefined } = { id: undefined };
    const store = before(inner, async () => ends.id && inner.revoke(ends.id, "revoked"));
    const { sessions, api, begin, live } = createWorld({ store });
    const old = await begin(transport);
    ends.id = old.id;
    const answer = await api.call(old.presented, (ctx) => sessions.reauthenticate(ctx));
    expect(answer.error?.code).toBe(Code.Unauthenticated);
    expect(answer.hint?.reason).toBe(Reason.SESSION_REVOKED);
    expect(accessOf(answer)).toBeUndefined();
    expect(await live()).toEqual([]);
  });

  it("feat:A7 is reported as misuse after the first message of a stream, and changes nothing", async () => {
    const { sessions, api, begin, live } = createWorld();
    const old = await begin(transport);
    const answer = await api.stream(
      old.presented,
      () => {},
      (ctx) => sessions.reauthenticate(ctx),
    );
    expect(answer.error?.code).toBe(Code.Internal);
    expect(answer.error?.rawMessage).toMatch(
      /^sessions\.reauthenticate: the response headers have already been sent/,
    );
    expect((await live()).map(({ id }) => id)).toEqual([old.id]);
    const early = await api.stream(old.presented, (ctx) => sessions.reauthenticate(ctx));
    expect(early.error).toBeUndefined();
    expect(accessOf(early)).toBeDefined();
  });

  it("feat:A7 feat:E1 followed by updateClaims reports a sign-in with the new claims", async () => {
    const { sessions, api, begin } = createWorld();
    const old = await begin(transport);
    const answer = await api.call(old.presented, async (ctx) => {
      await sessions.reauthenticate(ctx);
      await sessions.require(ctx).updateClaims({ role: "owner" });
    });
    expect(answer.notice).toMatchObject({ event: "created", claimsVersion: 1 });
    expect(payloadOf(accessOf(answer))).toMatchObject({ role: "owner", cv: 1 });
    expect(refreshOf(answer)).toBeDefined();
  });
});

describe.each(transports)("fork of a %s session", (transport) => {
  it("feat:A2 feat:D14 creates a session with the same content that ends no later and uses headers", async () => {
    const { sessions, api, begin, live } = createWorld();
    const parent = await begin(transport);
    const { authTime, expiresAt } = (await sessions.find(parent.id)) ?? {};
    sessions.clock.advance("10m");
    const answer = await api.call(parent.presented, (ctx) => sessions.fork(ctx, { label: "cli" }));
    expect(answer.error).toBeUndefined();
    // The response carries none of its tokens.
    expect(
      [...answer.headers.keys()].filter((name) => /token|rpcsession-session|set-cookie/.test(name)),
    ).toEqual([]);
    const { session, tokens } = answer.result ?? {};
    expect(session?.id).not.toBe(parent.id);
    expect(session).toMatchObject({
      ...{ userId: "alice", tenantId: "acme", tokenTransport: "header", authTime, expiresAt },
      claims: { role: "admin" },
    });
    const info = await sessions.find(session?.id ?? "");
    expect(info?.createdAt.getTime()).toBe(sessions.clock.now());
    expect(info?.device).toEqual({ label: "cli" });
    expect(await session?.data()).toEqual({ cart: 1 });
    const bearer = tokens?.accessToken ?? "";
    const { result } = await api.call({ bearer }, (ctx) => sessions.require(ctx).id);
    expect(result).toBe(session?.id);
    expect((await api.refresh("header", tokens?.refreshToken ?? "")).error).toBeUndefined();
    expect(sorted((await live()).map(({ id }) => id))).toEqual(sorted([parent.id, session?.id]));
  });

  it("feat:D1 feat:D2 both sessions refresh for weeks without triggering reuse detection", async () => {
    const { sessions, api, begin, events } = createWorld();
    const parent = await begin(transport);
    const { result } = await api.call(parent.presented, (ctx) => sessions.fork(ctx));
    const holders: { by: Transport; refresh: string; gen: number }[] = [
      { by: transport, refresh: parent.refresh, gen: 0 },
      { by: "header", refresh: result?.tokens.refreshToken ?? "", gen: 0 },
    ];
    for (let day = 0; day < 30; day++) {
      sessions.clock.advance("1d");
      for (const holder of holders) {
        for (const pause of ["61s", "31s"] as const) {
          const answer = await api.refresh(holder.by, holder.refresh);
          expect(answer.error).toBeUndefined();
          holder.refresh = refreshOf(answer) ?? holder.refresh;
          holder.gen = payloadOf(accessOf(answer)).gen;
          sessions.clock.advance(pause);
        }
      }
    }
    expect(holders.every(({ gen }) => gen > 20)).toBe(true);
    expect(events.filter(({ type }) => type === "theft")).toEqual([]);
  });

  it("feat:G1 ending one session does not end the other", async () => {
    const { sessions, api, begin, reasonOf } = createWorld();
    const parent = await begin(transport);
    const { result } = await api.call(parent.presented, (ctx) => sessions.fork(ctx));
    await sessions.revoke(parent.id);
    expect(await reasonOf({ bearer: result?.tokens.accessToken ?? "" })).toBeUndefined();
    expect(await reasonOf(parent.presented)).toBe("SESSION_REVOKED");
  });

  it("feat:G3 is refused if its parent has ended, even right before the insert", async () => {
    const inner = memoryStore();
    const ends: { id: string | undefined } = { id: undefined };
    const store = before(inner, async () => ends.id && inner.revoke(ends.id, "revoked"));
    const { sessions, api, begin, live } = createWorld({ store });
    const parent = await begin(transport);
    ends.id = parent.id;
    const answer = await api.call(parent.presented, (ctx) => sessions.fork(ctx));
    expect(answer.error?.code).toBe(Code.Unauthenticated);
    expect(answer.hint?.reason).toBe(Reason.SESSION_REVOKED);
    expect(await live()).toEqual([]);
  });

  it("feat:G3 is refused in the call that ended its parent", async () => {
    const { sessions, api, begin, live } = createWorld();
    const parent = await begin(transport);
    const answer = await api.call(parent.presented, async (ctx) => {
      await sessions.require(ctx).revoke();
      await sessions.fork(ctx);
    });
    expect(answer.error?.code).toBe(Code.Unauthenticated);
    expect(await live()).toEqual([]);
  });

  it("feat:D13 feat:A9 accepts shorter lifetimes and never outlives its parent", async () => {
    const { sessions, api, begin } = createWorld();
    const parent = await begin(transport, { lifetimes: { absolute: "10d", idle: "2d" } });
    sessions.clock.advance("1m");
    const end = (await sessions.find(parent.id))?.expiresAt.getTime() ?? 0;
    const forked = async (lifetimes: object) => {
      const { result, error } = await api.call(parent.presented, (ctx) =>
        sessions.fork(ctx, { lifetimes }),
      );
      return { info: await sessions.find(result?.session.id ?? "none"), error };
    };
    const now = sessions.clock.now();
    expect((await forked({})).info?.expiresAt.getTime()).toBe(end);
    expect((await forked({ absolute: "10d" })).info?.expiresAt.getTime()).toBe(end);
    const short = await forked({ absolute: "1d", idle: "1h" });
    expect(short.info?.expiresAt.getTime()).toBe(now + 86_400_000);
    expect(short.info?.idleExpiresAt.getTime()).toBe(now + 3_600_000);
    for (const [lifetimes, message] of [
      [{ absolute: "11d" }, /^lifetimes\.absolute must be at most 10d, got "11d"$/],
      [{ idle: "3d" }, /^lifetimes\.idle must be at most .*, got "3d"$/],
      [{ access: "16m" }, /^lifetimes\.access must be at most 15m, got "16m"$/],
    ] as const) {
      const { error, info } = await forked(lifetimes);
      expect([error?.code, info]).toEqual([Code.Internal, undefined]);
      expect(error?.rawMessage).toMatch(message);
    }
  });

  it("feat:A8 counts towards the session limit and never ends its parent", async () => {
    const { sessions, api, begin, live } = createWorld({ sessionsPerUser: { max: 2 } });
    const parent = await begin(transport);
    sessions.clock.advance("1s");
    await begin("header");
    sessions.clock.advance("1s");
    const { result } = await api.call(parent.presented, (ctx) => sessions.fork(ctx));
    expect((await live()).map(({ id }) => id)).toEqual([result?.session.id, parent.id]);
    const one = createWorld({ sessionsPerUser: { max: 1 } });
    const only = await one.begin(transport);
    const refused = await one.api.call(only.presented, (ctx) => one.sessions.fork(ctx));
    expect(refused.error?.code).toBe(Code.PermissionDenied);
    expect(refused.hint).toMatchObject({ reason: Reason.SESSION_LIMIT, tokens: Tokens.KEEP });
    expect((await one.live()).map(({ id }) => id)).toEqual([only.id]);
  });

  it("feat:A3 uses cookies on request", async () => {
    const { sessions, api, begin, reasonOf } = createWorld();
    const parent = await begin(transport);
    const { result } = await api.call(parent.presented, (ctx) =>
      sessions.fork(ctx, { transport: "cookie" }),
    );
    expect(result?.session.tokenTransport).toBe("cookie");
    const access = result?.tokens.accessToken ?? "";
    expect(await reasonOf({ access })).toBeUndefined();
    expect(await reasonOf({ bearer: access })).toBeDefined();
  });
});

describe("feat:E3 a change right before the insert", () => {
  it.each(transports)(
    "feat:E3 feat:A7 a role removed during reauthenticate or fork is absent from the new session: %s",
    async (transport) => {
      for (const name of ["reauthenticate", "fork"] as const) {
        const inner = memoryStore();
        const rival = testSessions({ store: inner });
        const meanwhile: { id: string | undefined } = { id: undefined };
        const store = before(inner, async () => {
          const { id } = meanwhile;
          meanwhile.id = undefined;
          if (id !== undefined) {
            await rival.updateClaims(id, { role: "reader" });
            await rival.updateData(id, { cart: 2 });
          }
        });
        const { sessions, api, begin } = createWorld({ store, clock: rival.clock });
        const old = await begin(transport);
        await rival.ready();
        meanwhile.id = old.id;
        const answer = await api.call(old.presented, async (ctx) => {
          if (name === "reauthenticate") {
            return { session: await sessions.reauthenticate(ctx), access: undefined };
          }
          const { session, tokens } = await sessions.fork(ctx);
          return { session, access: tokens.accessToken };
        });
        expect([name, answer.error]).toEqual([name, undefined]);
        const { session, access = accessOf(answer) } = answer.result ?? {};
        expect(session?.claims).toEqual({ role: "reader" });
        expect(payloadOf(access).role).toBe("reader");
        expect(await session?.data()).toEqual({ cart: 2 });
        expect((await sessions.find(session?.id ?? ""))?.claims).toEqual({ role: "reader" });
      }
    },
  );
});

describe("edge cases of step-up and fork", () => {
  it.each(["reauthenticate", "fork"] as const)(
    "feat:A7 %s without a session: Unauthenticated",
    async (name) => {
      const { sessions, api, live } = createWorld();
      const { error, hint } = await api.open({}, async (ctx) => void (await sessions[name](ctx)));
      expect([error?.code, hint?.reason]).toEqual([Code.Unauthenticated, Reason.SESSION_MISSING]);
      expect(await live()).toEqual([]);
    },
  );

  it.each(transports)(
    "feat:A7 twice in one call leaves only the session whose tokens are in the response: %s",
    async (transport) => {
      const { sessions, api, begin, live } = createWorld();
      const old = await begin(transport);
      const again = await api.open(old.presented, async (ctx) => {
        await sessions.create(ctx, { userId: "alice" });
        return sessions.create(ctx, { userId: "alice" });
      });
      expect(again.error).toBeUndefined();
      expect((await live()).map(({ id }) => id)).toEqual([payloadOf(accessOf(again)).sid]);
      const { presented } = await begin(transport);
      const anew = await api.call(presented, async (ctx) => {
        await sessions.reauthenticate(ctx);
        await sessions.reauthenticate(ctx);
        return sessions.create(ctx, { userId: "alice" });
      });
      expect((await live()).map(({ id }) => id).sort()).toEqual(
        [payloadOf(accessOf(again)).sid, payloadOf(accessOf(anew)).sid].sort(),
      );
      expect(anew.notice).toMatchObject({ event: "created", session: anew.result?.id });
    },
  );

  it.each(transports)(
    "feat:A7 feat:G1 the handle of the former session cannot affect the new one: %s",
    async (transport) => {
      const { sessions, api, begin, live } = createWorld();
      const old = await begin(transport);
      const answer = await api.call(old.presented, async (ctx) => {
        const former = sessions.require(ctx);
        const session = await sessions.reauthenticate(ctx);
        await former.revoke();
        await expect(former.updateClaims({ a: 1 })).rejects.toMatchObject({ kind: "unauthorized" });
        return session.id;
      });
      expect([answer.error, answer.notice?.event]).toEqual([undefined, "created"]);
      expect(payloadOf(accessOf(answer)).sid).toBe(answer.result);
      expect((await live()).map(({ id }) => id)).toEqual([answer.result]);
    },
  );

  it("feat:C1 feat:A7 the response carries the new anti-CSRF token, and updateClaims does not remove it", async () => {
    const { sessions, api, begin } = createWorld({ antiCsrf: "token" });
    const old = await begin("cookie");
    const csrf = (await api.refresh("cookie", old.refresh)).headers.get("rpcsession-csrf") ?? "";
    const answer = await api.call({ ...old.presented, csrf }, async (ctx) => {
      await sessions.reauthenticate(ctx);
      await sessions.require(ctx).updateClaims({ a: 1 });
    });
    const next = answer.headers.get("rpcsession-csrf") ?? "";
    expect([answer.error, next === csrf, next === ""]).toEqual([undefined, false, false]);
    const access = accessOf(answer) ?? "";
    expect((await api.call({ access, csrf: next }, () => {})).error).toBeUndefined();
    expect((await api.call({ access, csrf }, () => {})).hint?.reason).toBe(Reason.ANTI_CSRF);
  });

  it("feat:A3 feat:N4 an invalid transport is refused", async () => {
    const { sessions, api, begin, live } = createWorld();
    const { presented } = await begin("header");
    const given = { transport: "body" } as never;
    const { error } = await api.call(presented, (ctx) => sessions.fork(ctx, given));
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toBe('transport must be "header" or "cookie"');
    await expect(sessions.issue({ userId: "alice", transport: "body" as never })).rejects.toThrow(
      'transport must be "header" or "cookie"',
    );
    expect(await live()).toHaveLength(1);
  });

  it("feat:N4 invalid labels are refused", async () => {
    const { sessions, api, begin } = createWorld();
    const { presented } = await begin("header");
    for (const label of ["", "x".repeat(256), "\u0000", 7]) {
      const { error } = await api.call(presented, (ctx) => sessions.fork(ctx, { label } as never));
      expect(error?.code).toBe(Code.Internal);
      expect(error?.rawMessage).toMatch(/^label must be/);
    }
  });

  it.each(transports)(
    "feat:A7 a sign-in ends the session of the request, which prevents session fixation: %s",
    async (transport) => {
      const { sessions, api, begin, events } = createWorld();
      const planted = await begin(transport, { userId: "mallory", tenantId: "evil" });
      const given: Presented =
        transport === "cookie"
          ? { access: planted.access, refresh: planted.refresh }
          : planted.presented;
      const answer = await api.open(given, (ctx) => sessions.create(ctx, { userId: "alice" }));
      expect(answer.result?.id).not.toBe(planted.id);
      expect(answer.result?.userId).toBe("alice");
      expect(payloadOf(accessOf(answer)).sid).toBe(answer.result?.id);
      expect(await sessions.find(planted.id)).toBeUndefined();
      expect(events.at(-2)).toEqual({
        type: "revoked",
        sessionId: planted.id,
        endedBy: "replaced",
      });
    },
  );
});
