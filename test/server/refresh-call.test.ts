import { Code } from "@connectrpc/connect";
import type { SessionErrorReason, SessionEvent, SessionsOptions } from "rpc-session";
import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { type RefreshResponse, SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { payloadOf } from "../helpers/api.ts";
import {
  clearsCookies,
  cookieEffects,
  cookieValue,
  exchangeOf,
  type Presented,
} from "../helpers/exchanges.ts";
import { advanced, type Issued, issueOn, refreshCall, refreshed } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = Partial<Pick<SessionsOptions, "cookies" | "antiCsrf" | "lifetimes" | "secret">>;

interface World {
  readonly sessions: TestSessions;
  readonly store: WatchedStore;
  readonly events: SessionEvent[];
  readonly cookie: Issued;
  readonly header: Issued;
}

async function createWorld(options: Options = {}): Promise<World> {
  const store = watchedStore();
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    issuer: options.cookies?.insecure ? "http://test.example" : "https://test.example",
    ...options,
    store: store.store,
    onEvent: (event) => void events.push(event),
  });
  const cookie = await issueOn(sessions, "cookie");
  const header = await issueOn(sessions, "header");
  return { sessions, store, events, cookie, header };
}

/** Signs in on another server over the same store, with another secret. */
async function issueElsewhere({ sessions, store }: World): Promise<Issued> {
  const secret = "another server's secret, 32 bytes";
  const elsewhere = testSessions({ store: store.store, secret, clock: sessions.clock });
  const issued = await issueOn(elsewhere, "cookie");
  // A server looks for unknown secrets at most once in 5 s.
  sessions.clock.advance("5s");
  return issued;
}

interface Given extends Presented {
  /** `RefreshRequest.refresh_token`. */
  readonly message?: string;
}

type Refused = readonly [Code, Action, SessionErrorReason];

interface Row {
  readonly row: string;
  readonly given: (world: World) => Given | Promise<Given>;
  /** What the response does to the cookies. Default: nothing. */
  readonly cookies?: readonly string[];
  /** The token headers of the response: "access", "refresh", "csrf". Default: none. */
  readonly headers?: readonly string[];
  readonly refused?: Refused;
  /** Whether the stored records may change. Default: only if a session was refreshed. */
  readonly changes?: boolean;
  readonly options?: Options;
}

const signIn = (reason: SessionErrorReason): Refused => [
  Code.Unauthenticated,
  Action.SIGN_IN,
  reason,
];
const crossSite: Refused = [Code.PermissionDenied, Action.UNSPECIFIED, "CROSS_SITE"];
const outage: Refused = [Code.Unavailable, Action.RETRY_LATER, "AUTH_UNAVAILABLE"];
const insecure: Options = { cookies: { insecure: true } };
const foreign = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };
/** Expires every copy of both cookies, then sets the ones to keep. */
const rewritten = [
  "access expired",
  "access expired partitioned",
  "access set",
  "refresh expired",
  "refresh expired partitioned",
  "refresh set",
];

/** The tokens of a session of another service, whose cookies have the same names. */
function elsewhere({ clock }: TestSessions): Promise<Issued> {
  const issuer = "https://other.example";
  return issueOn(testSessions({ issuer, clock }), "cookie");
}

/** Returns the stored records, even during an outage. */
async function recordsOf({ store, cookie, header }: World) {
  const failing = [...store.failing];
  store.failing.clear();
  const stored = await Promise.all([cookie, header].map(({ id }) => store.store.load(id)));
  for (const method of failing) {
    store.failing.add(method);
  }
  return stored.map(({ record }) => record);
}

