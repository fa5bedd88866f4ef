import { Code } from "@connectrpc/connect";
import type { NewSessionOptions, SessionErrorReason, SessionsOptions } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import {
  clearsCookies,
  cookieEffects,
  cookieNamesOf,
  cookieValue,
  exchangeOf,
  type Presented,
  withSignatureOf,
} from "../helpers/exchanges.ts";
import { advanced, type Issued, issueOn } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = Partial<
  Pick<SessionsOptions, "origins" | "browserHeaderTransport" | "antiCsrf" | "crossSite" | "cookies">
>;

/** A service with one public method that signs in with the options of the test. */
function createWorld(
  options: Options = {},
  session: Parameters<TestSessions["create"]>[1] = { userId: "alice" },
) {
  const store = watchedStore();
  const events: string[] = [];
  const sessions = testSessions({
    ...options,
    store: store.store,
    public: [NotesService.method.signIn],
    onEvent: ({ type }) => void events.push(type),
  });
  const server = wireServer(
    sessions.protect({
      readMaxBytes: 2 ** 20,
      routes: (router) =>
        router.service(NotesService, {
          async signIn(_, context) {
            await sessions.create(context, session);
            return {};
          },
        }),
    }),
  );
  const signIn = (presented: Presented) => server.call(NotesService.method.signIn, {}, presented);
  return { sessions, store, events, signIn };
}

const page = "https://app.test.example";
const options: Options = { origins: [page] };

describe("transport of a new session", () => {
  const wanted = [undefined, "cookie", "header"] as const;
  const sites = [undefined, "same-origin", "same-site", "cross-site", "none"] as const;
  const origins = [undefined, page, "https://evil.example"] as const;

  type Result = "cookie" | "header" | "CROSS_SITE" | "TRANSPORT_REFUSED";

  /** The rule for choosing a transport, restated. A request with an `Origin` also comes from a browser. */
  function expected(
    want: (typeof wanted)[number],
    site: (typeof sites)[number],
    { origin, allowed }: { readonly origin: string | undefined; readonly allowed: boolean },
  ): Result {
    // A page with the origin of another site is not ours, whatever Sec-Fetch-Site says.
    const stored = origin === page || (origin === undefined && site === "same-origin");
    if (want === "cookie") {
      return stored ? "cookie" : "CROSS_SITE";
    }
    const browser = site !== undefined || origin !== undefined;
    const headers = !browser || allowed ? "header" : "TRANSPORT_REFUSED";
    return want === undefined && browser && stored ? "cookie" : headers;
  }

  const rows = [false, true].flatMap((allowed) =>
    wanted.flatMap((want) =>
      sites.flatMap((site) =>
        origins.map((origin) => {
          const result = expected(want, site, { origin, allowed });
          return { want, site, origin, allowed, result };
        }),
      ),
    ),
  );

  it.each(rows)(
    "feat:A3 wanted $want, site $site, origin $origin, browserHeaderTransport $allowed: $result",
    async ({ want, site, origin, allowed, result }) => {
      const { signIn, store } = createWorld({ ...options, browserHeaderTransport: allowed });
      const headers = { "rpcsession-transport": want, "sec-fetch-site": site, origin };
      const answer = await signIn({ headers });
      if (result === "cookie" || result === "header") {
        expect(answer.error).toBeUndefined();
        const byCookie = result === "cookie";
        expect(cookieEffects(answer.headers)).toEqual(
          byCookie ? ["access set", "refresh set"] : [],
        );
        for (const name of ["rpcsession-access-token", "rpcsession-refresh-token"]) {
          expect(answer.headers.has(name)).toBe(!byCookie);
        }
        expect(answer.headers.get("rpcsession-session")).toContain("event=created");
        expect(answer.headers.get("cache-control")).toBe("no-store");
        return;
      }
      expect(answer.error?.code).toBe(Code.PermissionDenied);
      expect(answer.hint?.reason).toBe(Reason[result]);
      expect(answer.headers.getSetCookie()).toEqual([]);
      expect(answer.headers.has("rpcsession-access-token")).toBe(false);
      expect(store.inserted).toEqual([]);
    },
  );

  const given = ["cookie", "header"] as const;
  const optionRows = [false, true].flatMap((allowed) =>
    given.flatMap((transport) =>
      wanted.flatMap((want) =>
        sites.flatMap((site) =>
          origins.map((origin) => {
            const contradicts = want !== undefined && want !== transport;
            const alone = expected(transport, site, { origin, allowed });
            const result: Result = contradicts ? "TRANSPORT_REFUSED" : alone;
            return { transport, want, site, origin, allowed, result };
          }),
        ),
      ),
    ),
  );

  it.each(optionRows)(
    "feat:A3 create with transport $transport, wanted $want, site $site, origin $origin, browserHeaderTransport $allowed: $result",
    async ({ transport, want, site, origin, allowed, result }) => {
      const world = createWorld(
        { ...options, browserHeaderTransport: allowed },
        { userId: "alice", transport },
      );
      const headers = { "rpcsession-transport": want, "sec-fetch-site": site, origin };
      const answer = await world.signIn({ headers });
      if (result === "cookie" || result === "header") {
        expect(answer.error).toBeUndefined();
        expect(world.store.inserted).toHaveLength(1);
        expect(answer.headers.getSetCookie()).toHaveLength(transport === "cookie" ? 2 : 0);
        expect(answer.headers.has("rpcsession-refresh-token")).toBe(transport === "header");
        return;
      }
      expect(answer.error?.code).toBe(Code.PermissionDenied);
      expect(answer.hint?.reason).toBe(Reason[result]);
      expect(world.store.inserted).toEqual([]);
    },
  );

  it("feat:A3 feat:N4 create refuses a transport that does not exist, as misuse", async () => {
    const world = createWorld({}, { userId: "alice", transport: "cookies" as never });
    const { error } = await world.signIn({});
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toBe('transport must be "header" or "cookie"');
    expect(world.store.inserted).toEqual([]);
  });

  it("refuses an unknown transport", async () => {
    const { signIn } = createWorld(options);
    const { error, hint } = await signIn({ headers: { "rpcsession-transport": "any" } });
    expect(error?.message).toContain('must be "cookie" or "header"');
    expect(hint?.reason).toBe(Reason.TRANSPORT_REFUSED);
  });
});

