import { createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { trace } from "@opentelemetry/api";
import { createSessionClient, memoryTokens, type TransportParts } from "rpc-session/client";
import { openTelemetry, openTelemetryClient } from "rpc-session/otel";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { Telemetry, useContexts } from "./helpers.ts";

beforeAll(useContexts);

const servers: NotesServer[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

type Create = (server: NotesServer, parts: TransportParts) => Transport;
const h1 = ({ port }: NotesServer) => ({
  ...{ baseUrl: `http://127.0.0.1:${port.h1}`, httpVersion: "1.1" as const },
  nodeOptions: { agent: false as const },
});
const wires: Readonly<Record<string, { system: string; create: Create }>> = {
  Connect: {
    system: "connectrpc",
    create: (server, parts) => createConnectTransport({ ...h1(server), ...parts }),
  },
  gRPC: {
    system: "grpc",
    create: ({ port }, parts) =>
      createGrpcTransport({
        ...{ baseUrl: `http://127.0.0.1:${port.h2c}`, idleConnectionTimeoutMs: 50 },
        ...parts,
      }),
  },
  "gRPC-Web": {
    system: "grpc",
    create: (server, parts) => createGrpcWebTransport({ ...h1(server), ...parts }),
  },
};

/** A server and a client that report to the SDK, each to its own. */
async function start(create: Create, options: { userIds?: boolean } = {}) {
  const telemetry = new Telemetry();
  const ofClient = new Telemetry();
  const store = memoryStore();
  const server = await startNotes({
    sessions: { store, telemetry: openTelemetry({ ...telemetry.providers, ...options }) },
  });
  servers.push(server);
  const client = openTelemetryClient({ ...ofClient.providers });
  const session = createSessionClient({
    transport: client.transport((parts) => create(server, parts)),
    tokens: memoryTokens(),
    // Its clock stands still, so that it sends tokens that have expired.
    clock: createFakeClock(),
    onEvent: client.onEvent,
  });
  const notes = createClient(NotesService, session.transport);
  return { telemetry, ofClient, server, session, notes, store };
}

describe.each(Object.entries(wires))("over %s", (_name, { system, create }) => {
  it("feat:N11 shows sign-in, first verification, refresh and retry in the trace of their caller, on both sides", async () => {
    const { telemetry, ofClient, server, notes } = await start(create);
    const signIn = await ofClient.inSpan("sign in", () => notes.signIn({ user: "alice" }));
    const first = await ofClient.inSpan("first", () => notes.listNotes({}));
    await ofClient.inSpan("second", () => notes.listNotes({}));
    server.sessions.clock.advance("20m");
    const later = await ofClient.inSpan("later", () => notes.listNotes({}));

    const tracesOf = (name: string) => telemetry.spans(name).map((s) => s.spanContext().traceId);
    expect(tracesOf("rpcsession.sign_in")).toEqual([signIn.traceId]);
    expect(tracesOf("rpcsession.refresh")).toEqual([later.traceId]);
    // The second call was verified in memory. The later one was refused, then sent with a new token.
    const verified = telemetry.spans("rpcsession.verify");
    expect(verified.map((span) => span.spanContext().traceId)).toContain(first.traceId);
    expect(new Set(tracesOf("rpcsession.verify"))).toEqual(new Set([first.traceId, later.traceId]));
    expect(verified[0]?.attributes).toMatchObject({
      "rpc.method": "notes.v1.NotesService/ListNotes",
      "rpcsession.session.hash": expect.stringMatching(/^[\w-]{16}$/),
    });

    // The server's refresh happened within the client's.
    const [refresh] = ofClient.spans("rpcsession.refresh");
    expect(refresh?.spanContext().traceId).toBe(later.traceId);
    expect(telemetry.spans("rpcsession.refresh")[0]?.parentSpanContext?.spanId).toBe(
      refresh?.spanContext().spanId,
    );
    expect(ofClient.spans("rpcsession.retry").map((s) => s.attributes["rpc.method"])).toEqual([
      "notes.v1.NotesService/ListNotes",
    ]);
  });

  it("feat:N11 counts calls by the names of the RPC conventions, refusals by reason, verifications and refreshes", async () => {
    const { telemetry, ofClient, server, notes } = await start(create);
    await expect(notes.listNotes({})).rejects.toThrow();
    await notes.signIn({ user: "alice" });
    await notes.listNotes({});
    await notes.listNotes({});
    server.sessions.clock.advance("20m");
    await notes.listNotes({});

    const call = { "rpc.system.name": system, "rpc.method": "notes.v1.NotesService/ListNotes" };
    expect(await telemetry.sum("rpc.server.call.duration", call)).toBe(3);
    expect(await ofClient.sum("rpc.client.call.duration", call)).toBe(4);
    const code = system === "grpc" ? "UNAUTHENTICATED" : "unauthenticated";
    const failed = { ...call, "error.type": code, "rpc.response.status_code": code };
    expect(await ofClient.sum("rpc.client.call.duration", failed)).toBe(1);

    const method = { "rpc.method": "notes.v1.NotesService/ListNotes" };
    for (const reason of ["SESSION_MISSING", "TOKEN_EXPIRED"]) {
      const refused = { ...method, "rpcsession.reason": reason };
      expect(await telemetry.sum("rpcsession.refusals", refused), reason).toBe(1);
    }
    // The first token, the same when it had expired and was forgotten, and the new one.
    const path = "rpcsession.verification.path";
    expect(await telemetry.sum("rpcsession.verifications", { [path]: "cold" })).toBe(3);
    expect(await telemetry.sum("rpcsession.verifications", { [path]: "warm" })).toBe(1);
    expect(await telemetry.sum("rpcsession.verified_cache.tokens")).toBe(1);
    const refresh = { "rpcsession.operation": "refresh" };
    expect(await telemetry.sum("rpcsession.operation.duration", refresh)).toBe(1);
    expect(await ofClient.sum("rpcsession.client.operation.duration", refresh)).toBe(1);
    const events = { "rpcsession.event": "refreshed" };
    expect(await ofClient.sum("rpcsession.client.events", events)).toBe(1);
    expect(await telemetry.sum("rpcsession.events", events)).toBe(1);
  });
});

const connect = (server: NotesServer, parts: TransportParts) =>
  createConnectTransport({ ...h1(server), ...parts });

describe("the telemetry of a server", () => {
  it("sec:V10 holds no token, no id of a session and no id of a user", async () => {
    const { telemetry, ofClient, server, session, notes } = await start(connect);
    await notes.signIn({ user: "alice@example.com" });
    await notes.listNotes({});
    const { tokens } = await server.sessions.issue({
      ...{ userId: "alice@example.com", claims: { role: "the-secret-role" } },
    });
    await server.sessions.revokeAll({ userId: "alice@example.com" });
    await expect(notes.listNotes({})).rejects.toThrow();
    const texts = (await telemetry.text()) + (await ofClient.text());
    expect(texts).toContain("rpcsession.session.hash");
    const secrets = [tokens.accessToken, tokens.refreshToken, "alice", "the-secret-role"];
    for (const secret of [...secrets, session.state.sessionId ?? "no id"]) {
      expect(texts).not.toContain(secret);
    }
  });

  it("names users in spans only if it is told to, and never in metrics", async () => {
    const { telemetry, notes } = await start(connect, { userIds: true });
    await notes.signIn({ user: "alice" });
    expect(telemetry.spans("rpcsession.sign_in")[0]?.attributes["user.id"]).toBe("alice");
    const points = await telemetry.points("rpcsession.operation.duration");
    expect(JSON.stringify(points)).not.toContain("alice");
  });

  it("gives one session one name on every server", async () => {
    const names: unknown[] = [];
    const store = memoryStore();
    for (let i = 0; i < 2; i++) {
      const telemetry = new Telemetry();
      const sessions = testSessions({
        store,
        telemetry: openTelemetry({ ...telemetry.providers }),
      });
      const { session } = await sessions.issue({ userId: "alice" });
      await sessions.revoke(session.id);
      const spans = [
        ...telemetry.spans("rpcsession.sign_in"),
        ...telemetry.spans("rpcsession.revoke"),
      ];
      names.push(...spans.map((span) => span.attributes["rpcsession.session.hash"]));
      await sessions.close();
    }
    expect(names[0]).toBe(names[1]);
    expect(names[2]).toBe(names[3]);
    expect(names[0]).not.toBe(names[2]);
  });

  it("measures how long the end of a session takes to another server, and keeps its reads out of the traces of calls", async () => {
    const store = memoryStore();
    const telemetry = new Telemetry();
    const one = testSessions({ store, telemetry: openTelemetry(new Telemetry().providers) });
    const two = testSessions({
      ...{ store, clock: one.clock },
      telemetry: openTelemetry({ ...telemetry.providers }),
    });
    await two.ready();
    const { session } = await one.issue({ userId: "alice" });
    const read = store.changes.bind(store);
    const during: unknown[] = [];
    vi.spyOn(store, "changes").mockImplementation((cursor, window) => {
      during.push(trace.getActiveSpan());
      return read(cursor, window);
    });
    // The store wakes the other server in the course of this call.
    const { traceId } = await telemetry.inSpan("a call", () => one.revoke(session.id));
    await vi.waitFor(async () => {
      expect(await telemetry.sum("rpcsession.revocation.delay")).toBe(1);
    });
    const reads = telemetry.spans("rpcsession.feed.read").slice(1);
    expect(reads).not.toEqual([]);
    expect(reads.map((span) => span.spanContext().traceId)).not.toContain(traceId);
    expect(during.length).toBeGreaterThan(0);
    expect(during.filter((span) => span !== undefined)).toEqual([]);
    expect(await telemetry.points("rpcsession.feed.age")).toHaveLength(1);
    expect(await telemetry.points("rpcsession.feed.lag")).toHaveLength(1);
    const state = { "rpcsession.feed.status": "fresh" };
    expect(await telemetry.sum("rpcsession.feed.status", state)).toBe(1);
    await two.close();
    const closed = { "rpcsession.feed.status": "closed" };
    expect(await telemetry.sum("rpcsession.feed.status", closed)).toBe(1);
    await one.close();
  });

  it("measures each operation of the store, also one that fails", async () => {
    const telemetry = new Telemetry();
    const store = memoryStore();
    const sessions = testSessions({ store, telemetry: openTelemetry({ ...telemetry.providers }) });
    onTestFinished(() => sessions.close());
    const { session } = await sessions.issue({ userId: "alice" });
    const name = "rpcsession.store.operation.duration";
    expect(await telemetry.sum(name, { "rpcsession.store.operation": "insert" })).toBe(1);
    vi.spyOn(store, "revoke").mockRejectedValue(new Error("password=hunter2 is wrong"));
    await expect(sessions.revoke(session.id)).rejects.toThrow("could not be reached");
    const failed = { "rpcsession.store.operation": "revoke", "error.type": "_OTHER" };
    expect(await telemetry.sum(name, failed)).toBe(1);
    expect(telemetry.spans("rpcsession.revoke")[0]?.status.code).toBe(2);
    expect(await telemetry.text()).not.toContain("hunter2");
  });

  it("counts thefts, and ends by their reason", async () => {
    const { telemetry, server, notes } = await start(connect);
    await notes.signIn({ user: "alice" });
    const { session } = await server.sessions.issue({ userId: "bob" });
    await server.sessions.revoke(session.id);
    const ended = { "rpcsession.ended_by": "revoked" };
    expect(await telemetry.sum("rpcsession.sessions.ended", ended)).toBe(1);
    const listener = openTelemetry({ ...telemetry.providers });
    listener.event({
      ...{
        type: "theft",
        kind: "older",
        sessionId: "s",
        userId: "bob",
        presented: 1,
        generation: 3,
        at: 0,
      },
    });
    expect(await telemetry.sum("rpcsession.thefts")).toBe(1);
  });

  it("shows the rotation of keys", async () => {
    const { telemetry, server } = await start(connect);
    server.sessions.clock.advance("2h");
    await server.sessions.keys.rotate();
    expect(telemetry.spans("rpcsession.key.rotation")).not.toEqual([]);
  });

  it("shows how a service that only verifies fetches keys, in the trace of the call that waits", async () => {
    const telemetry = new Telemetry();
    const issuer = testSessions();
    onTestFinished(() => issuer.close());
    const keys = await issuer.jwks();
    const verifying = verifySessions({
      issuer: "https://test.example",
      jwks: "https://test.example/keys",
      clock: issuer.clock,
      fetch: async () => Response.json(keys),
      telemetry: openTelemetry({ ...telemetry.providers }),
    });
    const { tokens } = await issuer.issue({ userId: "alice" });
    const { traceId } = await telemetry.inSpan("a call", () =>
      verifying.getSession({
        requestHeader: new Headers({ authorization: `Bearer ${tokens.accessToken}` }),
        ...{ responseHeader: new Headers(), requestMethod: "POST" },
      }),
    );
    const [fetched] = telemetry.spans("rpcsession.source.fetch");
    expect(fetched?.spanContext().traceId).toBe(traceId);
    expect(telemetry.spans("rpcsession.verify")[0]?.spanContext().traceId).toBe(traceId);
    expect(await telemetry.sum("rpcsession.verifications")).toBe(1);
  });

  it("sec:A04 feat:N11 shows in the trace of its caller how a call waits for the source of a claim, and never what it says", async () => {
    const telemetry = new Telemetry();
    const asked: string[] = [];
    const server = await startNotes({
      sessions: {
        telemetry: openTelemetry(telemetry.providers),
        methods: { "notes.v1.NotesService/ListNotes": { claims: { role: ["the-secret-role"] } } },
        claimSources: {
          role: {
            maxAge: "1s",
            async fetch({ userId }: { readonly userId: string }) {
              asked.push(userId);
              if (asked.length > 1) {
                throw new Error("the-secret-role is gone");
              }
              return "the-secret-role";
            },
          },
        },
      },
    });
    servers.push(server);
    const client = openTelemetryClient(telemetry.providers);
    const session = createSessionClient({
      transport: client.transport((parts) => connect(server, parts)),
      tokens: memoryTokens(),
    });
    const notes = createClient(NotesService, session.transport);
    await notes.signIn({ user: "alice" });
    const { traceId } = await telemetry.inSpan("a call", () => notes.listNotes({}));
    const fetches = () => telemetry.spans("rpcsession.source.fetch");
    expect(fetches().map((span) => span.attributes["rpcsession.source"])).toEqual(["role"]);
    expect(fetches()[0]?.spanContext().traceId).toBe(traceId);
    // The token that came with the new claim is verified.
    await notes.listNotes({});
    const verifications = telemetry.spans("rpcsession.verify").length;
    server.sessions.clock.advance("2s");
    await expect(notes.listNotes({})).rejects.toThrow("role");
    // The token was verified before, but the call has waited.
    expect(telemetry.spans("rpcsession.verify")).toHaveLength(verifications + 1);
    expect(fetches()[1]?.status.code).toBe(2);
    expect(await telemetry.text()).not.toContain("the-secret-role");
    const failed = { "rpcsession.operation": "sourceFetch", "error.type": "_OTHER" };
    expect(await telemetry.sum("rpcsession.operation.duration", failed)).toBe(1);
  });

  it("goes on counting when an instance closes, and reads only those that are open", async () => {
    const telemetry = new Telemetry();
    const shared = openTelemetry(telemetry.providers);
    const verify = async () => {
      const sessions = testSessions({ telemetry: shared });
      const { tokens } = await sessions.issue({ userId: "alice" });
      const authorization = `Bearer ${tokens.accessToken}`;
      await sessions.getSession({
        requestHeader: new Headers({ authorization }),
        ...{ responseHeader: new Headers(), requestMethod: "POST" },
      });
      return sessions;
    };
    const one = await verify();
    const two = await verify();
    onTestFinished(() => two.close());
    expect(await telemetry.sum("rpcsession.verified_cache.tokens")).toBe(2);
    await one.close();
    expect(await telemetry.sum("rpcsession.verifications")).toBe(2);
    expect(await telemetry.sum("rpcsession.verified_cache.tokens")).toBe(1);
    const fresh = { "rpcsession.feed.status": "fresh" };
    expect(await telemetry.sum("rpcsession.feed.status", fresh)).toBe(1);
  });

  it("may be an object of the application, which learns when an instance closes", async () => {
    const seen: string[] = [];
    const note = (name: string) => (what: { name?: string; type?: string } | string) => {
      seen.push(`${name} ${typeof what === "string" ? what : (what.name ?? what.type)}`);
    };
    const sessions = testSessions({
      telemetry: {
        run(operation, work) {
          note("run")(operation);
          return work();
        },
        store(operation, work) {
          note("store")(operation);
          return work();
        },
        handle: (_call, work) => work(),
        event: note("event"),
        start: () => () => note("stop")("all"),
      },
    });
    await sessions.issue({ userId: "alice" });
    await sessions.close();
    expect(seen).toEqual(expect.arrayContaining(["run signIn", "store insert", "event created"]));
    expect(seen.at(-1)).toBe("stop all");
  });

  it("does not count calls where other instrumentation does", async () => {
    const telemetry = new Telemetry();
    const server = await startNotes({
      sessions: { telemetry: openTelemetry({ ...telemetry.providers, calls: false }) },
    });
    servers.push(server);
    const client = openTelemetryClient({ ...telemetry.providers, calls: false });
    const session = createSessionClient({
      transport: client.transport((parts) => connect(server, parts)),
    });
    await createClient(NotesService, session.transport).signIn({ user: "alice" });
    expect(await telemetry.points("rpc.server.call.duration")).toEqual([]);
    expect(await telemetry.points("rpc.client.call.duration")).toEqual([]);
    expect(telemetry.spans("rpcsession.sign_in")).toHaveLength(1);
  });

  it("refuses options that it does not know, and telemetry that is none", () => {
    expect(() => openTelemetry({ user: true } as object)).toThrow(/openTelemetry.*user/);
    expect(() => openTelemetry({ userIds: 1 } as object)).toThrow(
      "openTelemetry: userIds must be true or false, got number",
    );
    expect(() => testSessions({ telemetry: {} as never })).toThrow(
      'telemetry has no method "run"; pass openTelemetry() of rpc-session/otel',
    );
  });
});
