import { request } from "node:http";
import { Code } from "@connectrpc/connect";
import type { ClientContext, SessionEvent } from "rpc-session";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { apiOf } from "../helpers/api.ts";
import { startNotes } from "../helpers/server.ts";
import { watchedStore } from "../helpers/watched-store.ts";

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const store = watchedStore();
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    store: store.store,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const signIn = (headers: Record<string, string>, more: object = {}) =>
    api.open({ headers }, (ctx) => sessions.create(ctx, { userId: "alice", ...more }));
  const deviceOf = async (headers: Record<string, string>, more: object = {}) => {
    const { result } = await signIn(headers, more);
    return (await result?.info())?.device;
  };
  return { sessions, store, events, api, signIn, deviceOf };
}

describe("feat:A11 the device of a session", () => {
  it("feat:A11 contains the user agent, cut to 512 characters, if there is one", async () => {
    const { deviceOf } = createWorld();
    expect(await deviceOf({ "user-agent": "Browser/1 (X11)" })).toEqual({
      userAgent: "Browser/1 (X11)",
    });
    expect(await deviceOf({ "user-agent": "x".repeat(9000) })).toEqual({
      userAgent: "x".repeat(512),
    });
    expect(await deviceOf({ "user-agent": "" })).toEqual({});
    expect(await deviceOf({})).toEqual({});
  });

  it("feat:A11 contains an address only if the option clientIp returns one", async () => {
    const forged = {
      "x-forwarded-for": "203.0.113.9",
      forwarded: "for=203.0.113.9",
      "x-real-ip": "203.0.113.9",
    };
    expect(await createWorld().deviceOf(forged)).toEqual({});
    const ip = (context: ClientContext) => context.requestHeader.get("x-real-ip") ?? undefined;
    expect(await createWorld({ clientIp: ip }).deviceOf(forged)).toEqual({ ip: "203.0.113.9" });
    expect(await createWorld({ clientIp: ip }).deviceOf({})).toEqual({});
    expect(await createWorld({ clientIp: () => "1".repeat(300) }).deviceOf({})).toEqual({
      ip: "1".repeat(64),
    });
    expect(await createWorld({ clientIp: () => "fe80::1%\ud800" }).deviceOf({})).toEqual({
      ip: "fe80::1%\ufffd",
    });
  });

  it("feat:A11 contains the label given at sign-in", async () => {
    const { sessions, deviceOf, signIn, store } = createWorld();
    expect(await deviceOf({ "user-agent": "B" }, { label: "Ada’s phone" })).toEqual({
      userAgent: "B",
      label: "Ada’s phone",
    });
    const { session } = await sessions.issue({ userId: "a", label: "x".repeat(255) });
    expect((await session.info()).device).toEqual({ label: "x".repeat(255) });
    const before = store.inserted.length;
    for (const label of ["", "x".repeat(256), "\ud800", "\u0000", 7, null]) {
      const { error } = await signIn({}, { label });
      expect(error?.code).toBe(Code.Internal);
      expect(error?.rawMessage).toMatch(/^label must be /);
      await expect(sessions.issue({ userId: "a", label: label as string })).rejects.toThrow(
        TypeError,
      );
    }
    expect(store.inserted).toHaveLength(before);
  });

  it("feat:A11 feat:N4 a clientIp that throws or does not return a string creates no session and leaks nothing", async () => {
    for (const thrown of [new Error("CANARY"), new TypeError("CANARY")]) {
      const broken = createWorld({
        clientIp() {
          throw thrown;
        },
      });
      const { error, body } = await broken.signIn({});
      expect([error?.code, body.includes("CANARY")]).toEqual([Code.Internal, false]);
      expect(broken.store.inserted).toEqual([]);
      expect(broken.events).toMatchObject([
        { type: "failed", error: { message: "the option clientIp threw an error" } },
      ]);
    }
    const wrong = createWorld({ clientIp: () => ({ address: "CANARY" }) as never });
    const { error } = await wrong.signIn({});
    expect(error?.rawMessage).toBe(
      "clientIp must return a string, or undefined if the address is unknown",
    );
    expect(wrong.store.inserted).toEqual([]);
  });

  it("feat:A11 lastSeenAt is the time of the last refresh", async () => {
    const { sessions, api } = createWorld();
    const { session, tokens } = await sessions.issue({ userId: "a" });
    const seen = async () => (await session.info()).lastSeenAt.getTime();
    const began = sessions.clock.now();
    sessions.clock.advance("5m");
    await api.call({ bearer: tokens.accessToken }, (ctx) => sessions.require(ctx));
    expect(await seen()).toBe(began);
    await api.refresh("header", tokens.refreshToken);
    expect(await seen()).toBe(began + 300_000);
  });

  it("feat:A11 is read from a real request", async () => {
    const server = await startNotes();
    onTestFinished(() => server.close());
    await new Promise<void>((resolve, reject) => {
      const sent = request(
        {
          port: server.port.h1,
          method: "POST",
          path: "/notes.v1.NotesService/SignIn",
          headers: { "content-type": "application/json", "user-agent": "Real/1 (X11)" },
          agent: false,
        },
        (response) => response.resume().on("end", resolve),
      );
      sent.on("error", reject).end('{"user":"carol"}');
    });
    const { sessions } = await server.sessions.list({ userId: "carol" });
    expect(sessions.map(({ device }) => device)).toEqual([{ userAgent: "Real/1 (X11)" }]);
  });
});
