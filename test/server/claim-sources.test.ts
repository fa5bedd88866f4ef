import http from "node:http";
import type { AddressInfo } from "node:net";
import { Code, ConnectError, type ConnectRouter, createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import type { ClaimSource, ClaimSubject, SessionEvent } from "rpc-session";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { PolicyViolationsSchema, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { accessOf } from "../helpers/api.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { listNotes, addNote } = NotesService.method;
const admins = { "notes.v1.NotesService/AddNote": { claims: { role: ["admin"] } } } as const;

/** An identity provider that knows the role of each user. */
function createProvider() {
  const asked: string[] = [];
  const signals: AbortSignal[] = [];
  const provider = {
    role: "admin" as unknown,
    asked,
    signals,
    /** What the next answers wait for. */
    answers: Promise.resolve() as Promise<unknown>,
    source: {
      maxAge: "5m" as const,
      async fetch(
        { userId }: ClaimSubject,
        { signal }: { readonly signal: AbortSignal },
      ): Promise<unknown> {
        asked.push(userId);
        signals.push(signal);
        await (userId === "alice" ? provider.answers : undefined);
        return provider.role;
      },
    },
  };
  return provider;
}

function routes(router: ConnectRouter): void {
  router.service(NotesService, { listNotes: () => ({}), addNote: () => ({}) });
}

function serve(source: Partial<ClaimSource> = {}, more: TestSessionsOptions = {}) {
  const provider = createProvider();
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    claimSources: { role: { ...provider.source, ...source } },
    clientClaims: ({ role }) => ({ role: role ?? null }),
    methods: admins,
    onEvent: (event) => void events.push(event),
    ...more,
  });
  const server = wireServer(sessions.protect({ routes }));
  const signIn = async (claims: object = { role: "admin" }) =>
    (await sessions.issue({ userId: "alice", claims })).tokens.accessToken;
  return { sessions, provider, server, signIn, events };
}