async function run(row: Row): Promise<void> {
  const world = await createWorld(row.options);
  const { message = "", ...presented } = await row.given(world);
  const before = await recordsOf(world);
  const answer = await refreshCall(
    world.sessions,
    {
      insecure: row.options?.cookies?.insecure ?? false,
      ...presented,
    },
    message,
  );
  expect(cookieEffects(answer.headers, row.options?.cookies?.insecure)).toEqual(row.cookies ?? []);
  const tokens = Object.entries({
    access: "rpcsession-access-token",
    refresh: "rpcsession-refresh-token",
    csrf: "rpcsession-csrf",
  }).filter(([, name]) => answer.headers.has(name));
  expect(tokens.map(([short]) => short)).toEqual(row.headers ?? []);
  if (row.refused === undefined) {
    expect(answer.error).toBeUndefined();
    expect(answer.headers.get("rpcsession-session")).toContain("event=refreshed");
    expect(answer.headers.get("cache-control")).toBe("no-store");
    return;
  }
  const [code, action, reason] = row.refused;
  expect(answer.error?.code).toBe(code);
  expect(answer.hint).toMatchObject({
    action,
    reason: Reason[reason as keyof typeof Reason],
    realm: row.options?.cookies?.insecure ? "http://test.example" : "https://test.example",
    procedure: "rpcsession.v1.SessionService/Refresh",
  });
  expect(answer.headers.get("rpcsession-session")).toBeNull();
  if (!row.changes) {
    expect(await recordsOf(world)).toEqual(before);
  }
}

it.each(["cookie", "header"] as const)(
  "feat:P4 the response of Refresh states how long the new access token is valid: %s",
  async (transport) => {
    const world = await createWorld();
    const { refresh } = world[transport];
    // Access tokens expire at whole seconds, so part of the last second is left.
    world.sessions.clock.advance("300ms");
    const answer = await (transport === "cookie"
      ? refreshCall(world.sessions, { refresh })
      : refreshCall(world.sessions, {}, refresh));
    const access =
      transport === "cookie"
        ? cookieValue(answer.headers, "access")
        : answer.headers.get("rpcsession-access-token");
    const left = Number(payloadOf(access ?? undefined).exp) * 1000 - world.sessions.clock.now();
    expect(left % 1000).toBe(700);
    const { session } = answer.message as RefreshResponse;
    expect(session?.accessExpiresIn).toMatchObject({
      seconds: BigInt(Math.floor(left / 1000)),
      nanos: 700_000_000,
    });
    expect(session).toMatchObject({ id: world[transport].id, userId: "alice", current: true });
  },
);

