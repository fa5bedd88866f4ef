import type {
  GetSessionOptions,
  SessionError,
  SessionErrorKind,
  SessionErrorReason,
  SessionsOptions,
} from "rpc-session";
import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import {
  clearsCookies,
  cookieEffects,
  exchangeOf,
  type Presented,
  requestHeaders,
  sessionErrorOf,
  withSignatureOf,
} from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { advanced, type Issued, issueOn, refreshed } from "../helpers/refreshing.ts";
import { allMethods, type WatchedStore, watchedStore } from "../helpers/watched-store.ts";

/** Two signed-in users, one per transport, and everything that the rows need to disturb them. */
interface World {
  readonly sessions: TestSessions;
  readonly store: WatchedStore;
  /** Same store, same keys, other audience. */
  readonly otherAudience: TestSessions;
  /** The tokens of another service, whose cookies have the same names. */
  readonly foreign: { readonly cookie: Issued; readonly header: Issued };
  /** Same issuer, other keys; its tokens are older than the last read of the keys. */
  readonly stranger: string;
  readonly cookie: Issued;
  readonly otherCookie: Issued;
  readonly header: Issued;
}

async function createWorld(options: Partial<SessionsOptions> = {}): Promise<World> {
  const clock = createFakeClock();
  const issuer = options.cookies?.insecure ? "http://test.example" : "https://test.example";
  const elsewhere = testSessions({ issuer: `${issuer}/other`, clock });
  const foreign = {
    cookie: await issueOn(elsewhere, "cookie"),
    header: await issueOn(elsewhere, "header"),
  };
  const stranger = (await issueOn(testSessions({ issuer, clock }), "header")).access;
  // `iat` is truncated to seconds, so keys read after it decide about the stranger's key.
  clock.advance("2s");
  const store = watchedStore();
  const sessions = testSessions({ issuer, ...options, store: store.store, clock });
  await sessions.ready();
  return {
    sessions,
    store,
    otherAudience: testSessions({ issuer, audience: "other", store: store.store, clock }),
    foreign,
    stranger,
    cookie: await issueOn(sessions, "cookie"),
    otherCookie: await issueOn(sessions, "cookie"),
    header: await issueOn(sessions, "header"),
  };
}

type Refused = readonly [SessionErrorKind, SessionErrorReason];

const issuer = "https://test.example";

