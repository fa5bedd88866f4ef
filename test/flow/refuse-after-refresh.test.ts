import {
  Code,
  ConnectError,
  createClient,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { type RefreshResponse, SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { decodeNotice, type TokenTransport } from "../../src/base/wire.ts";
import { clearedCookies, leaksOf } from "../helpers/golden.ts";
import { cells, kinds } from "../helpers/kinds.ts";
import { byCookie, issue, type Presented, present, type Tokens } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, type WireResult, wireName, wires } from "../helpers/wire.ts";

type Refused = (context: HandlerContext, sessions: TestSessions) => Promise<void>;

const deny = (): never => {
  throw new ConnectError("this user is banned", Code.PermissionDenied);
};

/** What a handler does after a sign-in or a refresh, and whether the session has ended then. */
const refusals: readonly { name: string; refuse: Refused; ends: boolean; denies: boolean }[] = [
  { name: "throws", refuse: async () => deny(), ends: false, denies: true },
  {
    name: "revokes and throws",
    refuse: async (context, sessions) => {
      await sessions.require(context).revoke();
      deny();
    },
    ...{ ends: true, denies: true },
  },
  {
    name: "revokes by id and throws",
    refuse: async (context, sessions) => {
      await sessions.revoke(sessions.require(context).id);
      deny();
    },
    ...{ ends: true, denies: true },
  },
  {
    name: "revokes all sessions of the user and throws",
    refuse: async (context, sessions) => {
      await sessions.revokeAll({ userId: sessions.require(context).userId });
      deny();
    },
    ...{ ends: true, denies: true },
  },
  {
    name: "revokes by id and answers",
    refuse: async (context, sessions) => {
      await sessions.revoke(sessions.require(context).id);
    },
    ...{ ends: true, denies: false },
  },
];

/** What the handlers of the running server do, set by each test. */
let refuse: Refused = async () => {};
/** Whether the handlers of NotesService sign in or refresh first. */
let begin: "sign in" | "reauthenticate" | "refresh" = "sign in";
let message = "";
const events: SessionEvent[] = [];

async function startFailing(sessions: TestSessions, context: HandlerContext): Promise<void> {
  if (begin === "sign in") {
    await sessions.create(context, { userId: "alice" });
  } else if (begin === "reauthenticate") {
    await sessions.reauthenticate(context);
  } else {
    await serviceOf(sessions).refresh({ refreshToken: message } as never, context);
  }
  await refuse(context, sessions);
}

function serviceOf({ service }: TestSessions): ServiceImpl<typeof SessionService> {
  return service as ServiceImpl<typeof SessionService>;
}

/** An own `Refresh` that calls ours, and a NotesService whose methods sign in or refresh. */
function adapt(sessions: TestSessions) {
  const fail = (context: HandlerContext) => startFailing(sessions, context);
  return sessions.protect({
    routes: (router) => {
      router.service(SessionService, {
        ...sessions.service,
        async refresh(request, context) {
          const answer = await serviceOf(sessions).refresh(request, context);
          await refuse(context, sessions);
          return answer as RefreshResponse;
        },
      });
      router.service(NotesService, {
        async addNote(_request, context) {
          await fail(context);
          return {};
        },
        async importNotes(_requests, context) {
          await fail(context);
          return {};
        },
        async *watchNotes(_request, context) {
          await fail(context);
          yield* [];
        },
        async *syncNotes(_requests, context) {
          await fail(context);
          yield { number: 1 };
        },
      });
    },
  });
}

/** The tokens that a response carries, by their names. */
function tokensIn(result: WireResult): string[] {
  const cookies = result.setCookie
    .filter((cookie) => !cookie.includes("Max-Age=0"))
    .map((cookie) => cookie.slice(0, cookie.indexOf("=")));
  const headers = ["access-token", "refresh-token", "csrf"].map((name) => `rpcsession-${name}`);
  return [...cookies, ...headers.filter((name) => result.headers.has(name))];
}

function eventOf(result: WireResult): string | undefined {
  return decodeNotice(result.headers.get("rpcsession-session"))?.event;
}

function presentedBy(transport: TokenTransport, session: string, tokens: Tokens): Presented {
  return transport === "cookie"
    ? byCookie(session, tokens)
    : { headers: {}, session, secrets: [tokens.refresh ?? ""] };
}

describe("a handler that refuses after a refresh", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({
      adapt,
      sessions: {
        public: Object.values(NotesService.method),
        onEvent: (event) => void events.push(event),
      },
    });
  });
  afterAll(() => server.close());
  beforeEach(() => {
    events.length = 0;
    begin = "refresh";
  });

  for (const { name, refuse: given, ends, denies } of refusals) {
    for (const transport of ["cookie", "header"] as const) {
      test(`feat:N2 sec:R17 an own Refresh that ${name} sends no tokens, in every protocol: ${transport}`, async () => {
        refuse = given;
        for (const wire of wires) {
          const { session, tokens } = await issue(server, transport);
          const { headers, secrets } = presentedBy(transport, session.id, tokens);
          const messages = [transport === "cookie" ? {} : { refreshToken: tokens.refresh }];
          const call = { method: SessionService.method.refresh, messages, headers };
          const result = await callWire(server, wire, call);
          const where = wireName(wire);
          expect(result.code, where).toBe(denies ? "permission_denied" : "ok");
          expect(tokensIn(result), where).toEqual([]);
          expect(result.setCookie, where).toEqual(
            ends && transport === "cookie" ? clearedCookies : [],
          );
          expect(eventOf(result), where).toBe(ends ? "ended" : undefined);
          expect(result.headers.get("cache-control"), where).toContain("no-store");
          expect(leaksOf(result, secrets), where).toEqual([]);
          expect((await server.sessions.find(session.id)) === undefined, where).toBe(ends);
        }
      });

      test(`sec:R17 every kind of method that refreshes and ${name} sends no tokens: ${transport}`, async () => {
        refuse = given;
        for (const { kind, wire } of cells.filter(({ kind: k }) => !k.get)) {
          const { session, tokens } = await issue(server, transport);
          const { headers } = presentedBy(transport, session.id, tokens);
          message = transport === "cookie" ? "" : tokens.refresh;
          const result = await callWire(server, wire, { ...kind, headers });
          const where = `${kind.name}, ${wireName(wire)}`;
          expect(tokensIn(result), where).toEqual([]);
          expect(result.setCookie, where).toEqual(
            ends && transport === "cookie" ? clearedCookies : [],
          );
          expect(eventOf(result), where).toBe(ends ? "ended" : undefined);
        }
      });
    }
  }

  test("feat:D3 a client whose refresh was refused keeps its session, also if its token has rotated", async () => {
    const { session, tokens } = await issue(server, "header");
    const refresh = async (refreshToken: string) =>
      callWire(
        server,
        { protocol: "connect-json", http: "h1" },
        { method: SessionService.method.refresh, messages: [{ refreshToken }], headers: {} },
      );
    refuse = async () => {};
    server.sessions.clock.advance("61s");
    expect((await refresh(tokens.refresh)).code).toBe("ok");
    server.sessions.clock.advance("31s");
    refuse = async () => deny();
    expect((await refresh(tokens.refresh)).code).toBe("permission_denied");
    refuse = async () => {};
    server.sessions.clock.advance("10m");
    const recovered = await refresh(tokens.refresh);
    expect(tokensIn(recovered)).toEqual(["rpcsession-access-token", "rpcsession-refresh-token"]);
    expect(events.map(({ type }) => type)).toEqual([
      ...["created", "refreshed", "refreshed", "recovered"],
    ]);
    expect(await server.sessions.find(session.id)).toBeDefined();
  });

  test("feat:N2 an own Refresh can change the claims of the session that it refreshed", async () => {
    const { session, tokens } = await issue(server, "header");
    refuse = async (context, sessions) => {
      expect(sessions.require(context).id).toBe(session.id);
      await sessions.require(context).updateClaims({ role: "admin" });
    };
    const result = await callWire(
      server,
      { protocol: "connect-json", http: "h1" },
      {
        ...{ method: SessionService.method.refresh, headers: {} },
        messages: [{ refreshToken: tokens.refresh }],
      },
    );
    expect(result.code).toBe("ok");
    const notice = decodeNotice(result.headers.get("rpcsession-session"));
    expect(notice).toMatchObject({ event: "refreshed", session: session.id, claimsVersion: 1 });
    expect(tokensIn(result)).toEqual(["rpcsession-access-token"]);
  });
});

