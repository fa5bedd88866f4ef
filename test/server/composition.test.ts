import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import {
  Code,
  ConnectError,
  createClient,
  createContextValues,
  createRouterTransport,
  type HandlerContext,
} from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { composeGates } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { Presented } from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote } = NotesService.method;

/** A handler that does not read the session: its callers were admitted before it. */
function openRoutes(handled: { count: number }) {
  return {
    routes: (router: Parameters<ReturnType<typeof notesApp>["routes"]>[0]) =>
      router.service(NotesService, {
        addNote() {
          handled.count++;
          return {};
        },
      }),
  };
}

describe("parts combined by hand", () => {
  type Parts = (sessions: TestSessions) => Partial<Parameters<typeof wireServer>[0]>;
  const lenient = (sessions: TestSessions) => async (context: HandlerContext) => {
    await sessions.getSession(context, { required: false, doAntiCsrfCheck: false });
  };
  const swallowing = (sessions: TestSessions) => async (context: HandlerContext) => {
    await sessions.getSession(context).catch(() => {});
  };
  const compositions: readonly (readonly [string, Parts])[] = [
    [
      "a custom gate with lenient options, then the interceptor",
      (s) => ({ requestGate: lenient(s), interceptors: [s.interceptor] }),
    ],
    [
      "a custom gate that swallows errors, then the interceptor",
      (s) => ({ requestGate: swallowing(s), interceptors: [s.interceptor] }),
    ],
    [
      "a gate with lenient options before requestGate",
      (s) => ({ requestGate: composeGates(lenient(s), s.requestGate) }),
    ],
    [
      "a gate that swallows errors before requestGate",
      (s) => ({ requestGate: composeGates(swallowing(s), s.requestGate) }),
    ],
    ["the interceptor twice", (s) => ({ interceptors: [s.interceptor, s.interceptor] })],
    [
      "an interceptor in between that replaces the headers",
      (s) => ({
        requestGate: s.requestGate,
        interceptors: [
          (next) => (request) => next({ ...request, header: new Headers(request.header) }),
          s.interceptor,
        ],
      }),
    ],
  ];

  const refusedRequests: readonly (readonly [string, (s: TestSessions) => Promise<Presented>])[] = [
    ["no tokens", async () => ({})],
    [
      "a revoked session",
      async (s) => {
        const { access, revoke } = await issueOn(s, "header");
        await revoke();
        return { bearer: access };
      },
    ],
    ["no anti-CSRF token", async (s) => ({ access: (await issueOn(s, "cookie")).access })],
  ];

  describe.each(compositions)("%s", (_name, parts) => {
    it.each(refusedRequests)("refuses a request with %s", async (_what, request) => {
      const handled = { count: 0 };
      const sessions = testSessions({ antiCsrf: "token" });
      const server = wireServer({ ...openRoutes(handled), ...parts(sessions) });
      const answer = await server.call(addNote, {}, await request(sessions));
      // Internal if a custom gate throws a SessionError, which Connect does not know.
      expect([Code.Unauthenticated, Code.Internal]).toContain(answer.error?.code);
      expect(handled.count).toBe(0);
    });

    it("admits a valid session", async () => {
      const handled = { count: 0 };
      const sessions = testSessions();
      const server = wireServer({ ...openRoutes(handled), ...parts(sessions) });
      const { access } = await issueOn(sessions, "header");
      expect((await server.call(addNote, {}, { bearer: access })).error).toBeUndefined();
      expect(handled.count).toBe(1);
    });
  });
});

describe("one ContextValues object for several requests", () => {
  it.each(["protect", "interceptor alone"] as const)(
    "is detected: no caller is mistaken for another, and the error explains the cause (%s)",
    async (way) => {
      const sessions = testSessions({ public: [NotesService.method.signIn] });
      const shared = createContextValues();
      const app = notesApp(sessions);
      const options =
        way === "protect"
          ? sessions.protect(app)
          : { ...app, interceptors: [sessions.interceptor] };
      const server = createServer(connectNodeAdapter({ ...options, contextValues: () => shared }));
      await new Promise<void>((resolve) => {
        server.listen(0, "127.0.0.1", resolve);
      });
      const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const client = createClient(
        NotesService,
        createConnectTransport({ baseUrl, httpVersion: "1.1" }),
      );
      const { access } = await issueOn(sessions, "header");
      const headers = { authorization: `Bearer ${access}` };
      await client.addNote({ note: { text: "alice's" } }, { headers });
      const error = await client.listNotes({}).catch((reason) => ConnectError.from(reason));
      expect(error).toMatchObject({ code: Code.Internal });
      expect((error as ConnectError).rawMessage).toMatch(/contextValues .* create one for each/);
      server.closeAllConnections();
      server.close();
    },
  );
});

describe("without any protection", () => {
  it("a sign-in is reported as misuse before a session is created", async () => {
    const sessions = testSessions();
    const client = createClient(NotesService, createRouterTransport(notesApp(sessions).routes));
    const error = await client.signIn({ user: "a" }).catch((reason) => ConnectError.from(reason));
    expect(error).toMatchObject({ code: Code.Internal });
    expect((error as ConnectError).rawMessage).toMatch(/^nothing authenticates .*protect/);
  });

  it("handlers that call getSession detect a ContextValues object that several requests share", async () => {
    const sessions = testSessions();
    const shared = createContextValues();
    const seen: string[] = [];
    const listener = connectNodeAdapter({
      contextValues: () => shared,
      routes(router) {
        router.service(SessionService, sessions.service);
        router.service(NotesService, {
          async listNotes(_request, context) {
            const session = await sessions.getSession(context, { required: false });
            // A second look finds the same call.
            expect(await sessions.getSession(context, { required: false })).toEqual(session);
            seen.push(session?.id ?? "nobody");
            return {};
          },
        });
      },
    });
    const baseUrl = await listenForTest(listener);
    const transport = createConnectTransport({ baseUrl, httpVersion: "1.1" });
    const { id, access, refresh } = await issueOn(sessions, "cookie");
    const cookie = `__Host-Http-rpcsession-access=${access}; __Host-Http-rpcsession-refresh=${refresh}`;
    const headers = { cookie, "sec-fetch-site": "same-origin" };
    await createClient(NotesService, transport).listNotes({}, { headers });
    for (const call of [
      () => createClient(NotesService, transport).listNotes({}),
      () => createClient(SessionService, transport).refresh({}),
    ]) {
      await expect(call()).rejects.toMatchObject({
        code: Code.Internal,
        rawMessage: expect.stringMatching(/contextValues .* create one for each/),
      });
    }
    expect(seen).toEqual([id]);
  });
});