/** A JWT with a signature of nobody. */
function jwt(header: object, payload: object): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "RS256", kid: "k", ...header })}.${part({ iat: 1, ...payload })}.c2ln`;
}

interface Row {
  readonly row: string;
  readonly presented: (world: World) => Presented | Promise<Presented>;
  /** The transport of the session, "none", or the refusal. */
  readonly gives: "cookie" | "header" | "none" | Refused;
  /** Whether both cookies are expired. Default false: not one Set-Cookie is written. */
  readonly clears?: boolean;
  readonly options?: Partial<SessionsOptions>;
  /** How many sessions the decision reads from the store. Default 0. */
  readonly reads?: number;
  readonly ask?: GetSessionOptions;
}

const signIn = (reason: SessionErrorReason): Refused => ["unauthorized", reason];
const refresh = (reason: SessionErrorReason): Refused => ["tryRefreshToken", reason];
const unavailable: Refused = ["unavailable", "AUTH_UNAVAILABLE"];
const forbidden: Refused = ["forbidden", "CROSS_SITE"];
const withToken: Partial<SessionsOptions> = { antiCsrf: "token" };
const insecure: Partial<SessionsOptions> = { cookies: { insecure: true } };

const byCookie = ({ cookie }: World): Presented => ({
  access: cookie.access,
  refresh: cookie.refresh,
});
const byHeader = ({ header }: World): Presented => ({ bearer: header.access });

/** The anti-CSRF token of the world's cookie session, as a refresh returns it. */
async function csrfOf({ sessions }: World, issued: Issued): Promise<string> {
  return (await refreshed(sessions, issued.refresh)).csrf;
}

const flipped = (token: string): string =>
  `${token.slice(0, -1)}${token.endsWith("A") ? "E" : "A"}`;

const hints: Partial<Record<SessionErrorKind, string>> = {
  unauthorized: "sign-in",
  tryRefreshToken: "refresh",
  unavailable: "retry-later",
};

function check(rows: readonly Row[]): void {
  it.each(rows)("$row", async ({ presented, gives, clears = false, options, reads = 0, ask }) => {
    const world = await createWorld(options);
    const given = await presented(world);
    const exchange = exchangeOf({ ...given, insecure: options?.cookies?.insecure ?? false });
    world.store.take();
    const asked = world.sessions.getSession(exchange, ask ?? {});
    if (typeof gives === "string") {
      expect((await asked)?.tokenTransport ?? "none").toBe(gives);
    } else {
      const error = await sessionErrorOf(asked);
      expect([error.kind, error.reason]).toEqual(gives);
      expect(error.clearTokens).toBe(clears || isOver(error, exchange.requestHeader));
      expect(exchange.responseHeader.get("rpcsession-hint")).toBe(hints[error.kind] ?? null);
      expect(exchange.responseHeader.has("www-authenticate")).toBe(
        error.kind === "unauthorized" || error.kind === "tryRefreshToken",
      );
    }
    const expired = options?.cookies?.insecure
      ? clearsCookies.filter((effect) => !effect.endsWith("partitioned"))
      : clearsCookies;
    expect(cookieEffects(exchange.responseHeader, options?.cookies?.insecure)).toEqual(
      clears ? expired : [],
    );
    for (const name of ["rpcsession-access-token", "rpcsession-refresh-token", "rpcsession-csrf"]) {
      expect(exchange.responseHeader.has(name)).toBe(false);
    }
    // Only where cookies contradict each other are sessions read from the store.
    const decisive = world.store.calls.filter((call) => !inBackground.has(call));
    expect(decisive).toEqual(Array<string>(reads).fill("load"));
  });
}

/** Keys are read for an unknown key id, the log after a change; a used generation is confirmed. */
const inBackground: ReadonlySet<string> = new Set([
  "signingKeys",
  "changes",
  "confirm",
  "lease",
  "prune",
]);

/** Whether the hint says CLEAR for a header session, which has no cookies to expire. */
function isOver(error: SessionError, headers: Headers): boolean {
  return (
    error.kind === "unauthorized" &&
    error.reason !== "SESSION_MISSING" &&
    /^bearer/i.test(headers.get("authorization") ?? "")
  );
}

function takeDown({ store }: World): void {
  for (const method of allMethods) {
    store.failing.add(method);
  }
}

describe("GetSession: the decisions of the original engine", () => {
  check([
    {
      row: "gs:G1 nothing presented: Unauthorized, nothing cleared",
      presented: () => ({}),
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:G2 no access cookie, but a refresh cookie",
      presented: ({ cookie }) => ({ refresh: cookie.refresh }),
      gives: refresh("ACCESS_TOKEN_MISSING"),
    },
    {
      row: "gs:G2 no access cookie, but a junk refresh cookie",
      presented: () => ({ refresh: "junk" }),
      gives: refresh("ACCESS_TOKEN_MISSING"),
    },
    {
      row: "gs:G2 an empty access cookie and a refresh cookie",
      presented: ({ cookie }) => ({ access: "", refresh: cookie.refresh }),
      gives: refresh("TOKEN_INVALID"),
    },
    { row: "gs:G3 a valid token, cookie", presented: byCookie, gives: "cookie" },
    { row: "gs:G3 a valid token, header", presented: byHeader, gives: "header" },
    {
      row: "gs:G3 access cookie alone",
      presented: ({ cookie }) => ({ access: cookie.access }),
      gives: "cookie",
    },
    // G4 keys are not read again by the clock, only for an unknown key id: zero-io.test.ts.
    {
      row: "gs:G5 malformed, with a refresh token",
      presented: ({ cookie }) => ({ access: "junk", refresh: cookie.refresh }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 malformed, alone: nothing is proven, so the refresh decides and no cookie is cleared",
      presented: () => ({ access: "junk" }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 cut short, alone",
      presented: ({ cookie }) => ({ access: cookie.access.slice(0, -20) }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 malformed in the header",
      presented: () => ({ bearer: "junk" }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 an API key in the header",
      presented: () => ({ bearer: "sk_live_51H8" }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 another issuer in the header: no key is looked up",
      presented: ({ foreign }) => ({ bearer: foreign.header.access }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 wrong signature",
      presented: ({ cookie, otherCookie }) => ({
        access: withSignatureOf(cookie.access, otherCookie.access),
      }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 wrong signature in the header",
      presented: ({ header, cookie }) => ({
        bearer: withSignatureOf(header.access, cookie.access),
      }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 unknown key",
      presented: ({ stranger }) => ({ bearer: stranger }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 another audience under the same key",
      presented: async ({ otherAudience }) => ({
        bearer: (await issueOn(otherAudience, "header")).access,
      }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G5 a token from the future, beyond the skew",
      presented: async ({ sessions, cookie }) => {
        // The store's clock went back; this server notices with its next poll.
        sessions.clock.setNow(sessions.clock.now() - 70_000);
        sessions.clock.advance("3s");
        await new Promise((resolve) => setImmediate(resolve));
        return { access: cookie.access };
      },
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:G6 a missing anti-CSRF token is refused without the store",
      options: withToken,
      presented: byCookie,
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:G7 expired, cookie",
      presented: (world) => {
        world.sessions.clock.advance("16m");
        return byCookie(world);
      },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:G7 expired, cookie alone",
      presented: ({ sessions, cookie }) => {
        sessions.clock.advance("16m");
        return { access: cookie.access };
      },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:G7 expired, header",
      presented: (world) => {
        world.sessions.clock.advance("16m");
        return byHeader(world);
      },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:G8 anti-CSRF token missing",
      options: withToken,
      presented: byCookie,
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:G8 anti-CSRF token of another session",
      options: withToken,
      presented: async (world) => ({
        ...byCookie(world),
        csrf: await csrfOf(world, world.otherCookie),
      }),
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:G8 anti-CSRF token altered in its last character",
      options: withToken,
      presented: async (world) => ({
        ...byCookie(world),
        csrf: flipped(await csrfOf(world, world.cookie)),
      }),
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:G8 anti-CSRF token that is junk",
      options: withToken,
      presented: (world) => ({ ...byCookie(world), csrf: "junk" }),
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:G8 a valid anti-CSRF token",
      options: withToken,
      presented: async (world) => ({ ...byCookie(world), csrf: await csrfOf(world, world.cookie) }),
      gives: "cookie",
    },
    {
      row: "gs:G9 revoked: Unauthorized, cleared",
      presented: async (world) => {
        await world.cookie.revoke();
        return byCookie(world);
      },
      gives: signIn("SESSION_REVOKED"),
      clears: true,
    },
    // G9 row missing: the feed does not report lost rows; Refresh and GetSession find them.
    // G10, G11 the access token is never replaced: confirmation is a write in the background.
    {
      row: "gs:G12 a token of an older generation: Session with the presented token",
      presented: async (world) => {
        await advanced(world.sessions, world.cookie.refresh);
        return { access: world.cookie.access };
      },
      gives: "cookie",
    },
    // G13 claims of a running session that have changed: reissue.test.ts.
    {
      row: "gs:G14 the store is down: a known key does not need it",
      presented: (world) => {
        takeDown(world);
        return byCookie(world);
      },
      gives: "cookie",
    },
    {
      row: "gs:G14 the keys cannot be read for a newer token: Unavailable, kept",
      presented: async (world) => {
        const { clock } = world.sessions;
        clock.advance("6s");
        const newer = await issueOn(testSessions({ clock }), "cookie");
        takeDown(world);
        return { access: newer.access, refresh: newer.refresh };
      },
      gives: unavailable,
    },
  ]);

  it("gs:G14 the store cannot be opened: Unavailable, tokens kept, tried again", async () => {
    const clock = createFakeClock();
    const store = watchedStore();
    const issued = await issueOn(testSessions({ store: store.store, clock }), "cookie");
    const late = testSessions({ store: store.store, clock });
    const present = () => exchangeOf({ access: issued.access, refresh: issued.refresh });
    for (const failing of ["open", "secret", "signingKeys", "changes"] as const) {
      store.failing.add(failing);
      const exchange = present();
      const error = await sessionErrorOf(late.getSession(exchange));
      expect([failing, error.kind, error.clearTokens]).toEqual([failing, "unavailable", false]);
      expect(error.retryAfter).toBeGreaterThan(0);
      expect(cookieEffects(exchange.responseHeader)).toEqual([]);
      store.failing.clear();
    }
    await expect(late.getSession(present())).resolves.toMatchObject({ id: issued.id });
  });
});

describe("getSession: the decisions of its Node.js successor", () => {
  const legacy = { headers: { cookie: "sIdRefreshToken=x", "sec-fetch-site": "same-origin" } };
  check([
    {
      // N1 is about the cookies of another library, which are ignored here.
      row: "gs:N1 a cookie of another library is ignored",
      presented: () => legacy,
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:N2 another scheme in Authorization is ignored",
      presented: () => ({ headers: { authorization: "Basic YTpi" } }),
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:N2 with another scheme in Authorization the cookie is used",
      presented: (world) => ({ ...byCookie(world), headers: { authorization: "Basic YTpi" } }),
      gives: "cookie",
    },
    {
      row: "gs:N2 the scheme in another case",
      presented: ({ header }) => ({ headers: { authorization: `bEaReR ${header.access}` } }),
      gives: "header",
    },
    {
      row: "gs:N2 Bearer without a token is an invalid token",
      presented: (world) => ({ ...byCookie(world), headers: { authorization: "Bearer" } }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N2 a foreign JWT in the header never falls back to the cookie",
      presented: (world) => ({ ...byCookie(world), bearer: world.stranger }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N2 junk in the header never falls back to the cookie",
      presented: (world) => ({ ...byCookie(world), bearer: "junk" }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N2 sec:C04 two tokens in the header",
      presented: ({ header }) => ({ bearer: `${header.access}, Bearer ${header.access}` }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N2 an expired token in the header never falls back to the cookie",
      presented: async ({ sessions, header }) => {
        sessions.clock.advance("16m");
        const fresh = await issueOn(sessions, "cookie");
        return { bearer: header.access, access: fresh.access };
      },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:N2 header and cookie of the same session",
      presented: ({ header }) => ({ bearer: header.access, access: header.access }),
      gives: "header",
    },
    {
      row: "gs:N2 sec:C03 header and cookie of different sessions: the header alone decides",
      presented: ({ header, cookie }) => ({ bearer: header.access, access: cookie.access }),
      gives: "header",
    },
    {
      row: "gs:N2 sec:C03 an app whose requests carry the cookies of its WebView, without an origin",
      presented: (world) => ({
        ...byCookie(world),
        bearer: world.header.access,
        headers: { "sec-fetch-site": undefined },
      }),
      gives: "header",
    },
    {
      row: "gs:N2 a client that asks for header transport and has no token: its cookies do not count",
      presented: (world) => ({
        ...byCookie(world),
        headers: { "rpcsession-transport": "header", "sec-fetch-site": undefined },
      }),
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:N2 the same on an optional method",
      presented: (world) => ({
        ...byCookie(world),
        headers: { "rpcsession-transport": "header" },
      }),
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N2 a header and a junk cookie",
      presented: ({ header }) => ({ bearer: header.access, access: "junk" }),
      gives: "header",
    },
    {
      row: "gs:N2 a token of a cookie session in the header",
      presented: ({ cookie }) => ({ bearer: cookie.access }),
      gives: refresh("TOKEN_CONFLICT"),
    },
    {
      row: "gs:N2 a token of a header session in the cookie",
      presented: ({ header }) => ({ access: header.access }),
      gives: refresh("TOKEN_CONFLICT"),
    },
    // N3 duplicates have their own table below.
    {
      row: "gs:N4 the anti-CSRF token is checked on POST by default",
      options: withToken,
      presented: byCookie,
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:N4 the anti-CSRF token is not checked on GET by default",
      options: withToken,
      presented: (world) => ({ ...byCookie(world), method: "GET" }),
      gives: "cookie",
    },
    {
      row: "gs:N4 the anti-CSRF token is checked on GET if the policy demands it",
      options: withToken,
      presented: (world) => ({ ...byCookie(world), method: "GET" }),
      ask: { doAntiCsrfCheck: true },
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:N4 doAntiCsrfCheck: false with antiCsrf: token",
      options: withToken,
      presented: byCookie,
      ask: { doAntiCsrfCheck: false },
      gives: "cookie",
    },
    {
      row: "gs:N4 header transport never checks the anti-CSRF token",
      options: withToken,
      presented: byHeader,
      ask: { doAntiCsrfCheck: true },
      gives: "header",
    },
    {
      row: "gs:N4 optional without tokens: no anti-CSRF check",
      options: withToken,
      presented: () => ({}),
      ask: { doAntiCsrfCheck: true, required: false },
      gives: "none",
    },
    // N5 the custom-header mode corresponds to the cross-site check here.
    {
      row: "gs:N5 a cookie from another site",
      presented: (world) => ({ ...byCookie(world), headers: { "sec-fetch-site": "cross-site" } }),
      gives: forbidden,
    },
    {
      row: "gs:N5 a cookie from another site, optional",
      presented: (world) => ({ ...byCookie(world), headers: { "sec-fetch-site": "cross-site" } }),
      ask: { required: false },
      gives: forbidden,
    },
    {
      row: "gs:N5 a junk cookie from another site reveals nothing",
      presented: () => ({ access: "junk", headers: { "sec-fetch-site": "cross-site" } }),
      gives: forbidden,
    },
    {
      row: "gs:N5 a cookie without Sec-Fetch-Site and Origin",
      presented: (world) => ({ ...byCookie(world), headers: { "sec-fetch-site": undefined } }),
      gives: forbidden,
    },
    {
      row: "gs:N5 a cookie from another site, crossSite: unchecked",
      options: { crossSite: "unchecked" },
      presented: (world) => ({ ...byCookie(world), headers: { "sec-fetch-site": "cross-site" } }),
      gives: "cookie",
    },
    {
      row: "gs:N5 header transport skips the cross-site check",
      presented: (world) => ({ ...byHeader(world), headers: { "sec-fetch-site": "cross-site" } }),
      gives: "header",
    },
    {
      row: "gs:N5 header transport skips the cross-site check, even with a cookie of the same session",
      presented: ({ header }) => ({
        bearer: header.access,
        access: header.access,
        headers: { "sec-fetch-site": "cross-site" },
      }),
      gives: "header",
    },
    {
      row: "gs:N5 doAntiCsrfCheck: false does not turn the cross-site check off",
      presented: (world) => ({ ...byCookie(world), headers: { "sec-fetch-site": "cross-site" } }),
      ask: { doAntiCsrfCheck: false },
      gives: forbidden,
    },
    {
      row: "gs:N6 optional, no tokens",
      presented: () => ({}),
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N6 optional, a session",
      presented: byCookie,
      ask: { required: false },
      gives: "cookie",
    },
    {
      row: "gs:N7 required, no tokens: nothing cleared",
      presented: () => ({}),
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:N8 optional, unparsable: the error of required",
      presented: () => ({ access: "junk" }),
      ask: { required: false },
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N8 optional, only a refresh cookie",
      presented: ({ cookie }) => ({ refresh: cookie.refresh }),
      ask: { required: false },
      gives: refresh("ACCESS_TOKEN_MISSING"),
    },
    {
      row: "gs:N9 a refresh token is not an access token",
      presented: ({ cookie }) => ({ access: cookie.refresh, refresh: cookie.refresh }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N9 a refresh token in the header is not an access token",
      presented: ({ header }) => ({ bearer: header.refresh }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "gs:N10 optional, expired: the client should refresh",
      presented: (world) => {
        world.sessions.clock.advance("16m");
        return byCookie(world);
      },
      ask: { required: false },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:N10 a token under an unknown key, newer than the last read of the keys: REFRESH",
      presented: async ({ sessions }) => ({
        bearer: (await issueOn(testSessions({ clock: sessions.clock }), "header")).access,
      }),
      gives: refresh("TOKEN_INVALID"),
    },
    // N11 there is one kind of key.
    {
      row: "gs:N12 the token in the cookie name of the other mode is ignored",
      options: withToken,
      presented: async (world) => ({
        ...byCookie(world),
        headers: { "anti-csrf": await csrfOf(world, world.cookie) },
      }),
      gives: refresh("ANTI_CSRF"),
    },
    {
      row: "gs:N13 antiCsrf: off disables doAntiCsrfCheck: true",
      presented: byCookie,
      ask: { doAntiCsrfCheck: true },
      gives: "cookie",
    },
    // N14 is G3; N16 is G7.
    {
      row: "gs:N15 revoked, optional: the error of required",
      presented: async (world) => {
        await world.cookie.revoke();
        return byCookie(world);
      },
      ask: { required: false },
      gives: signIn("SESSION_REVOKED"),
      clears: true,
    },
    {
      row: "gs:N15 revoked, header: the hint says CLEAR, and no cookie is written",
      presented: async (world) => {
        await world.header.revoke();
        return byHeader(world);
      },
      gives: signIn("SESSION_REVOKED"),
    },
    {
      row: "gs:N15 revoked and expired: REFRESH, which then detects the revocation",
      presented: async (world) => {
        await world.cookie.revoke();
        world.sessions.clock.advance("16m");
        return byCookie(world);
      },
      gives: refresh("TOKEN_EXPIRED"),
    },
    {
      row: "gs:N15 revoked, from another site: nothing is cleared",
      presented: async (world) => {
        await world.cookie.revoke();
        return { ...byCookie(world), headers: { "sec-fetch-site": "cross-site" } };
      },
      gives: forbidden,
    },
    // N17 no replacement access token, see G10. N18 is G12.
    // N19 demands on claims: policy-demands.test.ts.
  ]);

  it("gs:N20 the session is bound to the exchange: revoke clears its tokens there", async () => {
    const { sessions, cookie } = await createWorld();
    const exchange = exchangeOf({ access: cookie.access, refresh: cookie.refresh });
    const session = await sessions.getSession(exchange);
    expect(session).toMatchObject({ id: cookie.id, userId: "alice", tokenTransport: "cookie" });
    await session.revoke();
    expect(cookieEffects(exchange.responseHeader)).toEqual(clearsCookies);
    expect(exchange.responseHeader.get("rpcsession-session")).toContain("event=ended");
    expect(exchange.responseHeader.get("cache-control")).toBe("no-store");
  });

  it("accepts immutable headers, such as those of a request in a fetch handler", async () => {
    const { sessions, cookie } = await createWorld();
    const sent = requestHeaders({ access: cookie.access, refresh: cookie.refresh });
    const url = await listenForTest((_request, response) => {
      response.writeHead(200, Object.fromEntries(sent)).end();
    });
    const { headers: requestHeader } = await fetch(url);
    expect(() => requestHeader.delete("cookie")).toThrow(TypeError);
    const exchange = { requestHeader, responseHeader: new Headers(), requestMethod: "POST" };
    for (const check of ["feed", "strict"] as const) {
      expect((await sessions.getSession(exchange, { check })).id).toBe(cookie.id);
    }
  });

  it("returns the same result when called twice, although the cookies are hidden from handlers", async () => {
    const { sessions, cookie } = await createWorld();
    const exchange = exchangeOf({
      access: cookie.access,
      headers: { cookie: `a=1; __Host-Http-rpcsession-access=${cookie.access}; b=2` },
    });
    const first = await sessions.getSession(exchange);
    expect(exchange.requestHeader.get("cookie")).toBe("a=1; b=2");
    const second = await sessions.getSession(exchange);
    expect(second.id).toBe(first.id);
  });
});

describe("feat:D11 gs:N3 duplicates of the access cookie", () => {
  const junk = "junk";
  check([
    {
      row: "the same cookie twice",
      presented: ({ cookie }) => ({ access: [cookie.access, cookie.access] }),
      gives: "cookie",
    },
    {
      row: "an expired one first",
      presented: async ({ sessions, cookie }) => {
        sessions.clock.advance("16m");
        return { access: [cookie.access, (await refreshed(sessions, cookie.refresh)).access] };
      },
      gives: "cookie",
    },
    {
      row: "an expired one last",
      presented: async ({ sessions, cookie }) => {
        sessions.clock.advance("16m");
        return { access: [(await refreshed(sessions, cookie.refresh)).access, cookie.access] };
      },
      gives: "cookie",
    },
    {
      row: "junk first",
      presented: ({ cookie }) => ({ access: [junk, cookie.access] }),
      gives: "cookie",
    },
    {
      row: "junk last",
      presented: ({ cookie }) => ({ access: [cookie.access, junk, junk] }),
      gives: "cookie",
    },
    {
      row: "three junk cookies do not hide the fourth: more than three contradict each other",
      presented: ({ cookie }) => ({ access: [junk, junk, junk, cookie.access] }),
      gives: refresh("TOKEN_CONFLICT"),
    },
    {
      row: "more than three without the prefix: refused and cleared",
      options: insecure,
      presented: ({ cookie, otherCookie }) => ({
        access: [otherCookie.access, otherCookie.access, otherCookie.access, cookie.access],
      }),
      gives: signIn("TOKEN_CONFLICT"),
      clears: true,
    },
    {
      row: "only junk",
      presented: () => ({ access: [junk, junk] }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "only junk, and a refresh cookie",
      presented: ({ cookie }) => ({ access: [junk, junk], refresh: cookie.refresh }),
      gives: refresh("TOKEN_INVALID"),
    },
    {
      row: "a token with a wrong signature does not identify a session",
      presented: ({ cookie, otherCookie }) => ({
        access: [withSignatureOf(otherCookie.access, cookie.access), cookie.access],
      }),
      gives: "cookie",
    },
    {
      row: "different sessions with __Host-: REFRESH decides",
      presented: ({ cookie, otherCookie }) => ({ access: [cookie.access, otherCookie.access] }),
      gives: refresh("TOKEN_CONFLICT"),
    },
    {
      row: "different sessions, one expired",
      presented: async ({ sessions, cookie }) => {
        sessions.clock.advance("16m");
        return { access: [cookie.access, (await issueOn(sessions, "cookie")).access] };
      },
      gives: refresh("TOKEN_CONFLICT"),
    },
    {
      row: "different sessions without the prefix: refused and cleared",
      options: insecure,
      presented: ({ cookie, otherCookie }) => ({ access: [cookie.access, otherCookie.access] }),
      reads: 2,
      gives: signIn("TOKEN_CONFLICT"),
      clears: true,
    },
    {
      row: "without the prefix, an expired token still belongs to its session: a planted one does not win",
      options: insecure,
      presented: async ({ sessions, cookie }) => {
        sessions.clock.advance("16m");
        return { access: [cookie.access, (await issueOn(sessions, "cookie")).access] };
      },
      reads: 2,
      gives: signIn("TOKEN_CONFLICT"),
      clears: true,
    },
    {
      row: "without the prefix, a copy of an ended session contradicts nobody",
      options: insecure,
      presented: async ({ cookie, otherCookie }) => {
        await otherCookie.revoke();
        return { access: [otherCookie.access, cookie.access] };
      },
      reads: 2,
      gives: "cookie",
    },
    {
      row: "without the prefix, an expired copy of an ended session contradicts nobody",
      options: { ...insecure, lifetimes: { idle: "1d" } },
      presented: async ({ sessions, otherCookie }) => {
        sessions.clock.advance("25h");
        return { access: [otherCookie.access, (await issueOn(sessions, "cookie")).access] };
      },
      reads: 2,
      gives: "cookie",
    },
    {
      row: "without the prefix, all sessions have ended: cleared",
      options: insecure,
      presented: async ({ cookie, otherCookie }) => {
        await otherCookie.revoke();
        await cookie.revoke();
        return { access: [otherCookie.access, cookie.access] };
      },
      reads: 2,
      gives: signIn("SESSION_REVOKED"),
      clears: true,
    },
    {
      row: "without the prefix, an outage cannot tell: Unavailable, kept",
      options: insecure,
      presented: (world) => {
        takeDown(world);
        return { access: [world.cookie.access, world.otherCookie.access] };
      },
      reads: 2,
      gives: unavailable,
    },
    {
      row: "the same session without the prefix",
      options: insecure,
      presented: ({ cookie }) => ({ access: [cookie.access, junk] }),
      gives: "cookie",
    },
  ]);
});

describe("cookies of another service under the same names", () => {
  const both = ({ cookie, foreign }: World): Presented => ({
    access: [foreign.cookie.access, cookie.access],
    refresh: [foreign.cookie.refresh, cookie.refresh],
  });
  const alone = ({ foreign }: World): Presented => ({
    access: foreign.cookie.access,
    refresh: foreign.cookie.refresh,
  });
  const crossSite = { "sec-fetch-site": "cross-site" };
  check([
    {
      row: "feat:D11 a foreign copy is neither verified nor an outage",
      presented: both,
      gives: "cookie",
    },
    {
      row: "feat:D11 a foreign copy does not contradict, without the prefix",
      options: insecure,
      presented: both,
      gives: "cookie",
    },
    {
      row: "feat:D11 foreign copies do not count toward the limit",
      presented: ({ cookie, foreign: { cookie: other } }) => ({
        access: [other.access, other.access, other.access, other.access, cookie.access],
      }),
      gives: "cookie",
    },
    {
      row: "feat:D11 but sixteen copies hide the real one, whoever set them",
      options: insecure,
      presented: ({ cookie, otherCookie, foreign: { cookie: other } }) => ({
        access: [...Array<string>(15).fill(other.access), otherCookie.access, cookie.access],
      }),
      gives: signIn("TOKEN_CONFLICT"),
      // The copies of another service stay, so only the present place is cleared.
      clears: true,
    },
    {
      row: "gs:N7 only foreign cookies: no session, nothing cleared",
      presented: alone,
      gives: signIn("SESSION_MISSING"),
    },
    {
      row: "gs:N6 only foreign cookies, optional: the call goes on",
      presented: alone,
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N6 only foreign cookies, twice",
      presented: ({ foreign: { cookie: other } }) => ({ access: [other.access, other.access] }),
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N6 only a foreign access cookie that is cut short",
      presented: ({ foreign: { cookie: other } }) => ({ access: other.access.slice(0, -5) }),
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N5 only foreign cookies from another site: there is nothing to refuse",
      presented: (world) => ({ ...alone(world), headers: crossSite }),
      ask: { required: false },
      gives: "none",
    },
    {
      row: "gs:N5 own cookies beside foreign ones from another site",
      presented: (world) => ({ ...both(world), headers: crossSite }),
      gives: forbidden,
    },
    {
      row: "gs:G2 a foreign access cookie beside our refresh cookie",
      presented: ({ cookie, foreign: { cookie: other } }) => ({
        access: other.access,
        refresh: [other.refresh, cookie.refresh],
      }),
      gives: refresh("ACCESS_TOKEN_MISSING"),
    },
  ]);

  it("the refusal suggests other names for the cookies", async () => {
    const world = await createWorld();
    const asked = world.sessions.getSession(exchangeOf(alone(world)));
    const error = await sessionErrorOf(asked);
    expect(error.message).toMatch(/another issuer.*give each its own cookies\.names$/);
  });
});

describe("a bearer token that is not one of this service's", () => {
  const ignored = (required: boolean): GetSessionOptions => ({ required, foreignBearer: "ignore" });
  const apiKeys = [
    ["an API key", "sk_live_51H8"],
    ["a key with dots", "a.b.c"],
    ["a key in base64", "eyJrIjoiT0tTcG1pUlY2RnVKZTFVaDFsNFZXdE9ZWmNrMkZYbk=="],
    ["a JWT of another kind and issuer", jwt({ typ: "JWT" }, { iss: "https://idp.example" })],
    ["a JWT without a type", jwt({}, { sub: "x" })],
    [
      "an access token (RFC 9068) of another issuer",
      jwt({ typ: "at+jwt" }, { iss: "https://idp.example" }),
    ],
  ] as const;
  check(
    apiKeys.flatMap(([name, bearer]): Row[] => [
      {
        row: `feat:B9 ${name}, refused by default`,
        presented: () => ({ bearer }),
        ask: { required: false },
        gives: refresh("TOKEN_INVALID"),
      },
      {
        row: `feat:B9 ${name}, ignored, optional: no session`,
        presented: (world) => ({ ...byCookie(world), bearer }),
        ask: ignored(false),
        gives: "none",
      },
      {
        row: `feat:B9 ${name}, ignored, required: refused as if no token had been sent`,
        presented: (world) => ({ ...byCookie(world), bearer }),
        ask: ignored(true),
        gives: signIn("SESSION_MISSING"),
      },
    ]),
  );

  const own: readonly (readonly [string, (world: World) => string, Refused?])[] = [
    ["a token that is cut short", ({ header }) => header.access.slice(0, -20)],
    ["a token cut short in its payload", ({ header }) => header.access.slice(0, 150)],
    ["a token cut short in its header", ({ header }) => header.access.slice(0, 30)],
    ["a refresh token", ({ header }) => header.refresh],
    ["a token of this kind without an issuer", () => jwt({ typ: "at+jwt" }, { sub: "x" })],
    ["a token of this kind with this issuer", () => jwt({ typ: "at+jwt" }, { iss: issuer })],
    ["a JWT of another kind with this issuer", () => jwt({ typ: "JWT" }, { iss: issuer })],
    ["an unknown key", ({ stranger }) => stranger],
    ["two tokens", ({ header }) => `sk_live_51H8, Bearer ${header.access}`],
    ["no token", () => ""],
    ["a cookie's token", ({ cookie }) => cookie.access, refresh("TOKEN_CONFLICT")],
  ];
  check(
    own.map(([name, bearer, gives = refresh("TOKEN_INVALID")]) => ({
      row: `feat:B9 ${name} is never left to the service`,
      presented: (world: World) => ({ bearer: bearer(world) }),
      ask: ignored(false),
      gives,
    })),
  );
  check([
    {
      row: "feat:B9 an own token is still used",
      presented: byHeader,
      ask: ignored(false),
      gives: "header",
    },
    {
      row: "feat:B9 an ignored bearer token needs neither keys nor store",
      presented: (world) => {
        takeDown(world);
        return { bearer: "sk_live_51H8" };
      },
      ask: ignored(false),
      gives: "none",
    },
  ]);

  it("feat:B9 foreignBearer is checked", async () => {
    const { sessions } = await createWorld();
    const foreignBearer = "drop" as "ignore";
    await expect(sessions.getSession(exchangeOf({}), { foreignBearer })).rejects.toThrow(
      /^foreignBearer must be one of "refuse", "ignore"/,
    );
  });
});

describe("late calls of an ended session", () => {
  /** Ends the world's cookie session on its own response, as a handler does. */
  async function signOut({ sessions, cookie }: World): Promise<void> {
    await (await sessions.getSession(exchangeOf({ access: cookie.access }))).revoke();
  }

  const ends: readonly (readonly [string, (world: World) => Promise<void>, boolean])[] = [
    ["its own sign-out", signOut, true],
    [
      "its replacement",
      async ({ store, cookie }) => {
        await store.store.revoke(cookie.id, "replaced");
      },
      true,
    ],
    ["a revocation by the service", ({ cookie }) => cookie.revoke(), false],
    [
      "theft",
      async ({ store, cookie }) => {
        await store.store.revoke(cookie.id, "theft");
      },
      false,
    ],
  ];

  it.each(ends)("%s", async (_, end, spared) => {
    const world = await createWorld();
    await end(world);
    const late = async (): Promise<string[]> => {
      const exchange = exchangeOf({ access: world.cookie.access, refresh: world.cookie.refresh });
      const error = await sessionErrorOf(world.sessions.getSession(exchange));
      expect([error.kind, error.sessionId]).toEqual(["unauthorized", world.cookie.id]);
      return cookieEffects(exchange.responseHeader);
    };
    expect(await late()).toEqual(spared ? [] : clearsCookies);
    world.sessions.clock.advance("59999ms");
    expect(await late()).toEqual(spared ? [] : clearsCookies);
    world.sessions.clock.advance("1ms");
    expect(await late()).toEqual(clearsCookies);
  });
});
