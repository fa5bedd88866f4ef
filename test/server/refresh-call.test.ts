import { Code } from "@connectrpc/connect";
import type { SessionErrorReason, SessionEvent, SessionsOptions } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
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

interface Given extends Presented {
  /** `RefreshRequest.refresh_token`. */
  readonly message?: string;
}

type Refused = readonly [Code, Action, SessionErrorReason];

interface Row {
  readonly row: string;
  readonly given: (world: World) => Given | Promise<Given>;
  /** What the answer does to the cookies; default nothing. */
  readonly cookies?: readonly string[];
  /** Token headers of the answer, of "access", "refresh" and "csrf"; default none. */
  readonly headers?: readonly string[];
  readonly refused?: Refused;
  /** Whether the records of the world may change; default: only where a session was refreshed. */
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
/** Every copy of both cookies is expired, then the ones to keep are set. */
const rewritten = [
  "access expired",
  "access expired partitioned",
  "access set",
  "refresh expired",
  "refresh expired partitioned",
  "refresh set",
];

/** The records as they are, also in an outage. */
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

describe("feat:D7 Refresh, table 1c (R1-R8)", () => {
  const rows: readonly Row[] = [
    // R1 a duplicate is no error here; R2 is the table of duplicates below.
    {
      row: "R3 a cookie, not settled: a new access token, the refresh token stays",
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      cookies: ["access set"],
    },
    {
      row: "R3 a cookie with its expired access cookie",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("16m");
        return { access: cookie.access, refresh: cookie.refresh };
      },
      cookies: ["access set"],
    },
    {
      row: "R8 a cookie, confirmed longer ago than the overlap: both",
      given: async ({ cookie, sessions }) => {
        sessions.clock.advance("61s");
        await refreshed(sessions, cookie.refresh);
        sessions.clock.advance("31s");
        return { refresh: cookie.refresh };
      },
      cookies: ["access set", "refresh set"],
    },
    {
      row: "R8 the one before, its successor not confirmed: the successor again",
      given: async ({ cookie, sessions }) => {
        await advanced(sessions, cookie.refresh);
        sessions.clock.advance("2d");
        return { refresh: cookie.refresh };
      },
      cookies: ["access set", "refresh set"],
    },
    {
      row: "R3 a token in the message",
      given: ({ header }) => ({ message: header.refresh }),
      headers: ["access"],
    },
    {
      row: "R3 a token in the message needs no origin",
      given: ({ header }) => ({ message: header.refresh, headers: foreign }),
      headers: ["access"],
    },
    {
      row: "R8 message and cookies: the message wins, the cookies are expired",
      given: ({ header, cookie }) => ({
        message: header.refresh,
        access: cookie.access,
        refresh: cookie.refresh,
      }),
      headers: ["access"],
      cookies: clearsCookies,
    },
    {
      row: "R8 message and only an access cookie",
      given: ({ header, cookie }) => ({ message: header.refresh, access: cookie.access }),
      headers: ["access"],
      cookies: clearsCookies,
    },
    {
      row: "R8 message and cookies from another site: refused, they are not theirs to expire",
      given: ({ header, cookie }) => ({
        message: header.refresh,
        refresh: cookie.refresh,
        headers: foreign,
      }),
      refused: crossSite,
    },
    {
      row: "R3 a bearer token is not looked at",
      given: ({ cookie }) => ({ refresh: cookie.refresh, bearer: "junk" }),
      cookies: ["access set"],
    },
    {
      row: "R4 none: SIGN_IN",
      given: () => ({}),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "R4 an access cookie alone: SIGN_IN, kept",
      given: ({ cookie }) => ({ access: cookie.access }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "R4 a bearer token alone: SIGN_IN",
      given: ({ header }) => ({ bearer: header.access }),
      refused: signIn("SESSION_MISSING"),
    },
    {
      row: "R5 cross-site: refused, nothing changed",
      given: ({ cookie }) => ({ refresh: cookie.refresh, headers: foreign }),
      refused: crossSite,
    },
    {
      row: "R5 no Sec-Fetch-Site and no Origin",
      given: ({ cookie }) => ({
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
      refused: crossSite,
    },
    {
      row: "R5 cross-site with junk: nothing cleared",
      given: () => ({ refresh: "junk", headers: foreign }),
      refused: crossSite,
    },
    {
      row: "R6 junk: SIGN_IN, cleared",
      given: () => ({ refresh: "junk" }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 junk cookie beside a bearer token: it is the cookie that failed",
      given: ({ header }) => ({ refresh: "junk", bearer: header.access }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 an empty cookie",
      given: () => ({ refresh: "" }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 junk in the message",
      given: () => ({ message: "junk" }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "R6 junk in the message does not fall back to the cookie, nor clear it",
      given: ({ cookie }) => ({ message: "junk", refresh: cookie.refresh }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "R6 junk in the message from another site does not clear the cookie",
      given: ({ cookie }) => ({ message: "junk", refresh: cookie.refresh, headers: foreign }),
      refused: crossSite,
    },
    {
      row: "R6 an access token is no refresh token",
      given: ({ cookie }) => ({ refresh: cookie.access }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 a wrong check",
      given: ({ cookie }) => ({ refresh: withLast(cookie.refresh) }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 the token of a session the store lost",
      given: async ({ sessions, cookie }) => {
        const lost = await issueOn(testSessions({ clock: sessions.clock }), "cookie");
        return { refresh: lost.refresh.replace(/^[^.]*/, cookie.refresh.split(".")[0] ?? "") };
      },
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "R6 revoked",
      given: async ({ cookie }) => {
        await cookie.revoke();
        return { refresh: cookie.refresh };
      },
      refused: signIn("SESSION_REVOKED"),
      cookies: clearsCookies,
    },
    {
      row: "R6 revoked, header",
      given: async ({ header }) => {
        await header.revoke();
        return { message: header.refresh };
      },
      refused: signIn("SESSION_REVOKED"),
    },
    {
      row: "R6 past its idle end",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("14d");
        return { refresh: cookie.refresh };
      },
      refused: signIn("SESSION_EXPIRED"),
      cookies: clearsCookies,
    },
    {
      row: "R7 theft: SIGN_IN, cleared, revoked",
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
      row: "the store cannot be read: kept",
      given: ({ cookie, store }) => {
        store.failing.add("load");
        return { refresh: cookie.refresh };
      },
      refused: outage,
    },
    {
      row: "the store cannot be written: kept",
      given: ({ cookie, store }) => {
        store.failing.add("refresh");
        return { refresh: cookie.refresh };
      },
      refused: outage,
    },
    {
      row: "the store cannot be written, header: kept",
      given: ({ header, store }) => {
        store.failing.add("refresh");
        return { message: header.refresh };
      },
      refused: outage,
    },
    {
      row: "a token under a secret this server was not given: kept",
      options: { secret: "this server's secret, of 32 bytes" },
      given: async ({ sessions }) => ({
        refresh: (await issueOn(testSessions({ clock: sessions.clock }), "cookie")).refresh,
      }),
      refused: outage,
    },
    {
      row: "a token under a secret that the store no longer keeps: over",
      given: async ({ sessions }) => ({
        refresh: (await issueOn(testSessions({ clock: sessions.clock }), "cookie")).refresh,
      }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "pinned: a cookie's token in the message",
      given: ({ cookie }) => ({ message: cookie.refresh }),
      refused: signIn("TOKEN_INVALID"),
    },
    {
      row: "pinned: a header's token in the cookie",
      given: ({ header }) => ({ refresh: header.refresh }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "pinned: rpcsession-transport means nothing here",
      given: ({ cookie }) => ({
        refresh: cookie.refresh,
        headers: { "rpcsession-transport": "header" },
      }),
      cookies: ["access set"],
    },
    {
      row: "anti-CSRF: none is needed, and the current one is handed out",
      options: { antiCsrf: "token" },
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      cookies: ["access set"],
      headers: ["csrf"],
    },
    {
      row: "anti-CSRF: header sessions have none",
      options: { antiCsrf: "token" },
      given: ({ header }) => ({ message: header.refresh }),
      headers: ["access"],
    },
  ];
  it.each(rows)("$row", run);

  it("a cross-site refusal reads and writes nothing", async () => {
    const { sessions, store, cookie, events } = await createWorld();
    const next = await advanced(sessions, cookie.refresh);
    store.take();
    events.length = 0;
    for (let i = 0; i < 3; i++) {
      const { error } = await refreshCall(sessions, { refresh: next.refresh, headers: foreign });
      expect(error?.code).toBe(Code.PermissionDenied);
    }
    expect(store.take()).toEqual([]);
    const refused = { type: "csrfRefused", check: "crossSite", origin: "https://evil.example" };
    expect(events).toEqual([refused, refused, refused]);
    expect((await store.store.load(cookie.id)).record?.generation).toBe(1);
  });

  it("sec:R11 junk reads nothing", async () => {
    const { sessions, store, cookie } = await createWorld();
    store.take();
    for (const refresh of ["junk", withLast(cookie.refresh), `${cookie.refresh}A`, cookie.access]) {
      await refreshCall(sessions, { refresh });
    }
    expect(store.take()).toEqual([]);
  });

  it("feat:D2, feat:D6: R7 theft is one event, and one revocation", async () => {
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

  it("feat:K2 answers with the session, and its new tokens work", async () => {
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
    // The cookie outlives its token, so that "expired" and "absent" differ.
    expect(headers.getSetCookie()[0]).toContain(`; Max-Age=${90 * 86_400};`);
  });
});

/** The token with its last character changed to another that may stand there. */
function withLast(token: string): string {
  return `${token.slice(0, -1)}${token.endsWith("A") ? "E" : "A"}`;
}

describe("feat:D11 duplicates of the refresh cookie", () => {
  const newer = async (world: World): Promise<string> =>
    (await advanced(world.sessions, world.cookie.refresh)).refresh;

  it.each<[string, (old: string, current: string) => string[]]>([
    ["the old one first", (old, current) => [old, current]],
    ["the old one last", (old, current) => [current, old]],
    ["junk among them", (old, current) => ["junk", old, current]],
    ["the same twice", (_, current) => [current, current]],
  ])("same session, %s: the highest generation wins, its twins are expired", async (_, order) => {
    const world = await createWorld();
    const current = await newer(world);
    const { headers, error } = await refreshCall(world.sessions, {
      access: world.cookie.access,
      refresh: order(world.cookie.refresh, current),
    });
    expect(error).toBeUndefined();
    expect(cookieEffects(headers)).toEqual(rewritten);
    expect(cookieValue(headers, "refresh")).toBe(current);
  });

  it.each([0, 1])("an old copy beside a confirmed one is no theft, in order %i", async (first) => {
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
  });

  it("same session, the winner advances: the successor is set", async () => {
    const world = await createWorld();
    const current = await newer(world);
    world.sessions.clock.advance("61s");
    await refreshed(world.sessions, current);
    world.sessions.clock.advance("31s");
    const { headers } = await refreshCall(world.sessions, { refresh: [current, current] });
    expect(cookieEffects(headers)).toEqual(rewritten);
    expect(cookieValue(headers, "refresh")?.split(".")[2]).toBe("2");
  });

  it("only the access cookie twice: both cookies are written again", async () => {
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
  ])("several sessions, the right one %s", (_, order) => {
    it("the newest wins", async () => {
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

    it("the newest that lives wins", async () => {
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

    it("the newest that is not past its end wins", async () => {
      const { sessions, cookie } = await createWorld({ lifetimes: { idle: "1d", absolute: "1d" } });
      sessions.clock.advance("23h");
      const later = await issueOn(sessions, "cookie");
      sessions.clock.advance("2h");
      const { headers } = await refreshCall(sessions, {
        refresh: order(later.refresh, cookie.refresh),
      });
      expect(cookieValue(headers, "refresh")).toBe(later.refresh);
    });

    it("without the prefix: refused and cleared, and both live on", async () => {
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

  const rows: readonly Row[] = [
    {
      row: "only junk: SIGN_IN, cleared",
      given: () => ({ refresh: ["junk", "junk"] }),
      refused: signIn("TOKEN_INVALID"),
      cookies: clearsCookies,
    },
    {
      row: "all revoked: SIGN_IN, cleared",
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
      row: "the store is down: kept",
      given: async ({ sessions, cookie, store }) => {
        const other = await issueOn(sessions, "cookie");
        store.failing.add("load");
        return { refresh: [cookie.refresh, other.refresh] };
      },
      refused: outage,
    },
    {
      row: "cross-site: refused",
      given: ({ cookie }) => ({ refresh: [cookie.refresh, "junk"], headers: foreign }),
      refused: crossSite,
    },
    {
      row: "the same session without the prefix: the winner is set, and no twin is partitioned",
      options: insecure,
      given: ({ cookie }) => ({ refresh: [cookie.refresh, "junk"] }),
      cookies: ["access expired", "access set", "refresh expired", "refresh set"],
    },
  ];
  it.each(rows)("$row", run);
});
