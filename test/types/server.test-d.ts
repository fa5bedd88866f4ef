import { createRouterTransport, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Session, SessionError, Sessions } from "rpc-session";
import type { testSessions } from "rpc-session/testing";
import { describe, expectTypeOf, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

declare const sessions: Sessions;
declare const context: HandlerContext;

describe("types of the server", () => {
  it("getSession returns undefined only if no session is required", () => {
    expectTypeOf(sessions.getSession(context)).resolves.toEqualTypeOf<Session>();
    expectTypeOf(
      sessions.getSession(context, { required: true }),
    ).resolves.toEqualTypeOf<Session>();
    expectTypeOf(sessions.getSession(context, { required: false })).resolves.toEqualTypeOf<
      Session | undefined
    >();
    expectTypeOf(sessions.require(context)).toEqualTypeOf<Session>();
    expectTypeOf(sessions.current(context)).toEqualTypeOf<Session | undefined>();
  });

  it("create and issue take the same options, a transport included; fork takes a duration or any", () => {
    const options = { userId: "alice", transport: "cookie" } as const;
    expectTypeOf<typeof sessions.create>().toBeCallableWith(context, options);
    expectTypeOf<typeof sessions.issue>().toBeCallableWith(options);
    expectTypeOf<typeof sessions.fork>().toBeCallableWith(context, { freshWithin: "1h" });
    expectTypeOf<typeof sessions.fork>().toBeCallableWith(context, { freshWithin: "any" });
    // @ts-expect-error: not a duration
    expectTypeOf<typeof sessions.fork>().toBeCallableWith(context, { freshWithin: "never" });
  });

  it("getSession accepts any exchange, not only a HandlerContext", () => {
    const exchange = {
      requestHeader: new Headers(),
      responseHeader: new Headers(),
      requestMethod: "POST",
    };
    expectTypeOf(sessions.getSession(exchange)).resolves.toEqualTypeOf<Session>();
  });

  it("protect keeps the adapter's options and types inline routes, destructured or not", () => {
    const options = sessions.protect({
      routes: (router) => router.service(NotesService, {}),
      requestPathPrefix: "/api",
    });
    expectTypeOf(options.requestPathPrefix).toEqualTypeOf<string>();
    expectTypeOf(connectNodeAdapter).toBeCallableWith(options);
    const { routes, ...router } = sessions.protect({
      routes: (r) => r.service(NotesService, { listNotes: (_request, _context) => ({}) }),
    });
    expectTypeOf(createRouterTransport).toBeCallableWith(routes, { router });
  });

  it("requestGate, interceptor and service fit Connect's options", () => {
    expectTypeOf(sessions.interceptor).toExtend<Interceptor>();
    expectTypeOf(connectNodeAdapter).toBeCallableWith({
      routes: (router) => router.service(NotesService, {}),
      requestGate: sessions.requestGate,
      interceptors: [sessions.interceptor],
    });
  });

  it("durations, kinds and reasons are literal types", () => {
    expectTypeOf<"15 minutes">().not.toExtend<
      NonNullable<Parameters<typeof testSessions>[0]>["clockSkew"]
    >();
    expectTypeOf<"90d">().toExtend<NonNullable<Parameters<typeof testSessions>[0]>["clockSkew"]>();
    expectTypeOf<SessionError["kind"]>().toEqualTypeOf<
      "unauthorized" | "tryRefreshToken" | "forbidden" | "unavailable" | "general"
    >();
    expectTypeOf<"TOKEN_THEFT">().toExtend<SessionError["reason"]>();
    expectTypeOf<"NO_SUCH_REASON">().not.toExtend<SessionError["reason"]>();
  });
});
