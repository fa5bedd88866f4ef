import {
  type Exchange,
  type NewSessionOptions,
  SessionError,
  type SessionEvent,
} from "rpc-session";
import { type TestSessions, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import {
  clearsCookies,
  cookieEffects,
  cookieValue,
  exchangeOf,
  type Presented,
  sessionErrorOf,
} from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";

const user: NewSessionOptions = { userId: "alice" };

/** A request that opens a page in a tab, as a browser sends it after a redirect from another site. */
const redirected = {
  "sec-fetch-site": "cross-site",
  "sec-fetch-mode": "navigate",
  "sec-fetch-dest": "document",
};
const sameOrigin = { "sec-fetch-site": "same-origin", origin: "https://test.example" };
/** A request that an own page makes to show something. */
const embedded = (target: string) => ({
  "sec-fetch-site": "same-origin",
  "sec-fetch-dest": target,
});
const verified = { afterRedirect: "state-verified" } as const;

function createWorld(options: TestSessionsOptions = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({ ...options, onEvent: (event) => events.push(event) });
  return { sessions, events };
}

/** The cookies that a response has set, as the browser sends them with its next request. */
function cookiesOf({ responseHeader }: Exchange): Pick<Presented, "access" | "refresh"> {
  return {
    access: cookieValue(responseHeader, "access") ?? "",
    refresh: cookieValue(responseHeader, "refresh") ?? "",
  };
}

async function isLive(sessions: TestSessions, id: string): Promise<boolean> {
  return (await sessions.find(id)) !== undefined;
}

describe("feat:A12 create on a plain HTTP request", () => {
  it("sets cookies for a form of an own page, with the device and the address", async () => {
    const { sessions, events } = createWorld({
      clientIp: ({ requestHeader }) => requestHeader.get("x-real-ip") ?? undefined,
    });
    const exchange = exchangeOf({
      headers: { ...sameOrigin, "user-agent": "Firefox", "x-real-ip": "203.0.113.9" },
    });
    const session = await sessions.create(exchange, { ...user, label: "laptop" });
    expect(cookieEffects(exchange.responseHeader)).toEqual(["access set", "refresh set"]);
    expect(exchange.responseHeader.get("cache-control")).toBe("no-store");
    expect((await session.info()).device).toEqual({
      userAgent: "Firefox",
      ip: "203.0.113.9",
      label: "laptop",
    });
    expect(events).toContainEqual(
      expect.objectContaining({ type: "created", sessionId: session.id, userId: "alice" }),
    );
    const next = exchangeOf(cookiesOf(exchange));
    expect((await sessions.getSession(next)).id).toBe(session.id);
  });

  it("gives a program its tokens in headers", async () => {
    const { sessions } = createWorld();
    const exchange = exchangeOf({});
    const session = await sessions.create(exchange, user);
    const bearer = exchange.responseHeader.get("rpcsession-access-token") ?? "";
    expect((await sessions.getSession(exchangeOf({ bearer }))).id).toBe(session.id);
  });

  it("ends the session that came with the request, in the same transaction", async () => {
    const { sessions, events } = createWorld();
    const former = await issueOn(sessions, "cookie");
    const exchange = exchangeOf({ access: former.access, refresh: former.refresh });
    const session = await sessions.create(exchange, user);
    expect(await isLive(sessions, former.id)).toBe(false);
    expect(events).toContainEqual({
      type: "revoked",
      sessionId: former.id,
      endedBy: "replaced",
    });
    expect((await sessions.getSession(exchange)).id).toBe(session.id);
  });

  it("a second sign-in of the same request replaces the first", async () => {
    const { sessions } = createWorld();
    const exchange = exchangeOf({ headers: sameOrigin });
    const first = await sessions.create(exchange, user);
    const second = await sessions.create(exchange, { userId: "bob" });
    expect(await isLive(sessions, first.id)).toBe(false);
    expect(cookieEffects(exchange.responseHeader)).toEqual(["access set", "refresh set"]);
    expect((await sessions.getSession(exchangeOf(cookiesOf(exchange)))).id).toBe(second.id);
  });

  it("misuse is a TypeError, a refusal a SessionError with an HTTP status", async () => {
    const { sessions } = createWorld({ sessionsPerUser: { max: 1, overflow: "reject" } });
    await expect(sessions.create(exchangeOf({}), { userId: "" })).rejects.toThrow(TypeError);
    await sessions.create(exchangeOf({}), user);
    const error = await sessionErrorOf(sessions.create(exchangeOf({}), user));
    expect([error.kind, error.reason, error.statusCode]).toEqual([
      "forbidden",
      "SESSION_LIMIT",
      403,
    ]);
  });

  it("every kind of error has an HTTP status", () => {
    const statusOf = (kind: SessionError["kind"]) =>
      new SessionError(kind, "INTERNAL", { message: "" }).statusCode;
    expect(
      (["unauthorized", "tryRefreshToken", "forbidden", "unavailable", "general"] as const).map(
        statusOf,
      ),
    ).toEqual([401, 401, 403, 503, 500]);
  });

  it("signs nobody in once the response headers have been sent", async () => {
    const { sessions } = createWorld();
    const exchange = { ...exchangeOf({ headers: sameOrigin }), headersSent: true };
    for (const work of [
      sessions.create(exchange, user),
      sessions.reauthenticate(exchange),
      sessions.signOut(exchange),
      sessions.getSession(exchange),
    ]) {
      await expect(work).rejects.toThrow(/headers have already been sent; call it before/);
    }
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });
});

describe("feat:A13 sec:C25 a sign-in in the callback of a redirect", () => {
  const callback = (presented: Presented = {}): Exchange =>
    exchangeOf({ method: "GET", ...presented, headers: { ...redirected, ...presented.headers } });

  it("is refused without afterRedirect, and the message says what to check", async () => {
    const { sessions, events } = createWorld();
    const exchange = callback();
    const error = await sessionErrorOf(sessions.create(exchange, user));
    expect([error.kind, error.reason]).toEqual(["forbidden", "CROSS_SITE"]);
    expect(error.message).toMatch(/compare state .* PKCE, .* afterRedirect: "state-verified"/);
    expect(cookieEffects(exchange.responseHeader)).toEqual([]);
    expect(events).toContainEqual({ type: "csrfRefused", check: "crossSite", origin: null });
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  const get = { method: "GET" };
  const refusedWithout: readonly (readonly [string, Presented])[] = [
    ["typed into the address bar", { ...get, headers: { "sec-fetch-site": "none" } }],
    ["a link of an own page", { ...get, headers: { "sec-fetch-site": "same-origin" } }],
    ["an image of another site", { ...get, headers: { "sec-fetch-site": "cross-site" } }],
    ["a browser without Fetch Metadata", get],
    ["a form of another site", { headers: { ...redirected, origin: "https://evil.example" } }],
    ["a sandboxed form", { headers: { ...redirected, origin: "null" } }],
  ];
  it.each(refusedWithout)("is refused without afterRedirect: %s", async (_, presented) => {
    const { sessions } = createWorld();
    const error = await sessionErrorOf(sessions.create(exchangeOf(presented), user));
    expect([error.kind, error.reason]).toEqual(["forbidden", "CROSS_SITE"]);
    expect(error.message).toMatch(/afterRedirect: "state-verified"/);
  });

  const accepted: readonly (readonly [string, Presented])[] = [
    ["from another site", { method: "GET", headers: redirected }],
    [
      "that began in the address bar",
      { method: "GET", headers: { ...redirected, "sec-fetch-site": "none" } },
    ],
    ["in a browser without Fetch Metadata, or over plain http", { method: "GET" }],
    ["with response_mode=form_post", { headers: { ...redirected, origin: "https://idp.example" } }],
    ["with form_post, without Fetch Metadata", { headers: { origin: "https://idp.example" } }],
  ];
  it.each(accepted)("gets cookies with afterRedirect: a redirect %s", async (_, presented) => {
    const { sessions } = createWorld();
    const exchange = exchangeOf(presented);
    const session = await sessions.create(exchange, { ...user, ...verified });
    expect(session.tokenTransport).toBe("cookie");
    expect(cookieEffects(exchange.responseHeader)).toEqual(["access set", "refresh set"]);
    expect((await sessions.getSession(exchangeOf(cookiesOf(exchange)))).id).toBe(session.id);
  });

  const never: readonly (readonly [string, Presented])[] = [
    [
      "an image",
      { method: "GET", headers: { "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image" } },
    ],
    ["a frame", { method: "GET", headers: { "sec-fetch-dest": "iframe" } }],
    ["fetch", { method: "GET", headers: { "sec-fetch-mode": "cors", "sec-fetch-dest": "empty" } }],
    ["fetch with POST", { headers: { "sec-fetch-mode": "cors", "sec-fetch-dest": "empty" } }],
    ["a prefetch", { method: "GET", headers: { "sec-purpose": "prefetch" } }],
    ["a prerendered page", { method: "GET", headers: { "sec-purpose": "prefetch;prerender" } }],
    ["HEAD", { method: "HEAD" }],
    ["PUT", { method: "PUT" }],
  ];
  it.each(never)("is refused in spite of afterRedirect: %s", async (_, presented) => {
    const { sessions } = createWorld();
    const headers = { ...redirected, ...presented.headers };
    const exchange = exchangeOf({ ...presented, headers });
    const work = sessions.create(exchange, { ...user, ...verified });
    expect((await sessionErrorOf(work)).reason).toBe("CROSS_SITE");
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it("a program that looks at a link with HEAD signs nobody in", async () => {
    const { sessions } = createWorld();
    const work = sessions.create(exchangeOf({ method: "HEAD" }), user);
    expect((await sessionErrorOf(work)).message).toMatch(/^sessions\.create: a HEAD request/);
  });

  it("ends the former session, whose SameSite=Lax cookies come along", async () => {
    const { sessions } = createWorld();
    const former = await issueOn(sessions, "cookie");
    const exchange = callback({ access: former.access, refresh: former.refresh });
    await sessions.create(exchange, { ...user, ...verified });
    expect(await isLive(sessions, former.id)).toBe(false);
  });

  it("without the former cookies, as with SameSite=Strict, the former session lives until it is revoked by id", async () => {
    const { sessions } = createWorld({ cookies: { sameSite: "strict" } });
    // The request that starts the sign-in comes from an own page, with the cookies.
    const former = await issueOn(sessions, "cookie");
    const start = exchangeOf({ access: former.access, headers: sameOrigin });
    const { id } = await sessions.getSession(start);

    const exchange = callback();
    const session = await sessions.create(exchange, { ...user, ...verified });
    expect(cookieEffects(exchange.responseHeader)).toEqual(["access set", "refresh set"]);
    expect(await isLive(sessions, former.id)).toBe(true);
    expect(await sessions.revoke(id)).toBe(true);
    expect(await isLive(sessions, session.id)).toBe(true);
  });

  it("takes no header transport, no other word, and no RPC", async () => {
    const { sessions } = createWorld();
    const header = { ...user, ...verified, transport: "header" } as const;
    await expect(sessions.create(callback(), header)).rejects.toThrow(
      /after a redirect the tokens travel in cookies/,
    );
    const word = { ...user, afterRedirect: "yes" as "state-verified" };
    await expect(sessions.create(callback(), word)).rejects.toThrow(
      /^afterRedirect must be one of "state-verified"/,
    );
    await expect(sessions.issue({ ...user, ...verified } as NewSessionOptions)).rejects.toThrow(
      /afterRedirect/,
    );
  });

  it("with crossSite: unchecked, a GET request still needs afterRedirect", async () => {
    const { sessions } = createWorld({ crossSite: "unchecked" });
    const error = await sessionErrorOf(sessions.create(callback(), user));
    expect(error.reason).toBe("CROSS_SITE");
  });
});

describe("feat:A12 reauthenticate, fork and signOut on a plain HTTP request", () => {
  it("reauthenticate replaces the session of the request", async () => {
    const { sessions } = createWorld();
    const former = await issueOn(sessions, "cookie");
    sessions.clock.advance("5m");
    const exchange = exchangeOf({ access: former.access, refresh: former.refresh });
    const session = await sessions.reauthenticate(exchange);
    expect(session.authTime.getTime()).toBe(Math.floor(sessions.clock.now() / 1000) * 1000);
    expect(await isLive(sessions, former.id)).toBe(false);
    expect((await sessions.getSession(exchangeOf(cookiesOf(exchange)))).id).toBe(session.id);
  });

  it("sec:C25 reauthenticate in a callback needs afterRedirect, even after the session has been read", async () => {
    const { sessions } = createWorld({ antiCsrf: "token" });
    const former = await issueOn(sessions, "cookie");
    const presented = { method: "GET", access: former.access, headers: redirected };
    const exchange = exchangeOf(presented);
    await sessions.getSession(exchange, { crossSite: "navigations" });
    expect((await sessionErrorOf(sessions.reauthenticate(exchange))).reason).toBe("CROSS_SITE");
    expect(await isLive(sessions, former.id)).toBe(true);

    const session = await sessions.reauthenticate(exchangeOf(presented), verified);
    expect(session.userId).toBe("alice");
    expect(await isLive(sessions, former.id)).toBe(false);
  });

  it("sec:C25 a session that was read for a navigation forks only for an own page", async () => {
    const { sessions } = createWorld();
    const issued = await issueOn(sessions, "cookie");
    const exchange = exchangeOf({ method: "GET", access: issued.access, headers: redirected });
    await sessions.getSession(exchange, { crossSite: "navigations" });
    expect((await sessionErrorOf(sessions.fork(exchange))).reason).toBe("CROSS_SITE");

    const { session, tokens } = await sessions.fork(exchangeOf({ access: issued.access }));
    expect((await sessions.getSession(exchangeOf({ bearer: tokens.accessToken }))).id).toBe(
      session.id,
    );
    expect(await isLive(sessions, issued.id)).toBe(true);
  });

  it("reauthenticate and fork need a session", async () => {
    const { sessions } = createWorld();
    for (const work of [sessions.reauthenticate(exchangeOf({})), sessions.fork(exchangeOf({}))]) {
      expect((await sessionErrorOf(work)).reason).toBe("SESSION_MISSING");
    }
  });

  it("session.revoke() clears the cookies in the response", async () => {
    const { sessions } = createWorld();
    const issued = await issueOn(sessions, "cookie");
    const exchange = exchangeOf({ access: issued.access, refresh: issued.refresh });
    await (await sessions.getSession(exchange)).revoke();
    expect(cookieEffects(exchange.responseHeader)).toEqual(clearsCookies);
    expect(await isLive(sessions, issued.id)).toBe(false);
  });

  it("signOut ends the session of an expired access token, and clears the cookies", async () => {
    const { sessions } = createWorld();
    const issued = await issueOn(sessions, "cookie");
    sessions.clock.advance("20m");
    const exchange = exchangeOf({ access: issued.access, refresh: issued.refresh });
    expect(await sessions.signOut(exchange)).toEqual([issued.id]);
    expect(cookieEffects(exchange.responseHeader)).toEqual(clearsCookies);
    expect(await isLive(sessions, issued.id)).toBe(false);
    expect(await sessions.signOut(exchangeOf({}))).toEqual([]);
  });

  const others: readonly (readonly [string, Presented])[] = [
    ["another site", { headers: { ...redirected, origin: "https://evil.example" } }],
    ["a link of another site", { method: "GET", headers: redirected }],
    ["HEAD", { method: "HEAD", headers: sameOrigin }],
    ["a prefetch", { method: "GET", headers: { ...sameOrigin, "sec-purpose": "prefetch" } }],
    ["a prefetch of Next.js", { method: "GET", headers: { ...sameOrigin, purpose: "prefetch" } }],
    ["an image that a user posted", { method: "GET", headers: embedded("image") }],
    ["a frame of an own page", { method: "GET", headers: embedded("iframe") }],
  ];
  it.each(["document", "empty"])(
    "signOut by GET works for a link and for fetch: %s",
    async (to) => {
      const { sessions } = createWorld();
      const { id, access, refresh } = await issueOn(sessions, "cookie");
      const exchange = exchangeOf({ method: "GET", access, refresh, headers: embedded(to) });
      expect(await sessions.signOut(exchange)).toEqual([id]);
    },
  );

  it.each(others)("sec:C25 signOut is refused: %s", async (_, presented) => {
    const { sessions } = createWorld();
    const issued = await issueOn(sessions, "cookie");
    const { access, refresh } = issued;
    const exchange = exchangeOf({ ...presented, access, refresh });
    expect((await sessionErrorOf(sessions.signOut(exchange))).reason).toBe("CROSS_SITE");
    expect(cookieEffects(exchange.responseHeader)).toEqual([]);
    expect(await isLive(sessions, issued.id)).toBe(true);
  });
});

describe("feat:B15 getSession with crossSite: navigations", () => {
  const link = { ...redirected };
  const rows: readonly (readonly [string, Presented, boolean])[] = [
    ["a link of another site", { method: "GET", headers: link }, true],
    [
      "a link of a sibling host",
      { method: "GET", headers: { ...link, "sec-fetch-site": "same-site" } },
      true,
    ],
    ["a HEAD request of the same kind", { method: "HEAD", headers: link }, true],
    ["a form of another site", { method: "POST", headers: link }, false],
    ["a frame", { method: "GET", headers: { ...link, "sec-fetch-dest": "iframe" } }, false],
    [
      "an embedded object",
      { method: "GET", headers: { ...link, "sec-fetch-dest": "object" } },
      false,
    ],
    [
      "an image",
      {
        method: "GET",
        headers: { ...link, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image" },
      },
      false,
    ],
    [
      "fetch",
      { method: "GET", headers: { ...link, "sec-fetch-mode": "cors", "sec-fetch-dest": "empty" } },
      false,
    ],
    [
      "with a foreign Origin",
      { method: "GET", headers: { ...link, origin: "https://evil.example" } },
      false,
    ],
    ["no Fetch Metadata", { method: "GET", headers: { "sec-fetch-site": undefined } }, false],
  ];

  it.each(rows)("sec:C26 %s", async (_, presented, allowed) => {
    const { sessions } = createWorld();
    const { access, id } = await issueOn(sessions, "cookie");
    const ask = () => exchangeOf({ ...presented, access });
    const refused = await sessionErrorOf(sessions.getSession(ask(), { required: false }));
    expect(refused.reason).toBe("CROSS_SITE");
    const work = sessions.getSession(ask(), { crossSite: "navigations" });
    if (allowed) {
      expect((await work).id).toBe(id);
    } else {
      expect((await sessionErrorOf(work)).reason).toBe("CROSS_SITE");
    }
  });

  it("sec:C26 such a read does not open the way to a change", async () => {
    const { sessions } = createWorld();
    const issued = await issueOn(sessions, "cookie");
    const exchange = exchangeOf({ method: "GET", access: issued.access, headers: link });
    await sessions.getSession(exchange, { crossSite: "navigations" });
    expect((await sessionErrorOf(sessions.signOut(exchange))).reason).toBe("CROSS_SITE");
  });

  it("no cache may share the response", async () => {
    const { sessions } = createWorld();
    const { access } = await issueOn(sessions, "cookie");
    const exchange = exchangeOf({ method: "GET", access, headers: link });
    await sessions.getSession(exchange, { crossSite: "navigations" });
    expect(exchange.responseHeader.get("cache-control")).toBe("private, no-store");
    expect(exchange.responseHeader.get("vary")).toContain("Sec-Fetch-Site");
  });

  it("takes no other word", async () => {
    const { sessions } = createWorld();
    const crossSite = "unchecked" as "checked";
    await expect(sessions.getSession(exchangeOf({}), { crossSite })).rejects.toThrow(
      /^crossSite must be one of "checked", "navigations"/,
    );
  });
});