describe("feat:C7 sec:C15 pages of apps and extensions", () => {
  const apps = ["capacitor://localhost", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb"];
  const world = () => createWorld({ origins: apps, cookies: { sameSite: "none" } });

  it.each(apps)("sign in with cookies if their origin is listed: %s", async (origin) => {
    const answer = await world().signIn({ headers: { origin, "sec-fetch-site": "cross-site" } });
    expect(answer.error).toBeUndefined();
    expect(cookieEffects(answer.headers)).toEqual(["access set", "refresh set"]);
  });

  it.each([
    ...["capacitor://localhost.evil.example", "capacitor://localhost:1", "Capacitor://localhost"],
    ...["http://localhost", "https://localhost", "chrome-extension://other", "null"],
  ])("are compared by their text: %s is refused", async (origin) => {
    const { signIn, store } = world();
    const headers = { origin, "rpcsession-transport": "cookie" };
    const answer = await signIn({ headers });
    expect(answer.hint?.reason).toBe(Reason.CROSS_SITE);
    expect(store.inserted).toEqual([]);
  });
});

describe("sec:C17 login CSRF", () => {
  const refused: readonly (readonly [string, Presented, SessionErrorReason])[] = [
    [
      "refuses cookies for a request from another site",
      { headers: { "rpcsession-transport": "cookie", "sec-fetch-site": "cross-site" } },
      "CROSS_SITE",
    ],
    [
      "refuses cookies for a request of unknown origin",
      { headers: { "rpcsession-transport": "cookie" } },
      "CROSS_SITE",
    ],
    [
      "refuses tokens in headers for a browser whose cookies would have to be expired",
      {
        access: "junk",
        headers: { "rpcsession-transport": "header", "sec-fetch-site": "cross-site" },
      },
      "CROSS_SITE",
    ],
  ];
  it.each(refused)("%s", async (_, presented, reason) => {
    const { signIn, store } = createWorld({ ...options, browserHeaderTransport: true });
    const { error, hint, headers } = await signIn(presented);
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint?.reason).toBe(Reason[reason as keyof typeof Reason]);
    expect(headers.getSetCookie()).toEqual([]);
    expect(store.inserted).toEqual([]);
  });

  it("keeps the session that came with a refused sign-in", async () => {
    const { sessions, signIn, store } = createWorld(options);
    const victim = await issueOn(sessions, "cookie");
    await signIn({
      access: victim.access,
      refresh: victim.refresh,
      headers: { "sec-fetch-site": "cross-site", "rpcsession-transport": "cookie" },
    });
    expect((await store.store.load(victim.id)).record?.revokedAt).toBeNull();
  });

  it("accepts any origin with crossSite: unchecked", async () => {
    const { signIn } = createWorld({ ...options, crossSite: "unchecked" });
    const { headers } = await signIn({ headers: { "rpcsession-transport": "cookie" } });
    expect(cookieEffects(headers)).toEqual(["access set", "refresh set"]);
  });
});

