import { inspect } from "node:util";
import { Code } from "@connectrpc/connect";
import type { Exchange, SessionEvent, SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action } from "../../gen/rpcsession/v1/hint_pb.ts";
import { noTelemetry } from "../../src/base/telemetry.ts";
import { accessOf, apiOf, payloadOf, refreshOf } from "../helpers/api.ts";
import { cookieEffects, exchangeOf } from "../helpers/exchanges.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const secret = "a secret of the servers, of 32 bytes";
const day = 86_400_000;
const externalId = { issuer: "former", sid: "CANARY-sid" };

const before = { kind: "unauthorized", reason: "SESSION_REVOKED", clearTokens: false };
const tooOld = { kind: "unauthorized", reason: "SESSION_EXPIRED", clearTokens: false };

/** Two servers on one store, and a session of another system that began ten days ago. */
async function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const watched = watchedStore(options.store ?? memoryStore());
  const clock = createFakeClock();
  const events: SessionEvent[] = [];
  const all = {
    ...{ clock, secret, public: [NotesService.method.signIn] },
    ...{ ...options, store: watched.store },
    onEvent: (event: SessionEvent) => void events.push(event),
  };
  const [here, there] = [testSessions(all), testSessions(all)];
  await Promise.all([here.ready(), there.ready()]);
  const createdAt = new Date(clock.now() - 10 * day);
  const authTime = new Date(clock.now() - 3 * day);
  const given = { userId: "alice", externalId, createdAt };
  return { here, there, api: apiOf(here), clock, events, watched, createdAt, authTime, given };
}

/** A request of a page of the service. */
function ownPage(cookies: Parameters<typeof exchangeOf>[0] = {}): Exchange {
  const headers = { origin: "https://test.example", "sec-fetch-site": "same-origin" };
  return exchangeOf({ ...cookies, headers: { ...headers, ...cookies.headers } });
}

const inHeaders = { headers: { "rpcsession-transport": "header" } };

function refusals(events: readonly SessionEvent[]) {
  return events.flatMap((event) => (event.type === "adoptionRefused" ? [event.why] : []));
}

