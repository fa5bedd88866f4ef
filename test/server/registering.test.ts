import { Code, createConnectRouter } from "@connectrpc/connect";
import { createSessions, type SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterEach, describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { listSessions, refresh } = SessionService.method;

function watched() {
  const events: SessionEvent[] = [];
  const sessions = testSessions({ onEvent: (event) => events.push(event) });
  const warnings = () => events.filter(({ type }) => type === "warning");
  const signIn = () => sessions.create(exchangeOf({}), { userId: "ada" });
  return { sessions, warnings, signIn };
}

describe("sessions.register", () => {
  it("feat:K10 serves SessionService in a router that nothing protects, with gate, interceptor and limit", async () => {
    const sessions = testSessions();
    const server = wireServer({ routes: (router) => sessions.register(router) });
    const { id, access, refresh: refreshToken } = await issueOn(sessions, "header");
    const listed = await server.call(listSessions, {}, { bearer: access });
    expect(listed.message?.sessions.map((session) => session.id)).toEqual([id]);
    const refreshed = await server.call(refresh, { refreshToken });
    expect(refreshed.headers.get("rpcsession-access-token")).not.toBeNull();
    expect((await server.call(listSessions, {})).error?.code).toBe(Code.Unauthenticated);
    const tooLong = await server.call(refresh, { refreshToken: "x".repeat(5000) });
    expect(tooLong.error?.code).toBe(Code.ResourceExhausted);
  });

  it("feat:K10 inside protect it keeps the interceptors of the application", async () => {
    const sessions = testSessions();
    const seen: string[] = [];
    const server = wireServer(
      sessions.protect({
        routes: (router) => sessions.register(router),
        interceptors: [
          (next) => (request) => {
            seen.push(request.method.name);
            return next(request);
          },
        ],
      }),
    );
    const { access } = await issueOn(sessions, "header");
    expect((await server.call(listSessions, {}, { bearer: access })).error).toBeUndefined();
    expect(seen).toEqual(["ListSessions"]);
  });

  it("feat:K10 completes a router that a package builds from the gate and the interceptors of protect", async () => {
    const sessions = testSessions();
    const { routes: _dropped, ...parts } = sessions.protect({ routes: () => {} });
    const server = wireServer({
      ...parts,
      routes: (router) => {
        router.service(NotesService, {
          listNotes: (_request, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
        });
        sessions.check(sessions.register(router));
      },
    });
    const { access, refresh: refreshToken } = await issueOn(sessions, "header");
    const { listNotes } = NotesService.method;
    expect((await server.call(listNotes, {}, { bearer: access })).error).toBeUndefined();
    expect((await server.call(listNotes, {})).error?.code).toBe(Code.Unauthenticated);
    const refreshed = await server.call(refresh, { refreshToken });
    expect(refreshed.headers.get("rpcsession-access-token")).not.toBeNull();
  });

  it("feat:K10 adds nothing to a router that serves it already, and returns the router", () => {
    const sessions = testSessions();
    const router = createConnectRouter();
    expect(sessions.register(sessions.register(router))).toBe(router);
    expect(router.handlers).toHaveLength(SessionService.methods.length);
  });
});

describe("a sign-in without SessionService", () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it("feat:K10 warns once that clients cannot refresh, and says what to call", async () => {
    const { sessions, warnings, signIn } = watched();
    // A framework owns the routes, so those that protect returns are never built.
    sessions.protect({ routes: () => {}, readMaxBytes: 1024 });
    await signIn();
    await signIn();
    expect(warnings()).toEqual([
      {
        type: "warning",
        option: "routes",
        advice: expect.stringMatching(
          /no router of this process has registered SessionService.* call sessions\.register\(router\)/,
        ),
      },
    ]);
  });

  const ways: readonly (readonly [string, (sessions: TestSessions) => unknown])[] = [
    ["protect", (s) => wireServer(s.protect({ routes: () => {} }))],
    ["sessions.register", (s) => s.register(createConnectRouter())],
    [
      "router.service",
      (s) => createConnectRouter().service(SessionService, s.service, s.serviceOptions),
    ],
    [
      "a service with a method of the application",
      (s) => createConnectRouter().service(SessionService, { ...s.service, signOut: () => ({}) }),
    ],
  ];
  it.each(ways)("feat:K10 does not warn if it is registered by %s", async (_name, register) => {
    const { sessions, warnings, signIn } = watched();
    register(sessions);
    await signIn();
    expect(warnings().filter((event) => "option" in event && event.option === "routes")).toEqual(
      [],
    );
  });

  it("feat:N5 without onEvent and logger, warnings are printed; with one of them, they are not", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const required = { issuer: "https://api.example.com", secret: new Uint8Array(32).fill(7) };
    for (const listening of [{}, { onEvent: () => {} }]) {
      await using sessions = createSessions({ ...required, store: memoryStore(), ...listening });
      wireServer(sessions.protect({ routes: (router) => router.service(NotesService, {}) }));
    }
    expect(warn).toHaveBeenCalledOnce();
    expect(warn).toHaveBeenCalledWith(
      expect.stringMatching(/^rpc-session: .*pass readMaxBytes.* \(option readMaxBytes\)$/),
    );
  });
});