describe("sec:C17 session fixation: a sign-in ends the session of the request", () => {
  interface World {
    readonly sessions: TestSessions;
    readonly store: WatchedStore;
    readonly cookie: Issued;
    readonly other: Issued;
    readonly header: Issued;
  }
  type Name = "cookie" | "other" | "header";
  interface Row {
    readonly row: string;
    readonly given: (world: World) => Presented | Promise<Presented>;
    readonly ends: readonly Name[];
  }
  const rows: readonly Row[] = [
    {
      row: "access token in a header",
      given: ({ header }) => ({ bearer: header.access }),
      ends: ["header"],
    },
    {
      row: "expired access token in a header",
      given: ({ header, sessions }) => {
        sessions.clock.advance("16m");
        return { bearer: header.access };
      },
      ends: ["header"],
    },
    {
      row: "both cookies",
      given: ({ cookie }) => ({ access: cookie.access, refresh: cookie.refresh }),
      ends: ["cookie"],
    },
    {
      row: "access cookie alone",
      given: ({ cookie }) => ({ access: cookie.access }),
      ends: ["cookie"],
    },
    {
      row: "expired access cookie",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("16m");
        return { access: cookie.access };
      },
      ends: ["cookie"],
    },
    {
      row: "refresh cookie alone",
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      ends: ["cookie"],
    },
    {
      row: "refresh cookie of an old generation alone",
      given: async ({ cookie, sessions }) => {
        await advanced(sessions, cookie.refresh);
        return { refresh: cookie.refresh };
      },
      ends: ["cookie"],
    },
    {
      row: "cookies of two sessions: ends both",
      given: ({ cookie, other }) => ({ access: cookie.access, refresh: other.refresh }),
      ends: ["cookie", "other"],
    },
    {
      row: "duplicate cookies of two sessions: ends both",
      given: ({ cookie, other }) => ({ access: [cookie.access, other.access] }),
      ends: ["cookie", "other"],
    },
    {
      row: "header and cookies: ends the session of the header",
      given: ({ header, cookie }) => ({ bearer: header.access, access: cookie.access }),
      ends: ["header"],
    },
    {
      row: "a bearer token that fails, and cookies that are replaced: ends their session",
      given: ({ cookie }) => ({ bearer: "junk", access: cookie.access, refresh: cookie.refresh }),
      ends: ["cookie"],
    },
    {
      row: "cookies beside an app's sign-in: ends nothing",
      given: ({ cookie }) => ({
        access: cookie.access,
        refresh: cookie.refresh,
        headers: { "rpcsession-transport": "header", "sec-fetch-site": undefined },
      }),
      ends: [],
    },
    {
      row: "a token with a wrong signature: ends nothing",
      given: ({ cookie, other }) => ({ access: withSignatureOf(cookie.access, other.access) }),
      ends: [],
    },
    {
      row: "a token of the other transport: ends nothing",
      given: ({ cookie }) => ({ bearer: cookie.access }),
      ends: [],
    },
    {
      row: "malformed tokens: ends nothing",
      given: () => ({ access: "junk", refresh: "junk" }),
      ends: [],
    },
  ];
  it.each(rows)("feat:A7 $row", async ({ given, ends }) => {
    const { sessions, store, signIn } = createWorld(options);
    const world: World = {
      sessions,
      store,
      cookie: await issueOn(sessions, "cookie"),
      other: await issueOn(sessions, "cookie"),
      header: await issueOn(sessions, "header"),
    };
    const answer = await signIn(await given(world));
    expect(answer.error).toBeUndefined();
    const names: readonly Name[] = ["cookie", "other", "header"];
    for (const name of names) {
      const { record } = await store.store.load(world[name].id);
      expect([name, record?.endedBy]).toEqual([name, ends.includes(name) ? "replaced" : null]);
    }
    const created = store.inserted.at(-1) ?? "";
    expect(names.map((name) => world[name].id)).not.toContain(created);
    expect((await store.store.load(created)).record?.revokedAt).toBeNull();
  });

  it("an outage during the lookup: Unavailable, nothing written, nothing ended", async () => {
    const { sessions, store, signIn } = createWorld(options);
    const cookie = await issueOn(sessions, "cookie");
    store.inserted.length = 0;
    for (const method of ["load", "insert"] as const) {
      store.failing.add(method);
      const { error, headers } = await signIn({ refresh: cookie.refresh });
      expect([error?.code, headers.getSetCookie()]).toEqual([Code.Unavailable, []]);
      store.failing.clear();
    }
    expect(store.inserted).toEqual([]);
    expect((await store.store.load(cookie.id)).record?.revokedAt).toBeNull();
  });
});