describe("feat:D7 the Refresh method", () => {
  const rows: readonly Row[] = [
    // gs:R1 is not an error here, and gs:R2 has tests of its own: see the duplicate cookies below.
    {
      row: "gs:R3 a cookie whose generation has not settled: a new access token, the same refresh token",
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      cookies: ["access set"],
    },
    {
      row: "gs:R3 a cookie with its expired access cookie: a new access token",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("16m");
        return { access: cookie.access, refresh: cookie.refresh };
      },
      cookies: ["access set"],
    },
    {
      row: "gs:R8 a cookie confirmed longer ago than the overlap: both tokens",
      given: async ({ cookie, sessions }) => {
        sessions.clock.advance("61s");
        await refreshed(sessions, cookie.refresh);
        sessions.clock.advance("31s");
        return { refresh: cookie.refresh };
      },
      cookies: ["access set", "refresh set"],
    },
    {
      row: "gs:R8 the previous cookie, its successor not confirmed: the successor again",
      given: async ({ cookie, sessions }) => {
        await advanced(sessions, cookie.refresh);
        sessions.clock.advance("2d");
        return { refresh: cookie.refresh };
      },
      cookies: ["access set", "refresh set"],
    },
    {
      row: "gs:R3 a token in the message: a new access token",
      given: ({ header }) => ({ message: header.refresh }),
      headers: ["access"],
    },
    {
      row: "gs:R3 a token in the message: no origin needed",
      given: ({ header }) => ({ message: header.refresh, headers: foreign }),
      headers: ["access"],
    },
    {
      row: "gs:R8 message and cookies: the message takes precedence, the cookies are left alone",
      given: ({ header, cookie }) => ({
        message: header.refresh,
        access: cookie.access,
        refresh: cookie.refresh,
      }),
      headers: ["access"],
    },
    {
      row: "gs:R8 message and an access cookie: the cookie is left alone",
      given: ({ header, cookie }) => ({ message: header.refresh, access: cookie.access }),
      headers: ["access"],
    },
    {
      row: "gs:R8 message and cookies without an origin, as an app sends them: refreshed",
      given: ({ header, cookie }) => ({
        message: header.refresh,
        bearer: header.access,
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
      headers: ["access"],
    },
    {
      row: "gs:R8 message and cookies from another site: nothing happens to the cookies",
      given: ({ header, cookie }) => ({
        message: header.refresh,
        refresh: cookie.refresh,
        headers: foreign,
      }),
      headers: ["access"],
    },
    {
      row: "gs:R3 a bearer token and a cookie: the cookie does not count, and is kept",
      given: ({ cookie, header }) => ({ refresh: cookie.refresh, bearer: header.access }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R3 a bearer token that fails never falls back to the cookie",
      given: ({ cookie }) => ({ refresh: cookie.refresh, bearer: "junk" }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R4 no token: SIGN_IN",
      given: () => ({}),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R4 an access cookie alone: SIGN_IN, and what is left is cleared",
      given: ({ cookie }) => ({ access: cookie.access }),
      refused: signIn("SESSION_MISSING"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R4 a malformed access cookie alone: SIGN_IN, and what is left is cleared",
      given: () => ({ access: "junk" }),
      refused: signIn("SESSION_MISSING"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R4 a malformed access cookie alone from another site: refused, nothing cleared",
      given: () => ({ access: "junk", headers: foreign }),
      refused: crossSite,
    },
    {
      row: "gs:R4 the access cookie of another service alone: SIGN_IN, kept",
      given: async ({ sessions }) => ({ access: (await elsewhere(sessions)).access }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R4 the access cookie of another service from another site: there is nothing to refuse",
      given: async ({ sessions }) => ({
        access: (await elsewhere(sessions)).access,
        headers: foreign,
      }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R4 a bearer token alone: SIGN_IN",
      given: ({ header }) => ({ bearer: header.access }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:R5 a cross-site request: refused, nothing changed",
      given: ({ cookie }) => ({ refresh: cookie.refresh, headers: foreign }),
      refused: crossSite,
    },
    {
      row: "gs:R5 no Sec-Fetch-Site and no Origin: refused",
      given: ({ cookie }) => ({
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
      refused: crossSite,
    },
    {
      row: "gs:R5 a cross-site request with a malformed cookie: nothing cleared",
      given: () => ({ refresh: "junk", headers: foreign }),
      refused: crossSite,
    },
    {
      row: "gs:R6 a malformed cookie: SIGN_IN, cleared",
      given: () => ({ refresh: "junk" }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 an empty cookie: SIGN_IN",
      given: () => ({ refresh: "" }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 a malformed token in the message: SIGN_IN",
      given: () => ({ message: "junk" }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "gs:R6 a malformed token in the message: no fallback to the cookie, which is kept",
      given: ({ cookie }) => ({ message: "junk", refresh: cookie.refresh }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "gs:R6 a malformed token in the message from another site: the cookie is kept",
      given: ({ cookie }) => ({ message: "junk", refresh: cookie.refresh, headers: foreign }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "gs:R6 an access token in place of a refresh token: SIGN_IN",
      given: ({ cookie }) => ({ refresh: cookie.access }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 a token with a wrong check value: SIGN_IN",
      given: ({ cookie }) => ({ refresh: withLast(cookie.refresh) }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 a token of a session that the store has lost: SIGN_IN",
      given: async ({ sessions, cookie }) => {
        const lost = await issueOn(testSessions({ clock: sessions.clock }), "cookie");
        return { refresh: lost.refresh.replace(/^[^.]*/, cookie.refresh.split(".")[0] ?? "") };
      },
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 a revoked session: SIGN_IN, cleared",
      given: async ({ cookie }) => {
        await cookie.revoke();
        return { refresh: cookie.refresh };
      },
      refused: signIn("SESSION_REVOKED"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R6 a revoked header session: SIGN_IN",
      given: async ({ header }) => {
        await header.revoke();
        return { message: header.refresh };
      },
      refused: signIn("SESSION_REVOKED"),
    },
    {
      row: "gs:R6 a session whose idle lifetime is over: SIGN_IN",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("14d");
        return { refresh: cookie.refresh };
      },
      refused: signIn("SESSION_EXPIRED"),
      cookies: clearsCookies,
    },
    {
      row: "gs:R7 a reused token: SIGN_IN, cleared, revoked",
      given: async ({ cookie, sessions }) => {
        const next = await advanced(sessions, cookie.refresh);
        await advanced(sessions, next.refresh);
        return { refresh: cookie.refresh };
      },
      refused: signIn("TOKEN_THEFT"),
      cookies: clearsCookies,
      changes: true,
    },
    {
      row: "a store that cannot be read: kept",
      given: ({ cookie, store }) => {
        store.failing.add("load");
        return { refresh: cookie.refresh };
      },
      refused: outage,
    },
    {
      row: "a store that cannot be written: kept",
      given: ({ cookie, store }) => {
        store.failing.add("refresh");
        return { refresh: cookie.refresh };
      },
      refused: outage,
    },
    {
      row: "a store that cannot be written, header session: kept",
      given: ({ header, store }) => {
        store.failing.add("refresh");
        return { message: header.refresh };
      },
      refused: outage,
    },
    {
      row: "a token made with a secret that only another server has: kept",
      given: async (world) => ({ refresh: (await issueElsewhere(world)).refresh }),
      refused: outage,
    },
    {
      row: "a cookie made with a secret that the store never had: SIGN_IN, kept for its own service",
      given: async ({ sessions }) => ({ refresh: (await elsewhere(sessions)).refresh }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "a token made with a secret that was declared dead: SIGN_IN",
      given: async (world) => {
        const { refresh } = await issueElsewhere(world);
        const [id = ""] = refresh?.split(".") ?? [];
        await world.store.store.retireSecrets([{ id, issuer: "https://test.example" }]);
        return { refresh };
      },
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "transport binding: a cookie's token in the message is refused",
      given: ({ cookie }) => ({ message: cookie.refresh }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "transport binding: a header's token in the cookie is refused",
      given: ({ header }) => ({ refresh: header.refresh }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "transport binding: rpcsession-transport is ignored",
      given: ({ cookie }) => ({
        refresh: cookie.refresh,
        headers: { "rpcsession-transport": "header" },
      }),
      cookies: ["access set"],
    },
    {
      row: "anti-CSRF: not required, and the response carries the current token",
      options: { antiCsrf: "token" },
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      cookies: ["access set"],
      headers: ["csrf"],
    },
    {
      row: "anti-CSRF: header sessions have no token",
      options: { antiCsrf: "token" },
      given: ({ header }) => ({ message: header.refresh }),
      headers: ["access"],
    },
  ];
  it.each(rows)("$row", run);

  it("a refused cross-site request does not read or write the store", async () => {
    const { sessions, store, cookie, events } = await createWorld();
    const next = await advanced(sessions, cookie.refresh);
    store.take();
    events.length = 0;
    for (let i = 0; i < 3; i++) {
      const { error } = await refreshCall(sessions, { refresh: next.refresh, headers: foreign });
      expect(error?.code).toBe(Code.PermissionDenied);
    }
    expect(store.take()).toEqual([]);
    const refused = {
      ...{ type: "csrfRefused", check: "crossSite", origin: "https://evil.example" },
      advice: expect.stringContaining("origins"),
    };
    expect(events.filter(({ type }) => type !== "refused")).toEqual([refused, refused, refused]);
    expect(events).toHaveLength(6);
    expect((await store.store.load(cookie.id)).record?.generation).toBe(1);
  });

  it("sec:R11 a malformed token does not read the store", async () => {
    const { sessions, store, cookie } = await createWorld();
    store.take();
    for (const refresh of ["junk", withLast(cookie.refresh), `${cookie.refresh}A`, cookie.access]) {
      await refreshCall(sessions, { refresh });
    }
    expect(store.take()).toEqual([]);
  });

  it("feat:D2 feat:D6 gs:R7 reuse produces one event and one revocation", async () => {
    const { sessions, store, cookie, events } = await createWorld();
    const next = await advanced(sessions, cookie.refresh);
    await advanced(sessions, next.refresh);
    for (let i = 0; i < 5; i++) {
      const { hint } = await refreshCall(sessions, { refresh: cookie.refresh });
      expect(hint).toMatchObject({ tokens: Tokens.CLEAR, session: cookie.id });
    }
    expect(events.filter(({ type }) => type === "theft")).toEqual([
      expect.objectContaining({
        sessionId: cookie.id,
        userId: "alice",
        presented: 0,
        generation: 2,
      }),
    ]);
    expect((await store.store.load(cookie.id)).record?.endedBy).toBe("theft");
  });

  it("feat:K2 returns the session, and its new tokens are accepted", async () => {
    const { sessions, cookie } = await createWorld();
    const server = wireServer(sessions.protect({ routes: () => {} }));
    const { message, headers } = await server.call(
      SessionService.method.refresh,
      {},
      { refresh: cookie.refresh },
    );
    expect(message?.session).toMatchObject({ id: cookie.id, userId: "alice" });
    const access = cookieValue(headers, "access") ?? "";
    const session = await sessions.getSession(exchangeOf({ access }));
    expect(session.id).toBe(cookie.id);
    // The cookie outlives its token, so that the server can tell "expired" from "absent".
    expect(headers.getSetCookie()[0]).toContain(`; Max-Age=${90 * 86_400};`);
  });
});

/** Changes the last character of a token to another valid one. */
function withLast(token: string): string {
  return `${token.slice(0, -1)}${token.endsWith("A") ? "E" : "A"}`;
}

describe("feat:D11 duplicates of the refresh cookie", () => {
  const newer = async (world: World): Promise<string> =>
    (await advanced(world.sessions, world.cookie.refresh)).refresh;

  it.each<[string, (old: string, current: string) => string[]]>([
    ["the old one first", (old, current) => [old, current]],
    ["the old one last", (old, current) => [current, old]],
    ["with a malformed one", (old, current) => ["junk", old, current]],
    ["the same twice", (_, current) => [current, current]],
  ])(
    "of one session, %s: the highest generation wins, the copies are expired",
    async (_, order) => {
      const world = await createWorld();
      const current = await newer(world);
      const { headers, error } = await refreshCall(world.sessions, {
        access: world.cookie.access,
        refresh: order(world.cookie.refresh, current),
      });
      expect(error).toBeUndefined();
      expect(cookieEffects(headers)).toEqual(rewritten);
      expect(cookieValue(headers, "refresh")).toBe(current);
    },
  );

  it.each([0, 1])(
    "an old copy next to a confirmed one does not count as reuse, in order %i",
    async (first) => {
      const world = await createWorld();
      const current = await newer(world);
      world.sessions.clock.advance("61s");
      await refreshed(world.sessions, current);
      world.sessions.clock.advance("31s");
      const cookies = [world.cookie.refresh, current];
      const answer = await refreshCall(world.sessions, {
        refresh: first === 0 ? cookies : cookies.toReversed(),
      });
      expect(answer.error).toBeUndefined();
      expect(cookieEffects(answer.headers)).toEqual(rewritten);
      expect(world.events.map(({ type }) => type)).not.toContain("theft");
    },
  );

  it("of one session: if the winner rotates, its successor is set", async () => {
    const world = await createWorld();
    const current = await newer(world);
    world.sessions.clock.advance("61s");
    await refreshed(world.sessions, current);
    world.sessions.clock.advance("31s");
    const { headers } = await refreshCall(world.sessions, { refresh: [current, current] });
    expect(cookieEffects(headers)).toEqual(rewritten);
    expect(cookieValue(headers, "refresh")?.split(".")[2]).toBe("2");
  });

  it("with duplicates of only the access cookie, both cookies are written again", async () => {
    const { sessions, cookie } = await createWorld();
    const { headers } = await refreshCall(sessions, {
      access: [cookie.access, "junk"],
      refresh: cookie.refresh,
    });
    expect(cookieEffects(headers)).toEqual(rewritten);
    expect(cookieValue(headers, "refresh")).toBe(cookie.refresh);
  });

  describe.each([
    ["first", (a: string, b: string) => [a, b]],
    ["last", (a: string, b: string) => [b, a]],
  ])("several sessions, the right cookie %s", (_, order) => {
    it("selects the newest session", async () => {
      const { sessions, store, cookie } = await createWorld();
      sessions.clock.advance("1s");
      const later = await issueOn(sessions, "cookie");
      const { headers } = await refreshCall(sessions, {
        refresh: order(later.refresh, cookie.refresh),
      });
      expect(cookieEffects(headers)).toEqual(rewritten);
      expect(cookieValue(headers, "refresh")).toBe(later.refresh);
      expect((await store.store.load(cookie.id)).record?.revokedAt).toBeNull();
    });

    it("selects the newest session that is not revoked", async () => {
      const { sessions, cookie } = await createWorld();
      sessions.clock.advance("1s");
      const later = await issueOn(sessions, "cookie");
      await later.revoke();
      const { headers } = await refreshCall(sessions, {
        refresh: order(cookie.refresh, later.refresh),
      });
      expect(cookieEffects(headers)).toEqual(rewritten);
      expect(cookieValue(headers, "refresh")).toBe(cookie.refresh);
    });

    it("selects the newest session that has not expired", async () => {
      const { sessions, cookie } = await createWorld({ lifetimes: { idle: "1d", absolute: "1d" } });
      sessions.clock.advance("23h");
      const later = await issueOn(sessions, "cookie");
      sessions.clock.advance("2h");
      const { headers } = await refreshCall(sessions, {
        refresh: order(later.refresh, cookie.refresh),
      });
      expect(cookieValue(headers, "refresh")).toBe(later.refresh);
    });

    it("without the cookie prefix: refused and cleared, and both sessions stay alive", async () => {
      const { sessions, store, cookie } = await createWorld(insecure);
      sessions.clock.advance("1s");
      const later = await issueOn(sessions, "cookie");
      const { headers, hint } = await refreshCall(sessions, {
        insecure: true,
        refresh: order(later.refresh, cookie.refresh),
      });
      expect(hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.TOKEN_CONFLICT });
      expect(cookieEffects(headers, true)).toEqual(["access expired", "refresh expired"]);
      for (const { id } of [cookie, later]) {
        expect((await store.store.load(id)).record?.revokedAt).toBeNull();
      }
    });
  });

  describe("without the cookie prefix", () => {
    const given = (world: World, refresh: readonly string[]) =>
      refreshCall(world.sessions, { insecure: true, refresh });

    it("a planted copy of a live session does not win when the victim's session has an older copy", async () => {
      const world = await createWorld(insecure);
      world.sessions.clock.advance("1s");
      const planted = await issueOn(world.sessions, "cookie");
      const { hint } = await given(world, [planted.refresh, world.cookie.refresh]);
      expect(hint).toMatchObject({ reason: Reason.TOKEN_CONFLICT, tokens: Tokens.CLEAR });
    });

    it("a copy of an ended session contradicts nobody", async () => {
      const world = await createWorld(insecure);
      const over = await issueOn(world.sessions, "cookie");
      await over.revoke();
      for (const order of [
        [over.refresh, world.cookie.refresh],
        [world.cookie.refresh, over.refresh],
      ]) {
        const { error, headers } = await given(world, order);
        expect(error).toBeUndefined();
        expect(cookieValue(headers, "refresh", true)).toBe(world.cookie.refresh);
      }
    });

    it("three planted copies do not hide the real one: more than three are refused and cleared", async () => {
      const world = await createWorld(insecure);
      const planted = await issueOn(world.sessions, "cookie");
      const { hint, headers } = await given(world, [
        ...Array<string>(3).fill(planted.refresh),
        world.cookie.refresh,
      ]);
      expect(hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.TOKEN_CONFLICT });
      expect(cookieEffects(headers, true)).toEqual(["access expired", "refresh expired"]);
    });

    it("during a roll-out, a planted copy does not win over one whose secret is not known here yet", async () => {
      const store = watchedStore();
      const clock = createFakeClock();
      const on = (secret: readonly string[]) =>
        testSessions({
          ...insecure,
          issuer: "http://test.example",
          store: store.store,
          clock,
          secret,
        });
      const [old, next] = [
        "the old secret of 32 bytes and more",
        "the new secret of 32 bytes and more",
      ];
      const behind = on([old]);
      const planted = await issueOn(behind, "cookie");
      const victim = await issueOn(on([next, old]), "cookie");
      const answer = (refresh: readonly string[]) =>
        refreshCall(behind, { insecure: true, refresh });
      const refused = await answer([planted.refresh, victim.refresh]);
      expect(refused.hint).toMatchObject({ reason: Reason.TOKEN_CONFLICT });
      // Alone it is only unavailable here, and an ended one beside it contradicts nobody.
      expect((await answer([victim.refresh])).error?.code).toBe(Code.Unavailable);
      await planted.revoke();
      const waits = await answer([planted.refresh, victim.refresh]);
      expect([waits.error?.code, cookieEffects(waits.headers, true)]).toEqual([
        Code.Unavailable,
        [],
      ]);
    });
  });

  describe("of another service", () => {
    it("are not expired, and do not contradict or count toward the limit", async () => {
      for (const options of [{}, insecure]) {
        const world = await createWorld(options);
        const other = await elsewhere(world.sessions);
        for (const copies of [1, 4]) {
          const answer = await refreshCall(world.sessions, {
            insecure: options === insecure,
            access: [...Array<string>(copies).fill(other.access), world.cookie.access],
            refresh: [...Array<string>(copies).fill(other.refresh), world.cookie.refresh],
          });
          expect(answer.error).toBeUndefined();
          expect(cookieEffects(answer.headers, options === insecure)).toEqual(["access set"]);
        }
      }
    });

    it("are not expired either if only the refresh cookie came along", async () => {
      const { sessions, cookie } = await createWorld();
      const other = await elsewhere(sessions);
      const { error, headers } = await refreshCall(sessions, {
        refresh: [other.refresh, cookie.refresh],
      });
      expect([error, cookieEffects(headers)]).toEqual([undefined, ["access set"]]);
    });

    it("are left alone if there is nothing else", async () => {
      const { sessions } = await createWorld();
      const other = await elsewhere(sessions);
      for (const refresh of [other.refresh, [other.refresh, other.refresh]]) {
        const { hint, headers, error } = await refreshCall(sessions, {
          access: other.access,
          refresh,
        });
        expect(hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.KEEP });
        expect(error?.rawMessage).toMatch(/give each its own cookies\.names$/);
        expect(headers.getSetCookie()).toEqual([]);
      }
    });
  });

  const rows: readonly Row[] = [
    {
      row: "only malformed cookies: SIGN_IN, cleared",
      given: () => ({ refresh: ["junk", "junk"] }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "only revoked sessions: SIGN_IN, cleared",
      given: async ({ sessions, cookie }) => {
        const other = await issueOn(sessions, "cookie");
        await other.revoke();
        await cookie.revoke();
        return { refresh: [cookie.refresh, other.refresh] };
      },
      refused: signIn("SESSION_REVOKED"),
      cookies: clearsCookies,
    },
    {
      row: "a store that is down: kept",
      given: async ({ sessions, cookie, store }) => {
        const other = await issueOn(sessions, "cookie");
        store.failing.add("load");
        return { refresh: [cookie.refresh, other.refresh] };
      },
      refused: outage,
    },
    {
      row: "a cross-site request: refused",
      given: ({ cookie }) => ({ refresh: [cookie.refresh, "junk"], headers: foreign }),
      refused: crossSite,
    },
    {
      row: "one session without the cookie prefix: the winner is set, and no partitioned copy is expired",
      options: insecure,
      given: ({ cookie }) => ({ refresh: [cookie.refresh, "junk"] }),
      cookies: ["access expired", "access set", "refresh expired", "refresh set"],
    },
  ];
  it.each(rows)("$row", run);
});