describe("feat:L2 feat:L3 a claim with a source", () => {
  it("feat:L2 is fetched only where a policy looks at it, and only when it is too old", async () => {
    const { sessions, provider, server, signIn } = serve();
    const bearer = await signIn();
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    sessions.clock.advance("4m");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual([]);
    sessions.clock.advance("1m");
    expect((await server.call(listNotes, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual([]);
    const renewed = await server.call(addNote, {}, { bearer });
    expect(renewed.error).toBeUndefined();
    expect(provider.asked).toEqual(["alice"]);
    // The age is in the new token, and on the server for whoever still has the old one.
    const next = accessOf(renewed) ?? "";
    expect(next).not.toBe(bearer);
    await server.call(addNote, {}, { bearer: next });
    await server.call(addNote, {}, { bearer });
    expect(provider.asked).toEqual(["alice"]);
  });

  it("feat:L2 feat:L6 that has changed reaches the client in the response that refuses the call", async () => {
    const { sessions, provider, server, signIn } = serve();
    const bearer = await signIn();
    provider.role = "reader";
    sessions.clock.advance("5m");
    const { error, hint, headers } = await server.call(addNote, {}, { bearer });
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint?.reason).toBe(Reason.CLAIM_REJECTED);
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { claim: "role", requirement: "one of admin", value: '"reader"' },
    ]);
    const notice = new URLSearchParams(headers.get("rpcsession-session") ?? "");
    expect(notice.toString()).toContain("reader");
    const [session] = (await sessions.list({ userId: "alice" })).sessions;
    expect(session?.claims).toEqual({ role: "reader" });
  });

  it("feat:L2 that the session never had is fetched on the first call, and removed if there is none", async () => {
    const { provider, server, signIn, sessions } = serve();
    expect((await server.call(addNote, {}, { bearer: await signIn({}) })).error).toBeUndefined();
    expect(provider.asked).toEqual(["alice"]);
    provider.role = undefined;
    const bearer = await signIn({});
    const refused = await server.call(addNote, {}, { bearer });
    expect(refused.error?.code).toBe(Code.PermissionDenied);
    // That there is none is known as well, so it is not asked again.
    await server.call(addNote, {}, { bearer: accessOf(refused) ?? "" });
    expect(provider.asked).toHaveLength(2);
    const { sessions: all } = await sessions.list({ userId: "alice" });
    expect(all.map(({ claims }) => claims)).toContainEqual({});
  });

  it("feat:L2 is young after updateClaims has set it, even to the same value", async () => {
    const { sessions, provider, server, signIn } = serve();
    const bearer = await signIn();
    const id = (await sessions.list({ userId: "alice" })).sessions[0]?.id ?? "";
    sessions.clock.advance("4m");
    await sessions.updateClaims(id, { role: "admin" });
    sessions.clock.advance("4m");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual([]);
    await sessions.updateClaims(id, { other: 1 });
    sessions.clock.advance("1m");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual(["alice"]);
  });

  it("sec:A03 feat:L2 does not undo what updateClaims has set since the source was asked", async () => {
    const { sessions, provider, server, signIn } = serve();
    const bearer = await signIn();
    const id = (await sessions.list({ userId: "alice" })).sessions[0]?.id ?? "";
    let answer: (value?: unknown) => void = () => {};
    provider.answers = new Promise((resolve) => {
      answer = resolve;
    });
    sessions.clock.advance("5m");
    const waiting = server.call(addNote, {}, { bearer });
    await expect.poll(() => provider.asked).toEqual(["alice"]);
    await sessions.updateClaims(id, { role: "reader" });
    answer();
    expect((await waiting).error?.code).toBe(Code.PermissionDenied);
    expect((await sessions.find(id))?.claims).toEqual({ role: "reader" });
    // What was set is the newest, so the source is not asked again before its age is over.
    expect((await server.call(addNote, {}, { bearer })).error?.code).toBe(Code.PermissionDenied);
    expect(provider.asked).toEqual(["alice"]);
  });

  it("feat:L2 is fetched once for all calls of a session that wait, while other sessions go on", async () => {
    const { sessions, provider, server, signIn } = serve();
    const bearer = await signIn();
    const bob = await sessions.issue({ userId: "bob", claims: { role: "admin" } });
    let answer: (value?: unknown) => void = () => {};
    provider.answers = new Promise((resolve) => {
      answer = resolve;
    });
    sessions.clock.advance("5m");
    const waiting = Array.from({ length: 20 }, () => server.call(addNote, {}, { bearer }));
    const bobs = await server.call(addNote, {}, { bearer: bob.tokens.accessToken });
    expect(bobs.error).toBeUndefined();
    answer();
    for (const { error } of await Promise.all(waiting)) {
      expect(error).toBeUndefined();
    }
    expect(provider.asked.toSorted()).toEqual(["alice", "bob"]);
  });

  it("feat:L2 whose age the handler's session does not show, and no schema sees", async () => {
    const { sessions, server, signIn } = serve({}, {
      claims: z.strictObject({ role: z.string(), n: z.number().optional() }),
    } as never);
    const bearer = await signIn();
    sessions.clock.advance("5m");
    const answer = await server.call(addNote, {}, { bearer });
    expect(answer.error).toBeUndefined();
    const [session] = (await sessions.list({ userId: "alice" })).sessions;
    expect(session?.claims).toEqual({ role: "admin" });
    await sessions.updateClaims(session?.id ?? "", (claims) => ({ ...claims, n: 1 }));
    expect((await sessions.find(session?.id ?? ""))?.claims).toEqual({ role: "admin", n: 1 });
    expect(answer.headers.get("rpcsession-session")).not.toContain("rpcsession_ages");
    await expect(
      sessions.issue({ userId: "x", claims: { role: "a", rpcsession_ages: {} } as never }),
    ).rejects.toThrow(TypeError);
  });

  it("feat:L2 keeps its age in a fork, and when the user authenticates again", async () => {
    const { sessions, provider, server } = serve();
    const api = sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async listNotes(_request, ctx) {
            const { tokens } = await sessions.fork(ctx);
            return { notes: [{ text: tokens.accessToken }] };
          },
          addNote: () => ({}),
        }),
    });
    const forking = wireServer(api);
    const { tokens } = await sessions.issue({ userId: "alice", claims: { role: "admin" } });
    sessions.clock.advance("5m");
    const { message } = await forking.call(listNotes, {}, { bearer: tokens.accessToken });
    const bearer = message?.notes[0]?.text ?? "";
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual(["alice"]);
  });

  it("feat:L4 requireClaims and check fetch it as a policy does", async () => {
    const { sessions, provider } = serve({}, { methods: {} });
    const server = wireServer(
      sessions.protect({
        routes: (router) =>
          router.service(NotesService, {
            async addNote(_request, ctx) {
              const session = await sessions.requireClaims(ctx, { role: ["reader"] });
              expect(session.claims).toEqual({ role: "reader" });
              return {};
            },
          }),
      }),
    );
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      claims: { role: "admin" },
    });
    provider.role = "reader";
    sessions.clock.advance("5m");
    const answer = await server.call(addNote, {}, { bearer: tokens.accessToken });
    expect(answer.error).toBeUndefined();
    expect(accessOf(answer)).toBeDefined();
    provider.role = "owner";
    sessions.clock.advance("5m");
    expect(await sessions.check(session.id, { role: ["owner"] })).toEqual([]);
    expect(provider.asked).toHaveLength(2);
  });

  it("feat:L3 a policy may ask for less age than the source", async () => {
    const { sessions, provider, server, signIn } = serve(
      {},
      {
        methods: {
          "notes.v1.NotesService/AddNote": {
            claims: { role: { anyOf: ["admin"], maxAge: "10s" } },
          },
        },
      },
    );
    const bearer = await signIn();
    sessions.clock.advance("9s");
    await server.call(addNote, {}, { bearer });
    expect(provider.asked).toEqual([]);
    sessions.clock.advance("1s");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect(provider.asked).toEqual(["alice"]);
  });
});