describe("the response to a sign-in", () => {
  const fromPage: Presented = { headers: { "sec-fetch-site": "same-origin" } };

  it("feat:A1 sets exactly two cookies", async () => {
    const { signIn } = createWorld(options);
    const { headers } = await signIn(fromPage);
    const names = cookieNamesOf();
    const attributes = "Max-Age=7776000; Path=/; HttpOnly; Secure; SameSite=Lax";
    expect(headers.getSetCookie().map((c) => c.replace(/=[\w.-]{60,};/, "=…;"))).toEqual([
      `${names.access}=…; ${attributes}`,
      `${names.refresh}=…; ${attributes}`,
    ]);
  });

  it("feat:A1 feat:A5 carries tokens that are accepted", async () => {
    const { sessions, signIn } = createWorld(options, { userId: "bob", claims: { role: "admin" } });
    const { headers } = await signIn(fromPage);
    const access = cookieValue(headers, "access") ?? "";
    expect(await sessions.getSession(exchangeOf({ access }))).toMatchObject({
      userId: "bob",
      claims: { role: "admin" },
    });
  });

  it("expires other copies of the cookies first", async () => {
    const { signIn } = createWorld(options);
    const { headers } = await signIn({ access: ["junk", "junk"] });
    expect(cookieEffects(headers)).toEqual([
      "access expired",
      "access expired partitioned",
      "access set",
      "refresh expired",
      "refresh expired partitioned",
      "refresh set",
    ]);
  });

  it("expires the cookies of the request with header transport", async () => {
    const { signIn } = createWorld({ ...options, browserHeaderTransport: true });
    const { headers } = await signIn({
      access: "junk",
      refresh: "junk",
      headers: { "rpcsession-transport": "header" },
    });
    expect(cookieEffects(headers)).toEqual(clearsCookies);
    expect(headers.has("rpcsession-access-token")).toBe(true);
  });

  it.each<[string, Presented]>([
    ["that asks for headers", { headers: { "rpcsession-transport": "header" } }],
    ["that asks for nothing", {}],
    ["that has a token", { bearer: "junk" }],
  ])(
    "gives an app %s its tokens in headers, and leaves the cookies of its WebView alone",
    async (_, given) => {
      const { sessions, store, signIn } = createWorld(options);
      const { id, access, refresh } = await issueOn(sessions, "cookie");
      const headers = { ...given.headers, "sec-fetch-site": undefined };
      const answer = await signIn({ ...given, access, refresh, headers });
      expect([answer.error, answer.headers.getSetCookie()]).toEqual([undefined, []]);
      expect(answer.headers.has("rpcsession-access-token")).toBe(true);
      expect((await store.store.load(id)).record?.revokedAt).toBeNull();
    },
  );

  it("leaves the cookies of another service alone with header transport", async () => {
    const { signIn, sessions } = createWorld({ ...options, browserHeaderTransport: true });
    const other = testSessions({ issuer: "https://other.example", clock: sessions.clock });
    const { access, refresh } = await issueOn(other, "cookie");
    const headers = { "rpcsession-transport": "header", "sec-fetch-site": "cross-site" };
    const answer = await signIn({ access, refresh, headers });
    expect([answer.error, answer.headers.getSetCookie()]).toEqual([undefined, []]);
  });

  it("carries a valid anti-CSRF token with cookies, and none without", async () => {
    const { sessions, signIn } = createWorld({ ...options, antiCsrf: "token" });
    const { headers } = await signIn(fromPage);
    const access = cookieValue(headers, "access") ?? "";
    const csrf = headers.get("rpcsession-csrf") ?? "";
    await expect(sessions.getSession(exchangeOf({ access, csrf }))).resolves.toBeDefined();
    const byHeader = await signIn({});
    expect(byHeader.headers.has("rpcsession-csrf")).toBe(false);
  });
});