describe("feat:O7 adopt", () => {
  it.each(["cookie", "header"] as const)(
    "continues a session of another system, with its times: %s",
    async (transport) => {
      const { here, there, clock, given, createdAt, authTime } = await createWorld();
      const exchange = transport === "cookie" ? ownPage() : exchangeOf(inHeaders);
      const claims = { role: "editor" };
      const session = await here.adopt(exchange, { ...given, authTime, claims, amr: ["pwd"] });
      const end = new Date(createdAt.getTime() + 90 * day);
      const times = { createdAt, authTime, expiresAt: end };
      expect(session).toMatchObject({ userId: "alice", claims, amr: ["pwd"], ...times });
      const info = await there.find(session.id);
      expect(info).toMatchObject({ ...times, externalId, tokenTransport: transport });
      expect(info?.lastSeenAt.getTime()).toBe(clock.now());
      expect(info?.idleExpiresAt.getTime()).toBe(clock.now() + 14 * day);
      const access = accessOf({ headers: exchange.responseHeader });
      expect(payloadOf(access)).toMatchObject({
        session_iat: createdAt.getTime() / 1000,
        auth_time: authTime.getTime() / 1000,
        session_exp: end.getTime() / 1000,
      });
      const presented =
        transport === "cookie" ? { access: access ?? "" } : { bearer: access ?? "" };
      expect((await there.getSession(ownPage(presented))).id).toBe(session.id);
    },
  );

  it("works in an RPC, and without a response", async () => {
    const { here, there, api, given, createdAt } = await createWorld();
    const { result, ...answer } = await api.open(inHeaders, (ctx) => here.adopt(ctx, given));
    expect(result?.createdAt).toEqual(createdAt);
    expect(answer.notice?.event).toBe("created");
    const other = { ...given, externalId: { ...externalId, sid: "other" } };
    const { session, tokens } = await there.adopt({ ...other, transport: "cookie" });
    expect(session.createdAt).toEqual(createdAt);
    const { claims: _, ...rest } = await here.getSession(ownPage({ access: tokens.accessToken }));
    expect(rest.id).toBe(session.id);
  });

  it("ends when a session of that age has to, however often it is refreshed", async () => {
    const { here, api, clock, given, createdAt } = await createWorld();
    const { session, tokens } = await here.adopt(given);
    let { refreshToken } = tokens;
    while (clock.now() < createdAt.getTime() + 89 * day) {
      clock.advance("8d");
      const answer = await api.refresh("header", refreshToken);
      refreshToken = refreshOf(answer) ?? refreshToken;
      clock.advance("61s");
      const again = await api.refresh("header", refreshToken);
      refreshToken = refreshOf(again) ?? refreshToken;
      if (clock.now() >= createdAt.getTime() + 82 * day) {
        break;
      }
    }
    const info = await here.find(session.id);
    expect(info?.expiresAt.getTime()).toBe(createdAt.getTime() + 90 * day);
    expect(info?.idleExpiresAt).toEqual(info?.expiresAt);
    clock.advance(`${createdAt.getTime() + 90 * day - clock.now() - 1}ms`);
    expect(await here.find(session.id)).toBeDefined();
    clock.advance("1ms");
    expect(await here.find(session.id)).toBeUndefined();
    expect((await api.refresh("header", refreshToken)).hint?.action).toBe(Action.SIGN_IN);
  });

  it.each([
    ["endsBy", { endsBy: 2 * day }, 2 * day],
    ["endsBy after the end that its age permits", { endsBy: 85 * day }, 80 * day],
    ["lifetimes of its own", { absolute: 12 * day }, 2 * day],
  ])("ends earlier with %s", async (_, { endsBy, absolute }: Limits, expected) => {
    const { here, clock, given } = await createWorld();
    const { session } = await here.adopt({
      ...given,
      ...(endsBy !== undefined && { endsBy: new Date(clock.now() + endsBy) }),
      ...(absolute !== undefined && {
        lifetimes: { absolute: `${absolute / day}d`, idle: `${absolute / day}d` } as const,
      }),
    });
    expect(session.expiresAt.getTime() - clock.now()).toBe(expected);
  });

  it("is no authentication: authTime is createdAt by default, and a policy asks for a new one", async () => {
    const methods = { "notes.v1.NotesService/AddNote": { freshWithin: "15m" } } as const;
    const { here, api, given, createdAt, clock } = await createWorld({ methods });
    const { session, tokens } = await here.adopt(given);
    expect(session.authTime).toEqual(createdAt);
    const refused = await api.call({ bearer: tokens.accessToken }, () => {});
    expect(refused.hint?.action).toBe(Action.STEP_UP);
    const exchange = exchangeOf({ bearer: tokens.accessToken });
    const again = await here.reauthenticate(exchange);
    const now = new Date(clock.now());
    expect(await again.info()).toMatchObject({
      ...{ createdAt: now, authTime: now, externalId },
      expiresAt: new Date(clock.now() + 90 * day),
    });
    const access = accessOf({ headers: exchange.responseHeader }) ?? "";
    expect((await api.call({ bearer: access }, () => {})).error).toBeUndefined();
  });

  it("is found by its former id and by when it began there", async () => {
    const { here, given, createdAt } = await createWorld();
    const { session } = await here.adopt(given);
    const { session: newer } = await here.issue({ userId: "alice" });
    const { sessions: all } = await here.list({ userId: "alice" });
    expect(all.map(({ id }) => id)).toEqual([newer.id, session.id]);
    expect((await here.list({ externalId })).sessions.map(({ id }) => id)).toEqual([session.id]);
    const createdBefore = new Date(createdAt.getTime() + 1);
    expect(await here.revokeWhere({ createdBefore })).toBe(1);
    expect(await here.find(session.id)).toBeUndefined();
  });

  it("treats a time up to clockSkew ahead as now, and refuses a later one as a mistake", async () => {
    const { here, clock, given } = await createWorld();
    const now = new Date(clock.now());
    const ahead = new Date(clock.now() + 60_000);
    const far = new Date(clock.now() + 61_000);
    for (const wrong of [{ createdAt: far }, { authTime: far }]) {
      await expect(here.adopt({ ...given, ...wrong })).rejects.toThrow(
        new RegExp(`^sessions.adopt: ${Object.keys(wrong)[0]} is 61s in the future`),
      );
    }
    const { session } = await here.adopt({ ...given, createdAt: ahead, authTime: ahead });
    expect([session.createdAt, session.authTime]).toEqual([now, now]);
    expect(session.expiresAt.getTime()).toBe(clock.now() + 90 * day);
  });

  it.each([
    ["older than lifetimes.absolute", { createdAt: 90 * day }],
    ["past its own end", { createdAt: day, endsBy: 0 }],
    ["older than lifetimes of its own", { createdAt: 2 * day, absolute: day }],
  ])("refuses a session that is %s", async (_, { createdAt, endsBy, absolute }: Limits) => {
    const { here, clock, given, events, watched } = await createWorld();
    watched.take();
    const attempt = here.adopt({
      ...{ ...given, createdAt: new Date(clock.now() - (createdAt ?? 0)) },
      ...(endsBy !== undefined && { endsBy: new Date(clock.now() - endsBy) }),
      ...(absolute !== undefined && {
        lifetimes: { absolute: `${absolute / day}d`, idle: `${absolute / day}d` } as const,
      }),
    });
    await expect(attempt).rejects.toMatchObject(tooOld);
    expect(watched.take()).toEqual([]);
    expect(refusals(events)).toEqual(["expired"]);
  });

  it("in an RPC, a refusal says to sign in, and leaves the tokens of the request alone", async () => {
    const { here, api, given, createdAt } = await createWorld();
    await here.adopt(given);
    const { session, tokens } = await here.issue({ userId: "bob", transport: "cookie" });
    const presented = { access: tokens.accessToken, refresh: tokens.refreshToken };
    const old = { ...given, createdAt: new Date(createdAt.getTime() - 80 * day) };
    for (const options of [given, old]) {
      const answer = await api.open(presented, (ctx) => here.adopt(ctx, options));
      expect(answer.error?.code).toBe(Code.Unauthenticated);
      expect(answer.hint?.action).toBe(Action.SIGN_IN);
      expect(cookieEffects(answer.headers)).toEqual([]);
    }
    expect(await here.find(session.id)).toBeDefined();
  });

  it("ends the session that the request belongs to, as a sign-in does", async () => {
    const { here, given } = await createWorld();
    const { session, tokens } = await here.issue({ userId: "bob", transport: "cookie" });
    await here.adopt(ownPage({ access: tokens.accessToken, refresh: tokens.refreshToken }), given);
    expect(await here.find(session.id)).toBeUndefined();
  });

  it("refuses a request of another site and a GET, and the session can be adopted afterwards", async () => {
    const { here, given } = await createWorld();
    const foreign = ownPage({ headers: { origin: "https://evil.example" } });
    for (const exchange of [foreign, { ...ownPage(), requestMethod: "GET" }]) {
      await expect(here.adopt(exchange, given)).rejects.toMatchObject({ kind: "forbidden" });
    }
    expect((await here.adopt(ownPage(), given)).userId).toBe("alice");
  });

  it("binds the session to the key of the client", async () => {
    const { here, given } = await createWorld();
    const boundKey = "A".repeat(43);
    const { session } = await here.adopt({ ...given, boundKey });
    expect((await here.find(session.id))?.boundKey).toBe(boundKey);
  });

  it("is an operation of its own for telemetry, and an entry of its own in the audit log", async () => {
    const names: string[] = [];
    const { here, given } = await createWorld({
      auditLog: {},
      telemetry: {
        ...noTelemetry,
        run: (operation, work) => {
          names.push(operation.name);
          return work();
        },
      },
    });
    const { session } = await here.adopt({ ...given, label: "Ada's phone" });
    expect(names).toContain("adopt");
    expect(names).not.toContain("signIn");
    const { entries } = await here.auditLog.list({ userId: "alice" });
    expect(entries).toMatchObject([
      { event: "adopted", sessionId: session.id, device: { label: "Ada's phone" } },
    ]);
    expect(inspect(entries, { depth: 9 })).not.toContain("CANARY");
  });

  it("needs a store that keeps createdAt", async () => {
    const inner = memoryStore();
    const insert: SessionStore["insert"] = (session) =>
      inner.insert({ ...session, createdAt: null });
    const { here, given } = await createWorld({ store: { ...inner, insert } });
    await expect(here.adopt(given)).rejects.toThrow(/memoryStore does not keep createdAt/);
    expect((await here.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it.each<[string, object, RegExp]>([
    ["no createdAt", { createdAt: undefined }, /createdAt must be a Date/],
    ["a number", { createdAt: 1_700_000_000_000 }, /createdAt must be a Date/],
    ["an invalid date", { createdAt: new Date("x") }, /createdAt must be a Date/],
    ["a time before 1970", { authTime: new Date(-1) }, /authTime must be a Date/],
    ["endsBy as a text", { endsBy: "2026-01-01" }, /endsBy must be a Date/],
    ["no externalId", { externalId: undefined }, /^externalId must be an object/],
    ["no sid", { externalId: { issuer: "former", sub: "a" } }, /externalId\.sid is missing/],
    ["no issuer", { externalId: { sid: "a" } }, /^externalId\.issuer must be a string/],
    ["afterRedirect", { afterRedirect: "state-verified" }, /has no option afterRedirect/],
    ["an unknown option", { ttl: "1h" }, /^unknown option "ttl"/],
    ["no user", { userId: undefined }, /^userId must be a string/],
  ])("with %s is the mistake of the service", async (_, wrong, message) => {
    const { here, given, watched } = await createWorld();
    watched.take();
    const options = { ...given, ...wrong };
    await expect(here.adopt(options)).rejects.toThrow(message);
    await expect(here.adopt(ownPage(), options)).rejects.toThrow(message);
    await expect(here.adopt(options)).rejects.toThrow(TypeError);
    expect(watched.take()).toEqual([]);
  });
});

interface Limits {
  readonly createdAt?: number;
  readonly endsBy?: number;
  readonly absolute?: number;
}

describe("feat:O7 sec:R20 a session of another system is adopted once", () => {
  it("by one of many requests at once, on two servers", async () => {
    const { here, there, given, events } = await createWorld();
    const settled = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? here : there).adopt(given)),
    );
    expect(settled.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    for (const one of settled) {
      if (one.status === "rejected") {
        expect(one.reason).toMatchObject(before);
      }
    }
    expect((await here.list({ userId: "alice" })).sessions).toHaveLength(1);
    expect(refusals(events)).toEqual(Array(19).fill("adopted"));
  });

  it.each(["revoke", "signOut", "revokeAll", "revokeEverybody"] as const)(
    "also after the new session has ended by %s, as long as it could be",
    async (way) => {
      const { here, there, clock, given, watched } = await createWorld();
      const { session, tokens } = await here.adopt(given);
      const ends = {
        revoke: () => here.revoke(session.id),
        signOut: () => here.signOut(exchangeOf({ bearer: tokens.accessToken })),
        revokeAll: () => here.revokeAll({ userId: "alice" }),
        revokeEverybody: () => here.revokeEverybody(),
      };
      await ends[way]();
      for (let days = 0; days < 80; days += 20) {
        await expect(there.adopt(given)).rejects.toMatchObject(before);
        clock.advance("20d");
        await watched.store.prune(1_000);
      }
      await expect(there.adopt(given)).rejects.toMatchObject(tooOld);
    },
  );

  it("even if lifetimes.absolute becomes longer, and whatever the request says of its age", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    const short = testSessions({ store, clock, secret });
    const long = testSessions({ store, clock, secret, lifetimes: { absolute: "400d" } });
    const given = { userId: "alice", externalId, createdAt: new Date(clock.now() - day) };
    const { session } = await short.adopt(given);
    await short.revoke(session.id);
    clock.advance("398d");
    await expect(long.adopt(given)).rejects.toMatchObject(before);
    clock.advance("1d");
    await expect(long.adopt(given)).rejects.toMatchObject(tooOld);
    clock.advance("23h");
    const younger = { ...given, createdAt: new Date(clock.now()) };
    await expect(long.adopt(younger)).rejects.toMatchObject(before);
  });

  it("for all users and tenants; another session, or one of another system, is not concerned", async () => {
    const { here, there, given } = await createWorld();
    await here.adopt(given);
    await expect(there.adopt({ ...given, userId: "mallory" })).rejects.toMatchObject(before);
    await expect(there.adopt({ ...given, tenantId: "acme" })).rejects.toMatchObject(before);
    for (const other of [
      { issuer: "former", sid: "other" },
      { issuer: "another", sid: externalId.sid },
    ]) {
      await there.adopt({ ...given, externalId: other });
    }
  });

  it("or not yet, if the store fails or the user has too many sessions: then it can be tried again", async () => {
    const options = { sessionsPerUser: { max: 1, overflow: "reject" } } as const;
    const { here, there, clock, given, watched } = await createWorld(options);
    for (const method of ["lease", "insert"] as const) {
      watched.failing.add(method);
      await expect(here.adopt(given)).rejects.toMatchObject({ kind: "unavailable" });
      watched.failing.clear();
      clock.advance("1ms");
    }
    const { session } = await here.issue({ userId: "alice" });
    await expect(here.adopt(given)).rejects.toMatchObject({ reason: "SESSION_LIMIT" });
    await here.revoke(session.id);
    clock.advance("1ms");
    await there.adopt(given);
  });

  it("gives no tokens away before the store has recorded that for good", async () => {
    const inner = memoryStore();
    let answers = 1;
    const lease: SessionStore["lease"] = async (name, holder, ttl) => {
      if (name.startsWith("adopted:") && --answers < 0) {
        throw new Error("the store is out of reach");
      }
      return inner.lease(name, holder, ttl);
    };
    const { here, there, clock, given } = await createWorld({ store: { ...inner, lease } });
    await expect(here.adopt(given)).rejects.toMatchObject({ kind: "unavailable" });
    expect((await here.list({ userId: "alice" })).sessions).toEqual([]);
    answers = Infinity;
    clock.advance("59s");
    await expect(there.adopt(given)).rejects.toMatchObject(before);
    clock.advance("1s");
    await there.adopt(given);
  });

  it("a server that stops while it adopts the session costs nobody a sign-in, and comes too late afterwards", async () => {
    const inner = memoryStore();
    const [begun, resumed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let isSlow = true;
    const insert: SessionStore["insert"] = async (session) => {
      if (isSlow) {
        isSlow = false;
        begun.resolve();
        await resumed.promise;
      }
      return inner.insert(session);
    };
    const { here, there, clock, given } = await createWorld({ store: { ...inner, insert } });
    const late = here.adopt(given);
    late.catch(() => {});
    await begun.promise;
    await expect(there.adopt(given)).rejects.toMatchObject(before);
    clock.advance("60s");
    const { session } = await there.adopt(given);
    resumed.resolve();
    await expect(late).rejects.toMatchObject(before);
    expect((await here.list({ externalId })).sessions.map(({ id }) => id)).toEqual([session.id]);
  });

  it("and what the other system calls it is in no event, error or name of a lease", async () => {
    const inner = memoryStore();
    const names: string[] = [];
    const lease: SessionStore["lease"] = (name, ...rest) => {
      names.push(name);
      return inner.lease(name, ...rest);
    };
    const { here, there, given, events } = await createWorld({ store: { ...inner, lease } });
    await here.adopt(given);
    const error = await there.adopt(given).catch((e: unknown) => e);
    const said = inspect([events, error, names], { depth: 20, maxStringLength: null });
    expect(said).toContain("adoptionRefused");
    expect(said).toMatch(/adopted:[\w-]{43}/);
    expect(said).not.toContain("CANARY");
  });
});

describe("feat:O7 sec:R20 an adoption whose answer is lost", () => {
  it("may be repeated once, from clientTimeout to 5 minutes after it, and one session is live", async () => {
    const { here, there, clock, given, api } = await createWorld();
    const lost = await here.adopt(given);
    clock.advance("9.999s");
    await expect(there.adopt(given)).rejects.toMatchObject(before);
    clock.advance("1ms");
    const exchange = exchangeOf(inHeaders);
    const session = await there.adopt(exchange, given);
    expect(session).toMatchObject({
      ...{ createdAt: lost.session.createdAt, expiresAt: lost.session.expiresAt },
    });
    expect((await here.list({ externalId })).sessions.map(({ id }) => id)).toEqual([session.id]);
    expect((await api.refresh("header", lost.tokens.refreshToken)).hint?.action).toBe(
      Action.SIGN_IN,
    );
    clock.advance("10s");
    await expect(here.adopt(given)).rejects.toMatchObject(before);
    expect(await here.find(session.id)).toBeDefined();
  });

  it("is given up after 5 minutes", async () => {
    const { here, there, clock, given } = await createWorld();
    const { session } = await here.adopt(given);
    clock.advance("299.999s");
    const { session: again } = await there.adopt(given);
    expect(await here.find(session.id)).toBeUndefined();
    const other = { ...given, externalId: { ...externalId, sid: "other" } };
    await here.adopt(other);
    clock.advance("5m");
    await expect(there.adopt(other)).rejects.toMatchObject(before);
    expect(await here.find(again.id)).toBeDefined();
  });

  it("is repeated by one of many requests at once", async () => {
    const { here, there, clock, given } = await createWorld();
    await here.adopt(given);
    clock.advance("10s");
    const settled = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? here : there).adopt(given)),
    );
    expect(settled.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect((await here.list({ userId: "alice" })).sessions).toHaveLength(1);
  });

  it.each<[string, (world: Awaited<ReturnType<typeof createWorld>>) => Promise<unknown>]>([
    [
      "the client has used its access token",
      async ({ here, api, clock, given, watched }) => {
        const { tokens } = await here.adopt(given);
        clock.advance("61s");
        await api.call({ bearer: tokens.accessToken }, () => {});
        clock.advance("10s"); // uses are gathered for that long
        await vi.waitFor(() => expect(watched.calls).toContain("confirm"));
      },
    ],
    [
      "the client has refreshed it",
      async ({ here, api, clock, given }) => {
        const { tokens } = await here.adopt(given);
        clock.advance("61s");
        await api.refresh("header", tokens.refreshToken);
      },
    ],
    [
      "the client has refreshed it twice",
      async ({ here, api, clock, given }) => {
        const { tokens } = await here.adopt(given);
        clock.advance("61s");
        await api.refresh("header", tokens.refreshToken);
        clock.advance("31s");
        const answer = await api.refresh("header", tokens.refreshToken);
        expect(payloadOf(accessOf(answer)).gen).toBe(1);
      },
    ],
    [
      "the user has authenticated again",
      async ({ here, api, given }) => {
        const { tokens } = await here.adopt(given);
        const again = await api.call({ bearer: tokens.accessToken }, (ctx) =>
          here.reauthenticate(ctx),
        );
        expect(again.result).toBeDefined();
      },
    ],
    [
      "it has ended, and a fork of it lives",
      async ({ here, api, given }) => {
        const { session, tokens } = await here.adopt(given);
        const fork = await api.call({ bearer: tokens.accessToken }, (ctx) =>
          here.fork(ctx, { freshWithin: "any" }),
        );
        expect(fork.result).toBeDefined();
        await here.revoke(session.id);
      },
    ],
    [
      "a sign-in has begun a session with the same external id",
      async ({ here, given }) => {
        const { session } = await here.adopt(given);
        await here.revoke(session.id);
        await here.issue({ userId: "alice", externalId });
      },
    ],
  ])("is not repeated once %s", async (_, happens) => {
    const world = await createWorld();
    await happens(world);
    world.clock.advance("10s");
    const live = (await world.here.list({ externalId })).sessions;
    await expect(world.there.adopt(world.given)).rejects.toMatchObject(before);
    expect((await world.here.list({ externalId })).sessions).toEqual(live);
  });

  it("is repeated for the same user only", async () => {
    const { here, there, clock, given } = await createWorld();
    const { session } = await here.adopt({ ...given, tenantId: "acme" });
    clock.advance("10s");
    for (const other of [{ tenantId: "other" }, { userId: "mallory", tenantId: "acme" }]) {
      await expect(there.adopt({ ...given, ...other })).rejects.toMatchObject(before);
    }
    expect(await here.find(session.id)).toBeDefined();
  });

  it("is repeated with the key that the first session is bound to, and not without", async () => {
    const { here, there, clock, given } = await createWorld();
    const boundKey = "A".repeat(43);
    const { session } = await here.adopt({ ...given, boundKey });
    clock.advance("10s");
    for (const other of [{}, { boundKey: `B${"A".repeat(42)}` }]) {
      await expect(there.adopt({ ...given, ...other })).rejects.toMatchObject(before);
    }
    expect(await here.find(session.id)).toBeDefined();
    const { session: next } = await there.adopt({ ...given, boundKey });
    expect((await here.find(next.id))?.boundKey).toBe(boundKey);
  });

  it("replaces a session that the request does present, too", async () => {
    const { here, there, clock, given } = await createWorld();
    const { session, tokens } = await here.adopt({ ...given, transport: "cookie" });
    const { session: other, tokens: otherTokens } = await here.issue({
      ...{ userId: "bob", transport: "cookie" },
    });
    clock.advance("10s");
    const jar = {
      access: [tokens.accessToken, otherTokens.accessToken],
      refresh: [tokens.refreshToken, otherTokens.refreshToken],
    };
    const next = await there.adopt(ownPage(jar), given);
    expect(await here.find(next.id)).toBeDefined();
    expect([await here.find(session.id), await here.find(other.id)]).toEqual([
      undefined,
      undefined,
    ]);
  });
});
