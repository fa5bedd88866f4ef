// Raw response headers, as every adapter writes them.
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import type { Sessions } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { clearedCookies, maskTokens, writtenCookies } from "../helpers/golden.ts";
import { cookieHeader, sameOrigin } from "../helpers/presented.ts";
import { callWire, type WireCall, type WireResult } from "../helpers/wire.ts";
import { adapters, type Running } from "./adapters.ts";

const { signIn, listNotes, watchNotes, importNotes } = NotesService.method;

/** Signs in by a unary call and by a stream, then fails if the request asks for it. */
const routes =
  (sessions: Sessions) =>
  (router: ConnectRouter): void => {
    const begin = async (context: HandlerContext): Promise<void> => {
      context.responseHeader.append("set-cookie", "theme=dark; Path=/");
      await sessions.create(context, { userId: "alice" });
      if (context.requestHeader.has("then-fail")) {
        throw new ConnectError("no such note", Code.NotFound);
      }
    };
    router.service(NotesService, {
      async signIn(_request, context) {
        await begin(context);
        return {};
      },
      async *watchNotes(_request, context) {
        await begin(context);
        yield { note: { text: "milk" } };
      },
      listNotes: (_request, context) => ({
        notes: [{ text: sessions.require(context).userId }],
      }),
      async signOut(_request, context) {
        await sessions.require(context).revoke();
        return {};
      },
      async importNotes(requests) {
        let imported = 0;
        for await (const _ of requests) {
          imported++;
        }
        return { imported };
      },
    });
  };

describe.each(adapters)("$name", (adapter) => {
  let sessions: TestSessions;
  let server: Running;
  beforeAll(async () => {
    sessions = testSessions({
      public: [signIn],
      methods: { "notes.v1.NotesService/WatchNotes": { auth: "none" } },
    });
    server = await adapter.start(sessions, routes(sessions));
  });
  afterAll(async () => {
    await server.close();
    await sessions.close();
  });

  describe.each(adapter.protocols)("%s", (protocol) => {
    const call = (
      method: WireCall["method"],
      headers: Record<string, string>,
    ): Promise<WireResult> =>
      callWire(server, { protocol, http: adapter.http }, { method, messages: [{}], headers });
    const { access, refresh } = writtenCookies(0);
    const written = ["theme=dark; Path=/", access, refresh];
    const shapes = (result: WireResult): string[] => result.setCookie.map(maskTokens);

    describe.each([
      ["unary", signIn],
      ["server stream", watchNotes],
    ] as const)("%s", (_kind, method) => {
      it("feat:I8 feat:K5 writes both cookies next to the handler's own", async () => {
        const result = await call(method, sameOrigin);
        expect(result.code).toBe("ok");
        expect(shapes(result)).toEqual(written);
        expect(result.headers.get("cache-control")).toBe("no-store");
        expect(result.afterHeaders).not.toContain("rpcsession-");
      });

      it("feat:Q1 feat:I8 writes both cookies if the handler fails after the sign-in", async () => {
        const result = await call(method, { ...sameOrigin, "then-fail": "1" });
        expect(result.code).toBe("not_found");
        expect(shapes(result)).toEqual(written);
        expect(result.afterHeaders).not.toContain("rpcsession-");
      });
    });

    it.each([
      ["unary", listNotes],
      ["client stream", importNotes],
    ] as const)(
      "feat:Q1 clears both cookies of a session that is over, %s",
      async (_kind, method) => {
        const { session, tokens } = await sessions.issue({ userId: "alice", transport: "cookie" });
        const cookie = cookieHeader({ access: tokens.accessToken, refresh: tokens.refreshToken });
        expect((await call(method, { ...sameOrigin, cookie })).code).toBe("ok");
        await session.revoke();
        const result = await call(method, { ...sameOrigin, cookie });
        expect(result.code).toBe("unauthenticated");
        expect(result.setCookie).toEqual(clearedCookies);
        expect(result.headers.get("rpcsession-hint")).toBe("sign-in");
        expect(result.headers.get("www-authenticate")).toMatch(/^Bearer realm=/);
      },
    );

    it("feat:Q1 keeps cookies that only need a refresh", async () => {
      const { tokens } = await sessions.issue({ userId: "alice", transport: "cookie" });
      sessions.clock.advance("16m");
      const cookie = cookieHeader({ access: tokens.accessToken, refresh: tokens.refreshToken });
      const result = await call(listNotes, { ...sameOrigin, cookie });
      expect([result.code, result.setCookie]).toEqual(["unauthenticated", []]);
      expect(result.headers.get("rpcsession-hint")).toBe("refresh");
    });

    it("feat:J1 sends a program its tokens in headers, and reads them from headers", async () => {
      const { headers, setCookie } = await call(signIn, {});
      expect(setCookie).toEqual(["theme=dark; Path=/"]);
      const authorization = `Bearer ${headers.get("rpcsession-access-token")}`;
      expect(headers.get("rpcsession-refresh-token")).toMatch(/^[\w-]+\./);
      const { code, messages } = await call(listNotes, { authorization });
      expect([code, messages]).toEqual(["ok", [{ notes: [{ text: "alice" }] }]]);
    });
  });

  it.each(["connect-json", "connect-proto"] as const)(
    "feat:Q6 a Connect GET is served and not cached, %s",
    async (protocol) => {
      const { tokens } = await sessions.issue({ userId: "alice", transport: "cookie" });
      const cookie = cookieHeader({ access: tokens.accessToken });
      const result = await callWire(
        server,
        { protocol, http: adapter.http },
        { method: listNotes, messages: [{}], headers: { ...sameOrigin, cookie }, get: true },
      );
      expect(result.code).toBe("ok");
      expect(result.headers.get("cache-control")).toBe("private, no-store");
      expect(result.headers.get("vary")).toBe(
        "Cookie, Authorization, Sec-Fetch-Site, Origin, Referer",
      );
    },
  );
});
