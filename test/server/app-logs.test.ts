import {
  Code,
  ConnectError,
  type createConnectRouter,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { redactTokens, type SessionEvent } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, listNotes, signIn } = NotesService.method;
const { refresh, signOut } = SessionService.method;

/** A logging interceptor as applications write it: it prints everything that it can reach. */
function logging(lines: string[], headersOf: (headers: Headers) => object): Interceptor {
  const print = (line: object): void => {
    lines.push(
      JSON.stringify(line, (_key, value: unknown) =>
        typeof value === "bigint" ? String(value) : value,
      ),
    );
  };
  return (next) => async (request) => {
    print({
      method: request.method.name,
      url: request.url,
      headers: headersOf(request.header),
      message: request.message,
    });
    try {
      const response = await next(request);
      const { header, trailer, message } = response;
      print({ headers: headersOf(header), trailers: headersOf(trailer), message });
      return response;
    } catch (error) {
      print({ message: String(error), metadata: headersOf(ConnectError.from(error).metadata) });
      throw error;
    }
  };
}

function serve(interceptor: Interceptor, ways: "protect" | "register" = "protect") {
  const sessions = testSessions({ public: [signIn], clientClaims: ({ plan }) => ({ plan }) });
  const routes = (router: ReturnType<typeof createConnectRouter>) =>
    router.service(NotesService, {
      async signIn(request, context) {
        const claims = { plan: "CANARY-claim" };
        await sessions.create(context, { userId: request.user, claims });
        return {};
      },
      addNote: () => ({}),
    });
  const server = wireServer(
    ways === "protect"
      ? sessions.protect({ routes, interceptors: [interceptor] })
      : {
          requestGate: sessions.requestGate,
          interceptors: [sessions.interceptor, interceptor],
          routes: (router) => sessions.register(routes(router)),
        },
  );
  return { sessions, server };
}

/** Every token and every part that proves one. */
function secretsIn(headers: Headers): string[] {
  const tokens = [
    headers.get("rpcsession-access-token"),
    headers.get("rpcsession-refresh-token"),
    ...headers.getSetCookie().map((cookie) => /=([^;]*)/.exec(cookie)?.[1]),
  ].filter((token): token is string => typeof token === "string" && token !== "");
  return tokens.flatMap((token) => [token, token.split(".").at(-1) ?? token]);
}

describe("the log of an application", () => {
  it.each(["protect", "register"] as const)(
    "feat:N9 prints no token with redactTokens, whatever it prints: headers, messages and errors (%s)",
    async (way) => {
      const lines: string[] = [];
      const { server } = serve(logging(lines, redactTokens), way);
      const byHeader = await server.call(signIn, { user: "ada" });
      const byCookie = await server.call(
        signIn,
        { user: "ada" },
        { headers: { origin: "https://test.example", "sec-fetch-site": "same-origin" } },
      );
      const secrets = [...secretsIn(byHeader.headers), ...secretsIn(byCookie.headers)];
      expect(secrets.length).toBeGreaterThanOrEqual(8);
      const access = byHeader.headers.get("rpcsession-access-token") ?? "";
      const refreshToken = byHeader.headers.get("rpcsession-refresh-token") ?? "";
      await server.call(addNote, { note: { text: "hello" } }, { bearer: access });
      await server.call(listNotes, {}, { bearer: access });
      // The claims are in a header of each sign-in. The message of a refresh has those for the client.
      expect(lines.join()).not.toContain("CANARY-claim");
      const refreshed = await server.call(refresh, { refreshToken });
      expect(refreshed.error).toBeUndefined();
      secrets.push(...secretsIn(refreshed.headers));
      const out = await server.call(signOut, { refreshToken });
      expect(out.error).toBeUndefined();

      expect(lines.length).toBeGreaterThanOrEqual(8);
      const log = lines.join("\n");
      expect(log).toContain('"authorization":"[hidden]"');
      expect(log).toContain("hello");
      for (const secret of secrets) {
        expect(log.includes(secret)).toBe(false);
      }
    },
  );

  it("would print them without it, so the test above shows something", async () => {
    const lines: string[] = [];
    const { server } = serve(logging(lines, Object.fromEntries));
    const { headers } = await server.call(signIn, { user: "ada" });
    expect(lines.join("\n")).toContain(headers.get("rpcsession-access-token"));
  });

  it("feat:N9 a refresh token leaves its message before interceptors of the application run", async () => {
    const seen: unknown[] = [];
    const { sessions, server } = serve((next) => (request) => {
      seen.push(request.message);
      return next(request);
    });
    const { id, refresh: token } = await issueOn(sessions, "header");
    const refreshed = await server.call(refresh, { refreshToken: token });
    expect(refreshed.message?.session?.id).toBe(id);
    expect((await server.call(signOut, { refreshToken: token })).error).toBeUndefined();
    expect(await sessions.find(id)).toBeUndefined();
    expect(seen).toMatchObject([{ refreshToken: "" }, { refreshToken: "" }]);
  });
});

