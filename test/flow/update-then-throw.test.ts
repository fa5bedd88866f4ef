import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type HandlerContext,
} from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { createSessionClient, type TransportParts } from "rpc-session/client";
import type { TestSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { decodeNotice } from "../../src/base/wire.ts";
import { payloadOf } from "../helpers/api.ts";
import { leaksOf } from "../helpers/golden.ts";
import { cells, kinds } from "../helpers/kinds.ts";
import { accessCookie, byCookie, byHeader } from "../helpers/presented.ts";
import { type NotesServer, type NotesServerOptions, startNotes } from "../helpers/server.ts";
import { callWire, type WireResult, wireName } from "../helpers/wire.ts";

/** Every method changes the claims and then fails; the bidi method does so after its first message. */
function failingService(sessions: TestSessions) {
  const fail = async (context: HandlerContext): Promise<never> => {
    await sessions.require(context).updateClaims({ role: "admin" });
    throw new ConnectError("no such list", Code.NotFound);
  };
  return {
    addNote: (_request: unknown, context: HandlerContext) => fail(context),
    listNotes: (_request: unknown, context: HandlerContext) => fail(context),
    importNotes: (_requests: unknown, context: HandlerContext) => fail(context),
    async *watchNotes(_request: unknown, context: HandlerContext) {
      yield await fail(context);
    },
    async *syncNotes(_requests: unknown, context: HandlerContext) {
      yield { number: 1 };
      await fail(context);
    },
  };
}

function accessIn(result: WireResult, transport: "cookie" | "header"): string | undefined {
  const start = `${accessCookie}=`;
  return transport === "header"
    ? (result.headers.get("rpcsession-access-token") ?? undefined)
    : result.setCookie
        .find((c) => c.startsWith(start))
        ?.slice(start.length)
        .replace(/;.*/, "");
}

describe.each([
  {
    name: "protect",
    adapt: (sessions) =>
      sessions.protect({
        routes: (router) => router.service(NotesService, failingService(sessions)),
      }),
  },
  {
    name: "the interceptor alone",
    adapt: (sessions) => ({
      interceptors: [sessions.interceptor],
      routes: (router) => router.service(NotesService, failingService(sessions)),
    }),
  },
] satisfies (NotesServerOptions & { name: string })[])("behind $name", ({ adapt }) => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({
      adapt,
      sessions: { public: [], clientClaims: ({ role = null }) => ({ role }) },
    });
  });
  afterAll(() => server.close());

  for (const { kind, wire } of cells) {
    for (const transport of ["cookie", "header"] as const) {
      const late = kind.name === "bidi";
      const what = late ? "is too late and gets an error" : "still sends the new token";
      test(`feat:L6 feat:E1 a handler that updates claims and throws ${what}: ${transport}, ${kind.name}, ${wireName(wire)}`, async () => {
        const { session, tokens } = await server.sessions.issue({ userId: "alice", transport });
        const { headers, secrets } =
          transport === "cookie"
            ? byCookie(session.id, { access: tokens.accessToken, refresh: tokens.refreshToken })
            : byHeader(session.id, tokens.accessToken);
        const result = await callWire(server, wire, { ...kind, headers });
        const access = accessIn(result, transport);
        expect(leaksOf(result, secrets)).toEqual([]);
        if (late) {
          expect(result.code).toBe("internal");
          expect(result.message).toMatch(
            /^session\.updateClaims: the response headers have already been sent/,
          );
          expect([access, result.headers.get("rpcsession-session")]).toEqual([undefined, null]);
          expect((await server.sessions.find(session.id))?.claims).toEqual({});
          return;
        }
        expect(result.code).toBe("not_found");
        const [before, after] = [payloadOf(tokens.accessToken), payloadOf(access)];
        expect(after).toMatchObject({ role: "admin", cv: 1, exp: before.exp, sid: session.id });
        expect(decodeNotice(result.headers.get("rpcsession-session"))).toMatchObject({
          event: "reissued",
          session: session.id,
          claimsVersion: 1,
          claims: { role: "admin" },
        });
        expect(result.headers.get("cache-control")).toContain("no-store");
        expect(result.headers.has("rpcsession-refresh-token")).toBe(false);
        expect(result.setCookie).toHaveLength(transport === "cookie" ? 1 : 0);
        // The token is in the headers only, where neither scripts of the page nor logs find it.
        expect(result.afterHeaders).not.toContain(access);
        expect(
          result.inBody.map(([name]) => name).filter((n) => n.startsWith("rpcsession")),
        ).toEqual([]);
      });
    }
  }
});

describe("the session client reads the new claims from the failed call", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({
      sessions: { clientClaims: ({ role = null }) => ({ role }) },
      adapt: (sessions) =>
        sessions.protect({
          routes: (router) =>
            router.service(NotesService, {
              ...failingService(sessions),
              async signIn(_, context) {
                await sessions.create(context, { userId: "alice" });
                return {};
              },
            }),
        }),
    });
  });
  afterAll(() => server.close());

  const h1 = { httpVersion: "1.1" } as const;
  const transports = {
    "Connect, HTTP/1.1": (parts: TransportParts) =>
      createConnectTransport({ baseUrl: `http://127.0.0.1:${server.port.h1}`, ...h1, ...parts }),
    "gRPC-Web, HTTP/1.1": (parts: TransportParts) =>
      createGrpcWebTransport({ baseUrl: `http://127.0.0.1:${server.port.h1}`, ...h1, ...parts }),
    gRPC: (parts: TransportParts) =>
      createGrpcTransport({
        baseUrl: `http://127.0.0.1:${server.port.h2c}`,
        sessionManager: new Http2SessionManager(`http://127.0.0.1:${server.port.h2c}`, {
          idleConnectionTimeoutMs: 200,
        }),
        ...parts,
      }),
  };

  const calls = {
    unary: (notes: Client<typeof NotesService>) => notes.addNote({}),
    "server stream": async (notes: Client<typeof NotesService>) => {
      for await (const _message of notes.watchNotes({})) {
        expect.unreachable();
      }
    },
    "client stream": (notes: Client<typeof NotesService>) =>
      notes.importNotes((async function* () {})()),
  };

  for (const [wire, transport] of Object.entries(transports)) {
    for (const [kind, call] of Object.entries(calls)) {
      test(`feat:L6 feat:L7 ${kind}, ${wire}`, async () => {
        const session = createSessionClient({ transport, clock: server.sessions.clock });
        const notes = createClient(NotesService, session.transport);
        await notes.signIn({});
        expect(session.claims).toEqual({ role: null });
        await expect(call(notes)).rejects.toMatchObject({ code: Code.NotFound });
        expect(session.claims).toEqual({ role: "admin" });
      });
    }
  }
});

test("feat:L6 every kind of call is covered", () => {
  expect(new Set(cells.map(({ kind }) => kind)).size).toBe(kinds.length);
});
