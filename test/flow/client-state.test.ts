// What a client with cookies knows of its session, with the real service.
import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { cookieTokens, createSessionClient, type SessionClientEvent } from "rpc-session/client";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { decodeNotice, header } from "../../src/base/wire.ts";

const issuer = "https://test.example";

type Jar = Map<string, string>;

/** A request and the headers of its response. */
interface Seen {
  readonly method: string;
  readonly response: Headers;
}

/** Does what a browser does on a page of the service's own origin. Calls of methods in `lost` fail. */
function browser(jar: Jar, seen: Seen[], lost: ReadonlySet<string>): Interceptor {
  return (next) => async (req) => {
    if (lost.has(req.method.name)) {
      throw new ConnectError("the connection was lost", Code.Unavailable);
    }
    req.header.set("sec-fetch-site", "same-origin");
    req.header.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    const keep = (headers: Headers): void => {
      seen.push({ method: req.method.name, response: headers });
      for (const cookie of headers.getSetCookie()) {
        const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
        if (value === "" || /max-age=0/i.test(cookie)) {
          jar.delete(name);
        } else {
          jar.set(name, value);
        }
      }
    };
    try {
      const response = await next(req);
      keep(response.header);
      return response;
    } catch (error) {
      keep((error as { metadata: Headers }).metadata);
      throw error;
    }
  };
}

function world(options: Parameters<typeof testSessions>[0] = {}) {
  const sessions = testSessions({
    issuer,
    public: [NotesService.method.signIn],
    methods: { "notes.v1.NotesService/ListNotes": { auth: "optional" } },
    clientClaims: ({ role }) => ({ role: role ?? null }),
    ...options,
  });
  const { routes, ...router } = sessions.protect({
    routes: (r) =>
      r.service(NotesService, {
        async signIn({ user }, context) {
          await sessions.create(context, { userId: user, claims: { role: `role of ${user}` } });
          return {};
        },
        listNotes: () => ({ notes: [] }),
        addNote: () => ({}),
      }),
  });
  const jar: Jar = new Map();
  const page = (lost: ReadonlySet<string> = new Set()) => {
    const seen: Seen[] = [];
    const events: SessionClientEvent[] = [];
    const session = createSessionClient({
      transport: ({ interceptors }) =>
        createRouterTransport(routes, {
          router,
          transport: { baseUrl: issuer, interceptors: [...interceptors, browser(jar, seen, lost)] },
        }),
      tokens: cookieTokens(),
      clock: sessions.clock,
      onEvent: (event) => events.push(event),
    });
    onTestFinished(() => session.close());
    return { session, seen, events, notes: createClient(NotesService, session.transport) };
  };
  const plain = createRouterTransport(routes, { router, transport: { baseUrl: issuer } });
  return { sessions, jar, page, plain };
}