describe("the session client, whose refresh is refused", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({
      sessions: { onEvent: (event) => void events.push(event) },
      adapt: (sessions, routes) =>
        sessions.protect({
          routes: (router) => {
            routes(router);
            router.service(SessionService, {
              ...sessions.service,
              async refresh(request, context) {
                const answer = await serviceOf(sessions).refresh(request, context);
                await refuse(context, sessions);
                return answer as RefreshResponse;
              },
            });
          },
        }),
    });
  });
  afterAll(() => server.close());

  for (const { name, refuse: given, ends } of refusals.filter(({ denies }) => denies)) {
    test(`feat:N2 feat:P5 ${ends ? "is signed out" : "keeps its session"} if the handler ${name}`, async () => {
      const session = createSessionClient({
        clock: server.sessions.clock,
        transport: (parts) =>
          createConnectTransport({
            ...{ baseUrl: `http://127.0.0.1:${server.port.h1}`, httpVersion: "1.1", ...parts },
          }),
      });
      const notes = createClient(NotesService, session.transport);
      await notes.signIn({ user: "alice" });
      server.sessions.clock.advance("16m");
      refuse = given;
      await expect(notes.listNotes({})).rejects.toMatchObject({
        code: ends ? Code.Unauthenticated : Code.PermissionDenied,
      });
      expect(session.state.status).toBe(ends ? "signedOut" : "signedIn");
      refuse = async () => {};
      server.sessions.clock.advance("10m");
      const again = notes.listNotes({});
      if (ends) {
        await expect(again).rejects.toMatchObject({ code: Code.Unauthenticated });
      } else {
        await expect(again).resolves.toBeDefined();
      }
      session.close();
    });
  }
});