describe("errors of a gate of the application", () => {
  function gated(throwing: (context: HandlerContext, sessions: TestSessions) => unknown) {
    const events: SessionEvent[] = [];
    const sessions = testSessions({
      onEvent: (event) => events.push(event),
      methods: { "notes.v1.NotesService/*": { auth: "optional" } },
    });
    const server = wireServer(
      sessions.protect({
        routes: (router) => router.service(NotesService, { addNote: () => ({}) }),
        readMaxBytes: 1024,
        async requestGate(context) {
          await throwing(context, sessions);
        },
      }),
    );
    return { server, events };
  }

  it("feat:N9 keep their code, and are reported with the error", async () => {
    const cause = new Error("quota store");
    const error = new ConnectError("slow down", Code.ResourceExhausted, {}, [], cause);
    const { server, events } = gated(() => {
      throw error;
    });
    const answer = await server.call(addNote, {});
    expect(answer.error).toMatchObject({ code: Code.ResourceExhausted, rawMessage: "slow down" });
    const procedure = "notes.v1.NotesService/AddNote";
    expect(events).toEqual([{ type: "gateThrew", procedure, code: "ResourceExhausted", error }]);
    expect(events[0]).toHaveProperty("error.cause", cause);
  });

  it("feat:N9 that are no ConnectError are Internal for the client, and reported as they are", async () => {
    const error = new Error("the password is hunter2");
    const { server, events } = gated(() => Promise.reject(error));
    const answer = await server.call(addNote, {});
    expect(answer.error?.code).toBe(Code.Internal);
    expect(answer.body).not.toContain("hunter2");
    expect(events).toMatchObject([{ type: "gateThrew", code: "Internal", error }]);
  });

  it("feat:N9 that are session errors keep their hint, and are reported once, as refusals", async () => {
    for (const read of [
      (context: HandlerContext, sessions: TestSessions) => sessions.require(context),
      (context: HandlerContext, sessions: TestSessions) => sessions.getSession(context),
    ]) {
      const { server, events } = gated(read);
      const answer = await server.call(addNote, {});
      expect(answer.error?.code).toBe(Code.Unauthenticated);
      expect(answer.hint?.action).toBe(Action.SIGN_IN);
      expect(events).toMatchObject([{ type: "refused", reason: "SESSION_MISSING" }]);
    }
  });

  it("feat:N9 of a single service are reported too, and a flood of them is counted", async () => {
    const events: SessionEvent[] = [];
    const sessions = testSessions({ public: [NotesService], onEvent: (e) => events.push(e) });
    const requestGate = () => {
      throw new ConnectError("closed", Code.FailedPrecondition);
    };
    const server = wireServer(
      sessions.protect({
        routes: (router) => router.service(NotesService, {}, { requestGate, readMaxBytes: 1024 }),
        readMaxBytes: 1024,
      }),
    );
    for (let i = 0; i < 12; i++) {
      await server.call(addNote, {});
    }
    sessions.clock.advance("1s");
    expect(events).toHaveLength(11);
    expect(events.at(-1)).toEqual({
      ...{ type: "omitted", of: "gateThrew", reason: "FailedPrecondition", count: 2 },
    });
  });
});