describe("session.load() of a page that was reloaded", () => {
  it("feat:P12 knows the user and the claims after one call, which sets no cookie while the token is valid", async () => {
    const { page, jar, sessions } = world();
    await page().notes.signIn({ user: "ada" });
    sessions.clock.advance("11m");
    const before = new Map(jar);
    const { session, seen, events } = page();
    expect(await session.load()).toMatchObject({
      status: "signedIn",
      userId: "ada",
      claims: { role: "role of ada" },
      realm: issuer,
    });
    expect(seen.map(({ method }) => method)).toEqual(["Refresh"]);
    expect(seen[0]?.response.getSetCookie()).toEqual([]);
    expect(seen[0]?.response.get("cache-control")).toBe("no-store");
    expect(jar).toEqual(before);
    expect(events).toEqual([]);
    for (const [, value] of jar) {
      expect(JSON.stringify([...(seen[0]?.response ?? [])])).not.toContain(value.slice(-30));
    }
  });

  it.each(["12m", "16m", "20h"] as const)(
    "feat:P12 refreshes with the same call %s after the sign-in",
    async (later) => {
      const { page, jar, sessions } = world();
      const first = page();
      await first.notes.signIn({ user: "ada" });
      sessions.clock.advance(later);
      sessions.clock.advance("1s");
      const { session, seen, notes } = page();
      expect(await session.load()).toMatchObject({ status: "signedIn", userId: "ada" });
      expect(seen).toHaveLength(1);
      expect(seen[0]?.response.getSetCookie()).not.toEqual([]);
      await notes.addNote({});
      expect(seen).toHaveLength(2);
      expect(jar.size).toBe(2);
    },
  );

  it("feat:P12 knows the user although real clocks count fractions of a millisecond", async () => {
    const clock = createFakeClock();
    let reads = 0;
    const monotonic = (): number => clock.monotonic() + ++reads / 1024;
    const { page } = world({ clock: { ...clock, monotonic } });
    await page().notes.signIn({ user: "ada" });
    const { session, events } = page();
    expect(await session.load()).toMatchObject({ status: "signedIn", userId: "ada" });
    expect(events).toEqual([]);
  });

  it("feat:P12 tells a visitor without cookies, without an error", async () => {
    const { session, events, seen } = world().page();
    expect((await session.load()).status).toBe("signedOut");
    expect(events).toEqual([{ type: "signedOut", sessionId: undefined, by: "server" }]);
    expect(decodeNotice(seen[0]?.response.get(header.session) ?? null)?.event).toBe("none");
  });

  it("feat:P12 tells that the session was revoked, although its token is valid, and clears the cookies", async () => {
    const { page, jar, sessions } = world({ revocation: "none" });
    await page().notes.signIn({ user: "ada" });
    await sessions.revokeAll({ userId: "ada" });
    const { session } = page();
    expect((await session.load()).status).toBe("signedOut");
    expect(jar.size).toBe(0);
  });

  it("feat:P12 refreshes if the claims have changed since the token was issued", async () => {
    const { page, sessions } = world();
    const first = page();
    await first.notes.signIn({ user: "ada" });
    const id = first.session.state.sessionId ?? "";
    await sessions.updateClaims(id, { role: "new" });
    const { session, seen } = page();
    expect((await session.load()).claims).toEqual({ role: "new" });
    expect(seen[0]?.response.getSetCookie()).not.toEqual([]);
  });

  it("feat:P12 feat:C1 brings the anti-CSRF token that the new page does not have", async () => {
    const { page } = world({ antiCsrf: "token" });
    await page().notes.signIn({ user: "ada" });
    const { session, seen, notes } = page();
    await session.load();
    await notes.addNote({});
    expect(seen.map(({ method }) => method)).toEqual(["Refresh", "AddNote"]);
  });

  it("feat:P12 does not refresh in an outage, and the state stays unknown", async () => {
    const clock = createFakeClock();
    const { page, sessions } = world({ clock });
    await page().notes.signIn({ user: "ada" });
    await sessions.close();
    const { session } = page();
    await expect(session.load()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state.status).toBe("unknown");
  });

  it("feat:P12 refuses a page of another site, which could otherwise learn who is signed in", async () => {
    const { page, jar, plain } = world();
    await page().notes.signIn({ user: "ada" });
    const foreign = createClient(SessionService, plain);
    const headers = {
      cookie: [...jar].map(([name, value]) => `${name}=${value}`).join("; "),
      origin: "https://evil.example",
      "sec-fetch-site": "cross-site",
    };
    const asked = foreign.refresh({ onlyIfNeeded: true }, { headers });
    await expect(asked).rejects.toMatchObject({ code: Code.PermissionDenied });
  });
});