describe("a handler that refuses after a sign-in", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({ adapt, sessions: { public: Object.values(NotesService.method) } });
  });
  afterAll(() => server.close());
  beforeEach(() => {
    begin = "sign in";
  });

  for (const { name, refuse: given, ends } of refusals) {
    for (const transport of ["cookie", "header"] as const) {
      const outcome = ends ? "sends no tokens" : "keeps the user signed in";
      test(`sec:R17 every kind of method that signs in and ${name} ${outcome}: ${transport}`, async () => {
        refuse = given;
        for (const { kind, wire } of cells.filter(({ kind: k }) => !k.get)) {
          const headers: Record<string, string> =
            transport === "cookie" ? { "sec-fetch-site": "same-origin" } : {};
          const result = await callWire(server, wire, { ...kind, headers });
          const where = `${kind.name}, ${wireName(wire)}`;
          expect(tokensIn(result), where).toHaveLength(ends ? 0 : 2);
          expect(eventOf(result), where).toBe(ends ? "ended" : "created");
          expect(result.setCookie, where).toEqual(
            transport === "header" ? [] : ends ? clearedCookies : result.setCookie,
          );
        }
      });
    }
  }
});

describe("a handler that refuses after the user has authenticated again", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({ adapt });
  });
  afterAll(() => server.close());
  beforeEach(() => {
    begin = "reauthenticate";
  });

  for (const { name, refuse: given, ends } of refusals) {
    for (const transport of ["cookie", "header"] as const) {
      const outcome = ends ? "sends no tokens" : "keeps the user signed in";
      test(`sec:R17 every kind of method that reauthenticates and ${name} ${outcome}: ${transport}`, async () => {
        refuse = given;
        for (const { kind, wire } of cells.filter(({ kind: k }) => !k.get)) {
          const { headers, secrets } = await present(server, transport);
          const result = await callWire(server, wire, { ...kind, headers });
          const where = `${kind.name}, ${wireName(wire)}`;
          expect(tokensIn(result), where).toHaveLength(ends ? 0 : 2);
          expect(eventOf(result), where).toBe(ends ? "ended" : "created");
          if (ends) {
            expect(result.setCookie, where).toEqual(transport === "cookie" ? clearedCookies : []);
          }
          expect(leaksOf(result, secrets), where).toEqual([]);
        }
      });
    }
  }
});

test("feat:N2 an own Refresh of a session whose claims no longer fit the schema gets CLAIM_REJECTED from require", async () => {
  const shared = { store: memoryStore(), clock: createFakeClock() };
  const before = testSessions(shared);
  const { tokens } = await before.issue({ userId: "alice" });
  const server = await startNotes({
    adapt,
    sessions: {
      ...{ ...shared, public: Object.values(NotesService.method) },
      claims: z.object({ role: z.string() }),
    },
  });
  const refresh = () =>
    callWire(
      server,
      { protocol: "connect-json", http: "h1" },
      {
        ...{ method: SessionService.method.refresh, headers: {} },
        messages: [{ refreshToken: tokens.refreshToken }],
      },
    );
  refuse = async () => {};
  expect((await refresh()).code).toBe("ok");
  const asks: readonly Refused[] = [
    async (context, sessions) => void sessions.require(context),
    async (context, sessions) => void sessions.current(context),
    async (context, sessions) => void (await sessions.reauthenticate(context)),
  ];
  for (const ask of asks) {
    refuse = ask;
    const refused = await refresh();
    expect(refused.code).toBe("permission_denied");
    expect(refused.afterHeaders).toContain("CLAIM_REJECTED");
    expect(tokensIn(refused)).toEqual([]);
  }
  await server.close();
  await before.close();
});

test("every kind of call is covered", () => {
  expect(new Set(cells.map(({ kind }) => kind)).size).toBe(kinds.length);
});