describe("misuse is reported to the developer and creates no session", () => {
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  const bad = (claims: Record<string, unknown>): NewSessionOptions =>
    ({ userId: "alice", claims }) as NewSessionOptions;
  const secret = "s3cr3t";

  it.each<[string, NewSessionOptions, RegExp]>([
    [
      "a misspelt option",
      { userId: "a", tenant: "t" } as object as NewSessionOptions,
      /^unknown option "tenant" for the new session; the options are userId,/,
    ],
    [
      "userId empty",
      { userId: "" },
      /^userId must be a string of 1 to 255 characters, got 0 characters$/,
    ],
    ["userId too long", { userId: "x".repeat(256) }, /^userId must /],
    ["userId not a string", { userId: 7 as unknown as string }, /^userId must /],
    ["userId missing", {} as NewSessionOptions, /^userId must /],
    ["userId with half a surrogate pair", { userId: "\ud800" }, /^userId must be well-formed/],
    ["tenantId empty", { userId: "a", tenantId: "" }, /^tenantId must /],
    ...["sub", "iss", "sid", "gen", "exp", "transport", "__proto__"].map(
      (name): [string, NewSessionOptions, RegExp] => [
        `the claim ${name}`,
        bad(JSON.parse(`{"${name}":"${secret}"}`)),
        new RegExp(`^claims\\.${name}: the name is reserved; choose another$`),
      ],
    ),
    ["a bigint", bad({ n: 1n }), /^claims\.n: a token cannot contain a bigint/],
    [
      "a Date",
      bad({ at: new Date(0) }),
      /^claims\.at: a token cannot contain an instance of a class/,
    ],
    [
      "undefined",
      bad({ x: undefined }),
      /^claims\.x: a token cannot contain a value of type undefined/,
    ],
    ["NaN", bad({ x: Number.NaN }), /^claims\.x: a token cannot contain NaN/],
    [
      "a function",
      bad({ f: () => secret }),
      /^claims\.f: a token cannot contain a value of type function/,
    ],
    ["a circular reference", bad(cyclic), /^claims\.self contains itself/],
    [
      "claims that are not an object",
      { userId: "a", claims: "x" as never },
      /^claims must be a plain object/,
    ],
  ])("feat:A4 feat:N4 %s", async (_, session, message) => {
    const { signIn, store, sessions, events } = createWorld(options, session);
    const answer = await signIn({});
    expect(answer.error?.code).toBe(Code.Internal);
    expect(answer.error?.rawMessage).toMatch(message);
    expect(answer.body).not.toContain(secret);
    expect(answer.hint).toBeUndefined();
    await expect(sessions.issue(session)).rejects.toThrow(TypeError);
    await expect(sessions.issue(session)).rejects.toThrow(message);
    expect(store.inserted).toEqual([]);
    expect(events).toEqual([]);
  });

  const live = async ({ store, inserted }: WatchedStore): Promise<string[]> => {
    const records = await Promise.all(inserted.map(async (id) => (await store.load(id)).record));
    return records.filter((r) => r?.revokedAt === null).map((r) => r?.id ?? "");
  };

  it("sec:C07 a cookie larger than 4096 bytes", async () => {
    const claims = { note: "x".repeat(4000) };
    const { signIn, store } = createWorld(options, { userId: "alice", claims });
    const { error, headers } = await signIn({ headers: { "sec-fetch-site": "same-origin" } });
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(
      /^the claims are too large: .* a cookie holds 4000; use fewer or shorter claims/,
    );
    expect(headers.getSetCookie()).toEqual([]);
    expect(headers.get("rpcsession-session")).toBeNull();
    expect(store.inserted).toEqual([]);
    const byHeader = await signIn({});
    expect(byHeader.error).toBeUndefined();
  });

  it("a token longer than 8192 characters", async () => {
    const claims = { note: "x".repeat(8000) };
    const { signIn, store, sessions } = createWorld(options, { userId: "alice", claims });
    const { error, headers } = await signIn({});
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(
      /^the claims are too large: .* a header holds 8192; use fewer or shorter claims/,
    );
    expect(headers.has("rpcsession-refresh-token")).toBe(false);
    await expect(sessions.issue({ userId: "alice", claims })).rejects.toThrow(/8192/);
    expect(await live(store)).toEqual([]);
  });
});