describe("the state after any answer", () => {
  it("feat:P13 the first successful call of a reloaded page tells user and claims, and later calls carry no notice", async () => {
    const { page } = world();
    await page().notes.signIn({ user: "ada" });
    const { session, notes, seen } = page();
    await notes.addNote({});
    expect(session.state).toMatchObject({
      status: "signedIn",
      userId: "ada",
      claims: { role: "role of ada" },
    });
    await notes.addNote({});
    expect(seen.map(({ response }) => response.has(header.session))).toEqual([true, false]);
  });

  it("feat:P13 a method that needs no session tells a visitor so, once", async () => {
    const { session, notes, seen } = world().page();
    await notes.listNotes({});
    expect(session.state.status).toBe("signedOut");
    await notes.listNotes({});
    expect(seen.map(({ response }) => response.has(header.session))).toEqual([true, false]);
  });

  it("feat:P13 a refused call tells a visitor as well", async () => {
    const { session, notes } = world().page();
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state.status).toBe("signedOut");
  });

  it("feat:P13 a page whose cookies are gone learns it from a method that needs no session", async () => {
    const { page, jar } = world();
    const { session, notes, events } = page();
    await notes.signIn({ user: "ada" });
    jar.clear();
    await notes.listNotes({});
    expect(session.state.status).toBe("signedOut");
    expect(events.map(({ type }) => type)).toEqual(["signedIn", "cookiesMissing", "signedOut"]);
  });

  it("feat:P13 a page of one user learns from its first answer that the cookies are another's", async () => {
    const { page } = world();
    const ada = page();
    await ada.notes.signIn({ user: "ada" });
    const elsewhere = page();
    elsewhere.session.close();
    await elsewhere.notes.signIn({ user: "bob" });
    const order: unknown[] = [];
    ada.session.subscribe(({ userId, claims }) => order.push([userId, claims]));
    await ada.notes.listNotes({}).then(() => order.push("data"));
    expect(order).toEqual([["bob", { role: "role of bob" }], "data"]);
  });

  it("feat:P13 a service that only verifies leaves the state alone, because it does not know the claims to show", async () => {
    const { sessions, page, jar } = world();
    await page().notes.signIn({ user: "ada" });
    const verifying = verifySessions({
      issuer,
      jwks: await sessions.jwks(),
      clock: sessions.clock,
    });
    const access = [...jar].filter(([name]) => name.includes("access"));
    const responseHeader = new Headers();
    await verifying.getSession({
      requestHeader: new Headers({
        ...{ cookie: access.map(([name, value]) => `${name}=${value}`).join("; ") },
        ...{ [header.session]: "unknown", "sec-fetch-site": "same-origin" },
      }),
      responseHeader,
      requestMethod: "POST",
    });
    expect(responseHeader.has(header.session)).toBe(false);
  });

  it("feat:P2 pages that do not know their session refresh it once, one after the other", async () => {
    const { page, sessions } = world();
    await page().notes.signIn({ user: "ada" });
    for (let round = 0; round < 3; round += 1) {
      sessions.clock.advance("16m");
      const pages = [page(), page(), page()];
      const refused = await Promise.all(pages.map(({ notes }) => notes.addNote({})));
      expect(refused).toHaveLength(3);
      const events = pages.flatMap((one) => one.events.map(({ type }) => type));
      expect(events).toEqual(["refreshed"]);
    }
  });
});

describe("a call under cookies of a session that the client has signed out of", () => {
  it("feat:P13 does not deliver its answer, because the sign-out has not reached the service", async () => {
    const { page } = world();
    const lost = new Set<string>();
    const { session, notes, seen } = page(lost);
    await notes.signIn({ user: "ada" });
    lost.add("SignOut");
    await expect(session.signOut()).rejects.toMatchObject({ code: Code.Unavailable });
    seen.length = 0;
    await expect(notes.listNotes({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(decodeNotice(seen[0]?.response.get(header.session) ?? null)?.event).toBe("current");
    expect(session.state.status).toBe("signedOut");

    // Another user signs in; the former session ends with that.
    await notes.signIn({ user: "bob" });
    expect(session.state).toMatchObject({ status: "signedIn", userId: "bob" });
    await notes.listNotes({});
  });
});