describe("sec:A06 feat:L2 a source that fails", () => {
  it("feat:L2 makes the call Unavailable, never a denial, and is asked again a second later", async () => {
    let isDown = true;
    const { sessions, server, signIn, events } = serve({
      fetch() {
        if (isDown) {
          throw new Error("secret of the outage");
        }
        return "admin";
      },
    });
    const bearer = await signIn();
    sessions.clock.advance("5m");
    const first = await server.call(addNote, {}, { bearer });
    expect(first.error?.code).toBe(Code.Unavailable);
    expect(first.hint?.reason).toBe(Reason.AUTH_UNAVAILABLE);
    expect(first.body).not.toContain("secret of the outage");
    isDown = false;
    expect((await server.call(addNote, {}, { bearer })).error?.code).toBe(Code.Unavailable);
    expect(events.filter(({ type }) => type === "claimSourceFailed")).toHaveLength(1);
    sessions.clock.advance("1s");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    expect((await sessions.list({ userId: "alice" })).sessions).toHaveLength(1);
  });

  it("feat:L2 feat:L3 with onError stale, the old value counts, but one that was never fetched does not", async () => {
    const { sessions, server, signIn } = serve({
      onError: "stale",
      fetch() {
        throw new Error("down");
      },
    });
    const bearer = await signIn();
    sessions.clock.advance("5m");
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    const never = await server.call(addNote, {}, { bearer: await signIn({}) });
    expect(never.error?.code).toBe(Code.Unavailable);
  });

  it("feat:L2 that never answers fails within its deadline, and is told to stop", async () => {
    const { sessions, provider, server, signIn } = serve({ within: "1s" });
    const bearer = await signIn();
    provider.answers = new Promise(() => {});
    sessions.clock.advance("5m");
    const waiting = server.call(addNote, {}, { bearer });
    await expect.poll(() => provider.asked).toEqual(["alice"]);
    sessions.clock.advance("1s");
    expect((await waiting).error?.code).toBe(Code.Unavailable);
    expect(provider.signals[0]?.aborted).toBe(true);
  });

  it("feat:L2 whose value cannot be a claim is a fault of the service", async () => {
    const { sessions, server, signIn } = serve({ fetch: () => 10n, onError: "stale" });
    const bearer = await signIn();
    sessions.clock.advance("5m");
    expect((await server.call(addNote, {}, { bearer })).error?.code).toBe(Code.Internal);
  });

  it("feat:L2 a session that has ended is not renewed", async () => {
    const { sessions, provider, server, signIn } = serve({ onError: "stale" });
    const bearer = await signIn();
    let answer: (value?: unknown) => void = () => {};
    provider.answers = new Promise((resolve) => {
      answer = resolve;
    });
    sessions.clock.advance("5m");
    const waiting = server.call(addNote, {}, { bearer });
    await expect.poll(() => provider.asked).toEqual(["alice"]);
    await sessions.revokeAll({ userId: "alice" });
    answer();
    expect((await waiting).error?.code).toBe(Code.Unauthenticated);
  });
});

