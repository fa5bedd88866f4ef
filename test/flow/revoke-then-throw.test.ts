import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import type { TestSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { clearedCookies, leaksOf } from "../helpers/golden.ts";
import { cells, kinds } from "../helpers/kinds.ts";
import { present } from "../helpers/presented.ts";
import { type NotesServer, type NotesServerOptions, startNotes } from "../helpers/server.ts";
import { callWire, wireName } from "../helpers/wire.ts";

/** Every method revokes the session and then fails; the bidi method does so after its first message. */
function failingService(sessions: TestSessions) {
  const fail = async (context: HandlerContext): Promise<never> => {
    await sessions.require(context).revoke();
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
    server = await startNotes({ adapt });
  });
  afterAll(() => server.close());

  for (const { kind, wire } of cells) {
    const late = kind.name === "bidi";
    const title = late ? "is too late to clear cookies" : "clears the cookies";
    test(`feat:Q1 a handler that revokes and throws ${title}: ${kind.name}, ${wireName(wire)}`, async () => {
      const { headers, secrets } = await present(server, "cookie");
      const result = await callWire(server, wire, { ...kind, headers });
      expect(result.code).toBe("not_found");
      expect(result.details).toEqual([]);
      expect(result.setCookie).toEqual(late ? [] : clearedCookies);
      expect(result.headers.get("cache-control")).toBe("no-store");
      expect(result.headers.has("rpcsession-session")).toBe(!late);
      expect(leaksOf(result, secrets)).toEqual([]);

      // The next call clears cookies that this response could not clear.
      const next = { ...(kinds[0] ?? kind), headers };
      const refused = await callWire(server, { ...wire, protocol: "connect-json" }, next);
      expect(refused.code).toBe("unauthenticated");
      expect(refused.setCookie).toEqual(late ? clearedCookies : []);
    });
  }
});
