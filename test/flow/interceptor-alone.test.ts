import type { ConnectRouter } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import {
  type Cell,
  clearedCookies,
  type Facts,
  factsOf,
  leaksOf,
  passedFacts,
  type RefusalLine,
  readRefusal,
  refusalFacts,
  writtenCookies,
} from "../helpers/golden.ts";
import { cells, seedNote } from "../helpers/kinds.ts";
import { type Presented, present, sameOrigin } from "../helpers/presented.ts";
import { type NotesServer, type NotesServerOptions, startNotes } from "../helpers/server.ts";
import {
  callSession,
  refreshMethod,
  signInMethod,
  signOutMethod,
} from "../helpers/session-calls.ts";
import * as state from "../helpers/states.ts";
import { callWire, wireName, wires } from "../helpers/wire.ts";
import { sendH1 } from "../helpers/wire-http.ts";

/** No gate: the simplest way to add sessions to a router. */
const alone: NotesServerOptions = {
  adapt: (sessions, routes) => ({
    interceptors: [sessions.interceptor],
    routes(router) {
      routes(router);
      router.service(SessionService, sessions.service);
    },
  }),
};

type Row = readonly [name: string, given: state.State, expected: RefusalLine | "passes"];

// biome-ignore format: a table
const rows: readonly Row[] = [
  ["valid", state.valid, "passes"],
  ["valid header", state.headerValid, "passes"],
  ["none", state.none, "unauthenticated SIGN_IN SESSION_MISSING KEEP unnamed left"],
  ["expired", state.expired, "unauthenticated REFRESH TOKEN_EXPIRED KEEP named left"],
  ["malformed alone", state.malformedAlone, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["revoked", state.revoked, "unauthenticated SIGN_IN SESSION_REVOKED CLEAR named cleared"],
  ["cross-site", state.crossSite, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
];

/** As with the gate, but only a failed Connect unary call has response headers to write to. */
function refusedAlone(line: RefusalLine, cell: Cell, presented: Presented): Facts {
  const behindGate = refusalFacts(readRefusal(line), cell, presented);
  return behindGate.httpStatus === 200 ? { ...behindGate, setCookie: [], headers: {} } : behindGate;
}

for (const [name, given, expected] of rows) {
  describe(`the interceptor alone, ${name}`, () => {
    let server: NotesServer;
    let presented: Presented;
    beforeAll(async () => {
      server = await startNotes(alone);
      presented = await given.present(server, (headers) => seedNote(server, headers));
    });
    afterAll(() => server.close());

    for (const { kind, wire } of cells) {
      test(`${kind.name}, ${wireName(wire)}: ${expected}`, async () => {
        server.calls.handled = 0;
        const result = await callWire(server, wire, { ...kind, headers: presented.headers });
        const cell = { wire, ...kind };
        const passed = expected === "passes";
        expect(factsOf(result)).toEqual(
          passed ? passedFacts(cell) : refusedAlone(expected, cell, presented),
        );
        expect(leaksOf(result, presented.secrets)).toEqual([]);
        expect(result.messages).toHaveLength(passed ? kind.answers : 0);
        expect(server.calls.handled).toBe(passed ? 1 : 0);
      });
    }
  });
}

describe("the interceptor alone", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes(alone);
  });
  afterAll(() => server.close());

  test("reads a body before it refuses the call: an invalid message gets 400", async () => {
    const { status } = await sendH1(server.port.h1, {
      method: "POST",
      path: "/notes.v1.NotesService/AddNote",
      headers: { "content-type": "application/json" },
      body: Buffer.from('{"note":'),
    });
    expect(status).toBe(400);
  });

  test.each(wires.map((wire) => [wireName(wire), wire] as const))(
    "writes and clears cookies on success, %s",
    async (_name, wire) => {
      const nobody = { headers: sameOrigin, session: "", secrets: [] };
      const { access, refresh } = writtenCookies(0);
      const signIn = { method: signInMethod, request: nobody };
      const signedIn = await callSession(server, wire, signIn);
      expect(signedIn.facts.setCookie).toEqual([access, refresh]);
      expect(signedIn.leaks).toEqual([]);

      const request = await present(server, "cookie");
      const refreshed = await callSession(server, wire, { method: refreshMethod, request });
      expect(refreshed.facts.setCookie).toEqual([access]);
      expect(refreshed.leaks).toEqual([]);
      const signedOut = await callSession(server, wire, { method: signOutMethod, request });
      expect(signedOut.facts.setCookie).toEqual(clearedCookies);
      expect(signedOut.leaks).toEqual([]);
    },
  );
});

/** Options of a single service replace the router's: our interceptor is dropped here. */
function withOwnInterceptors(routes: (router: ConnectRouter) => void) {
  return (router: ConnectRouter): void => {
    routes({
      ...router,
      service: (service, implementation) =>
        router.service(service, implementation, { interceptors: [] }),
    });
  };
}

describe.each([
  {
    name: "an interceptor that a service's own options replace",
    adapt: (sessions, routes) => ({
      interceptors: [sessions.interceptor],
      routes: withOwnInterceptors(routes),
    }),
  },
  { name: "no protection at all", adapt: (_sessions, routes) => ({ routes }) },
] satisfies (NotesServerOptions & { name: string })[])("$name", ({ adapt }) => {
  let server: NotesServer;
  let presented: Presented;
  beforeAll(async () => {
    server = await startNotes({ adapt });
    presented = await present(server, "cookie");
  });
  afterAll(() => server.close());

  test.each(cells)(
    "sessions.require fails closed: $kind.name, $wire.protocol over $wire.http",
    async ({ kind, wire }) => {
      const result = await callWire(server, wire, { ...kind, headers: presented.headers });
      expect(result.code).toBe("internal");
      expect(result.message).toMatch(/^nothing authenticates notes\.v1\.NotesService\/\w+; /);
      expect(result.message).toMatch(/sessions\.protect\(\).*requestGate.*interceptor/);
      expect(result.details).toEqual([]);
      expect(result.setCookie).toEqual([]);
      expect(result.messages).toEqual([]);
      expect(leaksOf(result, presented.secrets)).toEqual([]);
    },
  );
});

test("feat:K1 protect authenticates a service with its own options", async () => {
  const server = await startNotes({
    adapt: (sessions, routes) => sessions.protect({ routes: withOwnInterceptors(routes) }),
  });
  const { headers } = await present(server, "cookie");
  for (const { kind, wire } of cells) {
    const refused = await callWire(server, wire, { ...kind, headers: {} });
    expect(refused.code).toBe("unauthenticated");
    const passed = await callWire(server, wire, { ...kind, headers });
    expect(passed.code).toBe("ok");
  }
  await server.close();
});