describe("feat:L2 feat:L3 wrong options are refused at the start", () => {
  it.each<readonly [object, string]>([
    [{ maxAge: "5m" }, "must be a source"],
    [{ maxAge: "10ms", fetch: () => 1 }, "maxAge"],
    [{ fetch: () => 1 }, "maxAge"],
    [{ maxAge: "5m", fetch: () => 1, onError: "ignore" }, "onError"],
    [{ maxAge: "5m", fetch: () => 1, within: "5m" }, "within"],
    [{ maxAge: "5m", fetch: () => 1, ttl: "5m" }, "ttl"],
  ])("feat:L2 %j", (source, message) => {
    expect(() => testSessions({ claimSources: { role: source as never } })).toThrow(message);
  });

  it("feat:L3 maxAge without a source, in a policy and in a handler", async () => {
    const sessions = testSessions({
      methods: { "notes.v1.NotesService/AddNote": { claims: { plan: { maxAge: "1m" } } } },
    });
    expect(() => wireServer(sessions.protect({ routes }))).toThrow(
      'sets maxAge for the claim "plan", which has no source',
    );
    await expect(sessions.check("x", { plan: { maxAge: "1m" } })).rejects.toThrow("no source");
  });

  it("feat:L3 a service that only verifies refuses a claim that is too old", async () => {
    const { sessions, signIn } = serve();
    const { clock } = sessions;
    const verifying = verifySessions({
      issuer: "https://test.example",
      jwks: await sessions.jwks(),
      clock,
      claims: z.strictObject({ role: z.string() }),
      methods: { "notes.v1.NotesService/AddNote": { claims: { role: { maxAge: "1m" } } } },
    });
    const server = wireServer(verifying.protect({ routes, readMaxBytes: 1024 }));
    const bearer = await signIn();
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();
    clock.advance("62s");
    const { error } = await server.call(addNote, {}, { bearer });
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { claim: "role", requirement: "at most 60s old", rule: "maxAge" },
    ]);
  });
});

describe("feat:L2 a role that was taken away at the identity provider", () => {
  it("feat:L2 is refused on every server within its age; the client sees the change, and nobody else waits", async () => {
    // 1. Two servers on one store, and a provider.
    const clock = createFakeClock();
    const provider = createProvider();
    const options: TestSessionsOptions = {
      store: memoryStore(),
      clock,
      public: [NotesService.method.signIn],
      claimSources: { role: provider.source },
      clientClaims: ({ role }) => ({ role: role ?? null }),
      methods: admins,
    };
    const start = async () => {
      const sessions = testSessions(options);
      const served = http.createServer(
        connectNodeAdapter(
          sessions.protect({
            readMaxBytes: 1024,
            routes: (router: ConnectRouter) =>
              router.service(NotesService, {
                async signIn({ user }, ctx) {
                  await sessions.create(ctx, { userId: user, claims: { role: "admin" } });
                  return {};
                },
                addNote: () => ({}),
              }),
          }),
        ),
      );
      await new Promise<void>((resolve) => served.listen(0, "127.0.0.1", resolve));
      onTestFinished(async () => {
        served.closeAllConnections();
        await new Promise((resolve) => served.close(resolve));
        await sessions.close({ within: "0s" });
      });
      return `http://127.0.0.1:${(served.address() as AddressInfo).port}`;
    };
    const servers = [await start(), await start()] as const;

    // 2. Two users, each with a client that speaks to both servers.
    const signedIn = async (user: string) => {
      let server: string = servers[0];
      const session = createSessionClient({
        tokens: memoryTokens(),
        transport: (parts) =>
          createConnectTransport({
            baseUrl: servers[0],
            httpVersion: "1.1",
            ...parts,
            interceptors: [
              ...(parts.interceptors ?? []),
              (next) => (request) =>
                next({ ...request, url: request.url.replace(servers[0], server) }),
            ],
          }),
      });
      const notes = createClient(NotesService, session.transport);
      await notes.signIn({ user });
      const addTo = async (to: string) => {
        server = to;
        try {
          await notes.addNote({});
          return "fine";
        } catch (error) {
          return Code[ConnectError.from(error).code];
        }
      };
      return { session, addTo };
    };
    const alice = await signedIn("alice");
    const bob = await signedIn("bob");
    for (const server of servers) {
      expect(await alice.addTo(server)).toBe("fine");
    }

    // 3. The role is taken away. Alice's next call after the age waits for the provider; Bob's do not.
    let answer: (value?: unknown) => void = () => {};
    provider.answers = new Promise((resolve) => {
      answer = resolve;
    });
    clock.advance("5m");
    const refused = alice.addTo(servers[0]);
    await expect.poll(() => provider.asked).toContain("alice");
    for (const server of servers) {
      expect(await bob.addTo(server)).toBe("fine");
    }
    provider.role = "reader";
    answer();

    // 4. It is refused on each server, and the client knows.
    expect(await refused).toBe("PermissionDenied");
    expect(alice.session.claims).toEqual({ role: "reader" });
    for (const server of servers) {
      expect(await alice.addTo(server)).toBe("PermissionDenied");
    }
    expect(provider.asked.filter((user) => user === "alice")).toHaveLength(1);
    expect(bob.session.claims).toEqual({ role: "admin" });
  });
});
