import type { HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import {
  clearsCookies,
  cookieEffects,
  exchangeOf,
  type Presented,
  sessionErrorOf,
} from "../helpers/exchanges.ts";
import { advanced, type Issued, issueOn } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

interface World {
  readonly sessions: TestSessions;
  readonly store: WatchedStore;
  readonly events: SessionEvent[];
  readonly cookie: Issued;
  readonly other: Issued;
  readonly header: Issued;
}

async function createWorld(): Promise<World> {
  const store = watchedStore();
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    store: store.store,
    onEvent: (event) => void events.push(event),
  });
  return {
    sessions,
    store,
    events,
    cookie: await issueOn(sessions, "cookie"),
    other: await issueOn(sessions, "cookie"),
    header: await issueOn(sessions, "header"),
  };
}

type Name = "cookie" | "other" | "header";

interface Row {
  readonly row: string;
  readonly given: (
    world: World,
  ) => (Presented & { message?: string }) | Promise<Presented & { message?: string }>;
  /** The sessions that the call ends. */
  readonly ends?: readonly Name[];
  readonly clears?: boolean;
  readonly refused?: Code;
}

/** The cookies of another service, which have the same names. */
async function elsewhere({ clock }: TestSessions) {
  const issuer = "https://other.example";
  const { access, refresh } = await issueOn(testSessions({ issuer, clock }), "cookie");
  return { access, refresh };
}

const foreign = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };

describe("feat:G8 SignOut", () => {
  const rows: readonly Row[] = [
    { row: "no tokens: nothing happens", given: () => ({}) },
    {
      row: "both cookies: ends their session",
      given: ({ cookie }) => ({ access: cookie.access, refresh: cookie.refresh }),
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "the refresh cookie alone",
      given: ({ cookie }) => ({ refresh: cookie.refresh }),
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "the access cookie alone",
      given: ({ cookie }) => ({ access: cookie.access }),
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "an expired access cookie alone",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("16m");
        return { access: cookie.access };
      },
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "the refresh cookie of the previous generation",
      given: async ({ cookie, sessions }) => {
        await advanced(sessions, cookie.refresh);
        return { refresh: cookie.refresh };
      },
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "a refresh cookie so old that Refresh would detect reuse",
      given: async ({ cookie, sessions }) => {
        const next = await advanced(sessions, cookie.refresh);
        await advanced(sessions, next.refresh);
        return { refresh: cookie.refresh };
      },
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "cookies of two sessions: ends both",
      given: ({ cookie, other }) => ({ access: cookie.access, refresh: other.refresh }),
      ends: ["cookie", "other"],
      clears: true,
    },
    {
      row: "duplicate cookies of two sessions: ends both",
      given: ({ cookie, other }) => ({ refresh: [cookie.refresh, other.refresh, "junk"] }),
      ends: ["cookie", "other"],
      clears: true,
    },
    {
      row: "malformed cookies: cleared, nothing ends",
      given: () => ({ access: "junk", refresh: "junk" }),
      clears: true,
    },
    {
      row: "a session that has already ended: cleared",
      given: async ({ cookie }) => {
        await cookie.revoke();
        return { refresh: cookie.refresh };
      },
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "a session whose idle lifetime is over: cleared",
      given: ({ cookie, sessions }) => {
        sessions.clock.advance("15d");
        return { refresh: cookie.refresh };
      },
      ends: ["cookie"],
      clears: true,
    },
    { row: "a bearer token", given: ({ header }) => ({ bearer: header.access }), ends: ["header"] },
    {
      row: "an expired bearer token",
      given: ({ header, sessions }) => {
        sessions.clock.advance("16m");
        return { bearer: header.access };
      },
      ends: ["header"],
    },
    {
      row: "a refresh token in the message",
      given: ({ header }) => ({ message: header.refresh }),
      ends: ["header"],
    },
    {
      row: "a refresh token in the message: no origin needed",
      given: ({ header }) => ({ message: header.refresh, headers: foreign }),
      ends: ["header"],
    },
    {
      row: "a malformed token in the message and a bearer token: the bearer token counts",
      given: ({ header }) => ({ message: "junk", bearer: header.access }),
      ends: ["header"],
    },
    {
      row: "header and cookies: the header takes precedence, the cookies are expired",
      given: ({ header, cookie }) => ({
        bearer: header.access,
        access: cookie.access,
        refresh: cookie.refresh,
      }),
      ends: ["header"],
      clears: true,
    },
    {
      row: "header and cookies without an origin, as an app sends them: the cookies are left alone",
      given: ({ header, cookie }) => ({
        bearer: header.access,
        message: header.refresh,
        access: cookie.access,
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
      ends: ["header"],
    },
    {
      row: "header and cookies by Origin alone: a browser, so the cookies are expired",
      given: ({ header, cookie }) => ({
        bearer: header.access,
        access: cookie.access,
        headers: { "sec-fetch-site": undefined, origin: "https://test.example" },
      }),
      ends: ["header"],
      clears: true,
    },
    {
      row: "header and cookies from another site: refused, nothing changed",
      given: ({ header, cookie }) => ({
        bearer: header.access,
        access: cookie.access,
        headers: foreign,
      }),
      refused: Code.PermissionDenied,
    },
    {
      row: "a bearer token that fails, and cookies of a browser: they are expired, so their session ends",
      given: ({ cookie }) => ({
        bearer: "junk",
        access: cookie.access,
        refresh: cookie.refresh,
      }),
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "a bearer token that fails, and cookies of an app: nothing happens",
      given: ({ cookie }) => ({
        bearer: "junk",
        access: cookie.access,
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
    },
    {
      row: "a message that fails never falls back to the cookies of an app",
      given: ({ cookie }) => ({
        message: "junk",
        refresh: cookie.refresh,
        headers: { "sec-fetch-site": undefined },
      }),
    },
    {
      row: "cookies of another service: nothing to end, nothing cleared",
      given: async ({ sessions }) => elsewhere(sessions),
    },
    {
      row: "cookies of another service from another site: there is nothing to refuse",
      given: async ({ sessions }) => ({ ...(await elsewhere(sessions)), headers: foreign }),
    },
    {
      row: "cookies of another service beside ours: only ours count",
      given: async ({ sessions, cookie }) => {
        const other = await elsewhere(sessions);
        return {
          access: [other.access, cookie.access],
          refresh: [other.refresh, cookie.refresh],
        };
      },
      ends: ["cookie"],
      clears: true,
    },
    {
      row: "four copies: the real one ends too",
      given: ({ cookie, other }) => ({
        refresh: [other.refresh, other.refresh, other.refresh, cookie.refresh],
      }),
      ends: ["cookie", "other"],
      clears: true,
    },
    {
      row: "transport binding: tokens of a cookie session in headers end nothing",
      given: ({ cookie }) => ({ bearer: cookie.access, message: cookie.refresh }),
    },
    {
      row: "transport binding: tokens of a header session in cookies end nothing",
      given: ({ header }) => ({ access: header.access, refresh: header.refresh }),
      clears: true,
    },
    {
      row: "a cross-site request: refused, nothing changed",
      given: ({ cookie }) => ({
        access: cookie.access,
        refresh: cookie.refresh,
        headers: foreign,
      }),
      refused: Code.PermissionDenied,
    },
    {
      row: "a cross-site request with malformed tokens: refused, nothing cleared",
      given: () => ({ access: "junk", headers: foreign }),
      refused: Code.PermissionDenied,
    },
    {
      row: "a store that cannot be written: Unavailable, but the cookies are cleared",
      clears: true,
      given: ({ cookie, store }) => {
        store.failing.add("revoke");
        return { access: cookie.access, refresh: cookie.refresh };
      },
      refused: Code.Unavailable,
    },
    {
      row: "a store that cannot be read: Unavailable, but the cookies are cleared",
      clears: true,
      given: ({ cookie, store }) => {
        store.failing.add("load");
        return { refresh: cookie.refresh };
      },
      refused: Code.Unavailable,
    },
    {
      row: "a store that cannot be written, header session",
      given: ({ header, store }) => {
        store.failing.add("revoke");
        return { message: header.refresh };
      },
      refused: Code.Unavailable,
    },
  ];

  it.each(rows)("$row", async ({ given, ends = [], clears = false, refused }) => {
    const world = await createWorld();
    const server = wireServer(world.sessions.protect({ routes: () => {} }));
    const { message = "", ...presented } = await given(world);
    world.store.take();
    const { headers, error } = await server.call(
      SessionService.method.signOut,
      { refreshToken: message },
      presented,
    );
    expect(error?.code).toBe(refused);
    expect(cookieEffects(headers)).toEqual(clears ? clearsCookies : []);
    expect(headers.get("rpcsession-session")?.includes("event=ended") ?? false).toBe(
      ends.length > 0,
    );
    // A sign-out never rotates a refresh token.
    expect(world.store.take()).not.toContain("refresh");
    world.store.failing.clear();
    const names: readonly Name[] = ["cookie", "other", "header"];
    for (const name of names) {
      const { record } = await world.store.store.load(world[name].id);
      expect([name, record?.revokedAt !== null]).toEqual([name, ends.includes(name)]);
    }
  });

  it("late calls of the ended session clear nothing for a minute", async () => {
    const { sessions, cookie } = await createWorld();
    const server = wireServer(sessions.protect({ routes: () => {} }));
    await server.call(SessionService.method.signOut, {}, { refresh: cookie.refresh });
    const exchange = exchangeOf({ access: cookie.access });
    const error = await sessionErrorOf(sessions.getSession(exchange));
    expect([error.reason, error.clearTokens]).toEqual(["SESSION_REVOKED", false]);
    const late = await server.call(SessionService.method.refresh, {}, { refresh: cookie.refresh });
    expect(late.hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.KEEP });
    expect(cookieEffects(late.headers)).toEqual([]);
  });
});

describe("session.revoke() in a handler", () => {
  const notFound = (): never => {
    throw new ConnectError("no such note", Code.NotFound);
  };

  /** Serves a unary and a streaming method with the same handler. */
  async function serve(
    handler: (context: HandlerContext, sessions: TestSessions) => Promise<void>,
    afterFirst?: (context: HandlerContext, sessions: TestSessions) => Promise<void>,
  ) {
    const world = await createWorld();
    const { sessions } = world;
    const server = wireServer(
      sessions.protect({
        routes: (router) =>
          router.service(NotesService, {
            async addNote(_, context) {
              await handler(context, sessions);
              return {};
            },
            async *watchNotes(_, context) {
              await handler(context, sessions);
              yield {};
              await afterFirst?.(context, sessions);
            },
          }),
      }),
    );
    return { ...world, server };
  }

  const revoke = async (context: HandlerContext, sessions: TestSessions): Promise<void> =>
    sessions.require(context).revoke();
  const revokeThenThrow = async (context: HandlerContext, sessions: TestSessions) => {
    await revoke(context, sessions);
    notFound();
  };
  const create = async (context: HandlerContext, sessions: TestSessions): Promise<void> => {
    await sessions.create(context, { userId: "bob" });
  };
  const createThenThrow = async (context: HandlerContext, sessions: TestSessions) => {
    await create(context, sessions);
    notFound();
  };
  const createThenRevoke = async (context: HandlerContext, sessions: TestSessions) => {
    await create(context, sessions);
    await revoke(context, sessions);
  };
  const createdRevoked = async (context: HandlerContext, sessions: TestSessions) => {
    const session = await sessions.create(context, { userId: "bob" });
    await session.revoke();
  };

  const set = ["access set", "refresh set"];
  it.each<
    readonly [string, typeof revoke, Code | undefined, readonly string[], "ended" | "created"]
  >([
    ["revoke", revoke, undefined, clearsCookies, "ended"],
    ["revoke, then throw", revokeThenThrow, Code.NotFound, clearsCookies, "ended"],
    ["create, then throw", createThenThrow, Code.NotFound, set, "created"],
    ["create, then revoke", createThenRevoke, undefined, clearsCookies, "ended"],
    ["revoke the session that create returned", createdRevoked, undefined, clearsCookies, "ended"],
  ])("%s, unary and stream", async (_, handler, code, effects, event) => {
    const { server, cookie } = await serve(handler);
    const presented = { access: cookie.access, refresh: cookie.refresh };
    const unary = await server.call(NotesService.method.addNote, {}, presented);
    expect([unary.error?.code, cookieEffects(unary.headers)]).toEqual([code, effects]);
    expect(unary.headers.get("rpcsession-session")).toContain(`event=${event}`);
    const again = await serve(handler);
    const stream = await again.server.stream(
      NotesService.method.watchNotes,
      {},
      { access: again.cookie.access },
    );
    expect([stream.error?.code, cookieEffects(stream.headers)]).toEqual([code, effects]);
  });

  it("a header session: no token header is left after create and revoke", async () => {
    const { server, header } = await serve(createThenRevoke);
    const { headers } = await server.call(
      NotesService.method.addNote,
      {},
      { bearer: header.access },
    );
    expect(headers.has("rpcsession-access-token")).toBe(false);
    expect(headers.has("rpcsession-refresh-token")).toBe(false);
    expect(headers.get("rpcsession-session")).toContain("event=ended");
    expect(headers.getSetCookie()).toEqual([]);
  });

  it("leaves cookies with other names alone", async () => {
    const { server, cookie } = await serve(async (context, sessions) => {
      context.responseHeader.append("set-cookie", "__Host-Http-rpcsession-access2=x");
      context.responseHeader.append("set-cookie", "theme=dark");
      await revoke(context, sessions);
    });
    const { headers } = await server.call(
      NotesService.method.addNote,
      {},
      { access: cookie.access },
    );
    expect(headers.getSetCookie()).toContain("__Host-Http-rpcsession-access2=x");
    expect(headers.getSetCookie()).toContain("theme=dark");
  });

  it("an outage: Unavailable, nothing cleared, the session stays alive", async () => {
    const { server, cookie, store } = await serve(revoke);
    store.failing.add("revoke");
    const presented = { access: cookie.access };
    const { headers, error } = await server.call(NotesService.method.addNote, {}, presented);
    expect(error?.code).toBe(Code.Unavailable);
    expect(cookieEffects(headers)).toEqual([]);
    expect(headers.get("rpcsession-session")).toBeNull();
  });

  it("after the first message of a stream: the next call clears, because the headers were sent", async () => {
    const { server, cookie, store, sessions } = await serve(async () => {}, revoke);
    const stream = await server.stream(
      NotesService.method.watchNotes,
      {},
      { access: cookie.access },
    );
    expect(stream.error).toBeUndefined();
    expect(cookieEffects(stream.headers)).toEqual([]);
    expect((await store.store.load(cookie.id)).record?.endedBy).toBe("revoked");
    const next = exchangeOf({ access: cookie.access });
    await sessionErrorOf(sessions.getSession(next));
    expect(cookieEffects(next.responseHeader)).toEqual(clearsCookies);
  });

  it("create after the first message of a stream is reported as misuse", async () => {
    let message: string | undefined;
    const { server, cookie, events } = await serve(
      async () => {},
      async (context, sessions) => {
        await create(context, sessions).catch((error: ConnectError) => {
          message = error.message;
        });
      },
    );
    events.length = 0;
    await server.stream(NotesService.method.watchNotes, {}, { access: cookie.access });
    expect(message).toMatch(/first message\); call it earlier/);
    expect(events).toEqual([]);
  });
});