describe("issue", () => {
  it.each([undefined, "header", "cookie"] as const)(
    "feat:A2 feat:A3 returns working tokens with transport %s",
    async (transport) => {
      const { sessions } = createWorld();
      const { session, tokens } = await sessions.issue({
        userId: "alice",
        ...(transport === undefined ? {} : { transport }),
      });
      expect(session).toMatchObject({ userId: "alice", tokenTransport: transport ?? "header" });
      const given: Presented =
        transport === "cookie" ? { access: tokens.accessToken } : { bearer: tokens.accessToken };
      expect((await sessions.getSession(exchangeOf(given))).id).toBe(session.id);
    },
  );
});

it("feat:A3 a browser with the cookies of another server can sign in at a server that has just started", async () => {
  const old = createWorld();
  const held = await issueOn(old.sessions, "cookie");
  // Its store is new, so that it knows neither the signing key nor the secret of these cookies.
  const fresh = createWorld();
  for (let attempt = 0; attempt < 2; attempt++) {
    const { error, headers } = await fresh.signIn({
      access: held.access,
      refresh: held.refresh,
      headers: { "rpcsession-transport": "cookie", "sec-fetch-site": "same-origin" },
    });
    expect(error).toBeUndefined();
    expect(cookieEffects(headers)).toEqual(["access set", "refresh set"]);
  }
});
