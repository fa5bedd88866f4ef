import {
  Code,
  ConnectError,
  createContextKey,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { composeGates, type RpcContext } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, signIn, watchNotes } = NotesService.method;

const userKey = createContextKey<string | undefined>(undefined, { description: "user" });

/** A service whose handlers know their caller from a context key that the application sets. */
function keyedRoutes(seen: (string | undefined)[]) {
  return (router: Parameters<Parameters<TestSessions["protect"]>[0]["routes"]>[0]) =>
    router.service(NotesService, {
      addNote(_request, { values }) {
        seen.push(values.get(userKey));
        return {};
      },
      signIn(_request, { values }) {
        seen.push(values.get(userKey));
        return {};
      },
      async *watchNotes(_request, { values }) {
        seen.push(values.get(userKey));
        yield {};
      },
    });
}

function setUser(read: (call: RpcContext) => string | undefined): Interceptor {
  return (next) => (request) => {
    request.contextValues.set(userKey, read(request));
    return next(request);
  };
}

describe("the session in an interceptor of the application", () => {
  const ways: readonly (readonly [string, (s: TestSessions, own: Interceptor) => object])[] = [
    ["inside protect", (s, own) => s.protect({ routes() {}, interceptors: [own] })],
    ["after the interceptor alone", (s, own) => ({ interceptors: [s.interceptor, own] })],
    ["after the gate alone", (s, own) => ({ requestGate: s.requestGate, interceptors: [own] })],
  ];
  it.each(ways)(
    "feat:K8 sets a context key of its own, for unary calls and streams: %s",
    async (_name, parts) => {
      const seen: (string | undefined)[] = [];
      const sessions = testSessions({ public: [signIn] });
      const own = setUser((call) => sessions.current(call)?.userId);
      const server = wireServer({ ...parts(sessions, own), routes: keyedRoutes(seen) });
      const { access } = await issueOn(sessions, "header");
      await server.call(addNote, {}, { bearer: access });
      await server.stream(watchNotes, {}, { bearer: access });
      await server.call(signIn, {}, { bearer: access });
      const userId = (await sessions.list({ userId: "alice" })).sessions[0]?.userId;
      expect(userId).toBe("alice");
      expect(seen).toEqual([userId, userId, undefined]);
    },
  );

  it("feat:K8 require refuses a visitor there as it does in a handler, and a public method is named", async () => {
    const sessions = testSessions({
      public: [signIn],
      methods: { "notes.v1.NotesService/AddNote": { auth: "optional" } },
    });
    const seen: (string | undefined)[] = [];
    const server = wireServer(
      sessions.protect({
        routes: keyedRoutes(seen),
        interceptors: [setUser((call) => sessions.require(call).userId)],
      }),
    );
    const visitor = await server.call(addNote, {});
    expect(visitor.error?.code).toBe(Code.Unauthenticated);
    expect(visitor.hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.SESSION_MISSING });
    const ofPublic = await server.call(signIn, {});
    expect(ofPublic.error?.rawMessage).toMatch(/SignIn, which is public/);
    expect(seen).toEqual([]);
  });

  it("feat:K8 requireFresh works there", async () => {
    const sessions = testSessions();
    const seen: (string | undefined)[] = [];
    const server = wireServer(
      sessions.protect({
        routes: keyedRoutes(seen),
        interceptors: [setUser((call) => sessions.requireFresh(call, "5m").userId)],
      }),
    );
    const { access } = await issueOn(sessions, "header");
    await server.call(addNote, {}, { bearer: access });
    sessions.clock.advance("10m");
    const later = await server.call(addNote, {}, { bearer: access });
    expect(later.error?.code).toBe(Code.PermissionDenied);
    expect(later.hint?.action).toBe(Action.STEP_UP);
    expect(seen).toEqual(["alice"]);
  });

  it.each([
    [
      "an interceptor",
      (s: TestSessions) => ({
        interceptors: [setUser((call) => s.current(call)?.userId), s.interceptor],
      }),
    ],
    [
      "a gate",
      (s: TestSessions) => ({
        requestGate: composeGates((context) => void s.current(context), s.requestGate),
      }),
    ],
  ])("an error says that %s ran too early", async (_name, parts) => {
    const sessions = testSessions();
    const server = wireServer({ ...parts(sessions), routes: keyedRoutes([]) });
    const { access } = await issueOn(sessions, "header");
    const { error } = await server.call(addNote, {}, { bearer: access });
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(
      /^nothing authenticates notes\.v1\.NotesService\/AddNote; .* Gates and interceptors that read the session must come after them$/,
    );
  });
});

describe("other principals on the same methods", () => {
  /** As the page about policies shows it. */
  function keyServer() {
    const sessions = testSessions({
      public: [signIn],
      methods: {
        "notes.v1.NotesService/AddNote": { auth: "optional", foreignBearer: "ignore" },
      },
    });
    const owners = new Map([["Bearer sk_live_51H8", "robot"]]);
    const ownerKey = createContextKey<string | undefined>(undefined);
    const callers: string[] = [];
    const callerOf = (context: HandlerContext): string =>
      context.values.get(ownerKey) ?? sessions.require(context).userId;
    const server = wireServer(
      sessions.protect({
        routes: (router) =>
          router.service(NotesService, {
            addNote(_request, context) {
              callers.push(callerOf(context));
              return {};
            },
            listNotes(_request, context) {
              callers.push(callerOf(context));
              return {};
            },
            signIn: () => ({}),
          }),
        requestGate(context) {
          if (sessions.current(context) === undefined) {
            const key = context.requestHeader.get("authorization") ?? "";
            context.values.set(ownerKey, owners.get(key));
          }
        },
      }),
    );
    return { sessions, server, callers };
  }

  it("feat:B9 a gate of the application admits the owner of an API key beside sessions, and nobody else", async () => {
    const { sessions, server, callers } = keyServer();
    const { access } = await issueOn(sessions, "header");
    expect((await server.call(addNote, {}, { bearer: "sk_live_51H8" })).error).toBeUndefined();
    expect((await server.call(addNote, {}, { bearer: access })).error).toBeUndefined();
    expect(callers).toEqual(["robot", "alice"]);
    for (const presented of [{}, { bearer: "sk_live_unknown" }]) {
      const { error, hint } = await server.call(addNote, {}, presented);
      expect(error).toBeInstanceOf(ConnectError);
      expect(error?.code).toBe(Code.Unauthenticated);
      expect(hint?.action).toBe(Action.SIGN_IN);
    }
    // Without the policy, a key opens no other method. A visitor may still sign in with one.
    const listed = await server.call(NotesService.method.listNotes, {}, { bearer: "sk_live_51H8" });
    expect(listed.error?.code).toBe(Code.Unauthenticated);
    expect((await server.call(signIn, {}, { bearer: "sk_live_51H8" })).error).toBeUndefined();
    expect(callers).toEqual(["robot", "alice"]);
  });

  it("feat:B9 an ended session is refused before that gate, so that a key is never looked up instead", async () => {
    const { sessions, server, callers } = keyServer();
    const { access, revoke } = await issueOn(sessions, "header");
    await revoke();
    const { error } = await server.call(addNote, {}, { bearer: access });
    expect(error?.code).toBe(Code.Unauthenticated);
    expect(callers).toEqual([]);
  });
});
