import {
  Code,
  type ConnectError,
  type ConnectRouter,
  createClient,
  createRouterTransport,
} from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { afterEach, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { issue, realm } from "../helpers/presented.ts";
import { newProofKey } from "../helpers/proofs.ts";
import type { TestSessionsOptions } from "../helpers/server.ts";
import {
  type Connections,
  connectTo,
  hintOf,
  type OpenedStream,
  openStream,
  type StreamServer,
  startStreams,
  streamingService,
  tick,
} from "../helpers/streams.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";

const wire = { name: "gRPC over h2c", protocol: "grpc", http: "h2c" } as const;
const lifetimes = { access: "2m", idle: "10m", absolute: "1h" } as const;

let closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  const all = closing;
  closing = [];
  for (const close of all) {
    await close();
  }
});

interface World {
  readonly server: StreamServer;
  readonly client: Connections;
  readonly store: WatchedStore;
}

async function start(
  stream: "endOnExpiry" | "endOnRevoke" | "never",
  options: TestSessionsOptions = {},
): Promise<World> {
  const store = watchedStore();
  const server = await startStreams({
    ...{ lifetimes, store: store.store },
    methods: { "notes.v1.NotesService/WatchNotes": { stream } },
    ...options,
  });
  const client = connectTo(server, wire);
  closing.push(async () => {
    client.close();
    await server.close();
  });
  return { server, client, store };
}

/** Advances the clock and lets pending work run after every second. */
async function pass({ server }: Pick<World, "server">, seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) {
    server.sessions.clock.advance("1s");
    await tick();
  }
}

async function expectEnd(stream: OpenedStream, code: Code, action: Action, reason: Reason) {
  const error = await stream.ended;
  await stream.run.over;
  expect(error?.code).toBe(code);
  expect(hintOf(error)).toMatchObject({ action, reason });
  return hintOf(error);
}

const kind = "server stream";

describe("feat:Q2 a stream that ends on revoke", () => {
  it("outlives its access token, but not the idle end of its session", async () => {
    const world = await start("endOnRevoke");
    const stream = await openStream(world.server, world.client, { kind });
    await pass(world, 599);
    expect(stream.run.isOver).toBe(false);
    await pass(world, 2);
    await stream.run.over;
    // The stream may have asked the store just before; otherwise the client's refresh finds out.
    const error = await stream.ended;
    expect(error?.code).toBe(Code.Unauthenticated);
    expect([Reason.TOKEN_EXPIRED, Reason.SESSION_EXPIRED]).toContain(hintOf(error)?.reason);
  });

  it("outlives an idle end moved by a refresh, but not the absolute end", async () => {
    const world = await start("endOnRevoke");
    const { session, tokens } = await issue(world.server, "header");
    const headers = { authorization: `Bearer ${tokens.access}` };
    const stream = await openStream(world.server, world.client, { kind, headers });
    const service = createClient(SessionService, world.client.transport);
    let refreshToken = tokens.refresh;
    for (let minute = 0; minute < 60; minute += 5) {
      expect(stream.run.isOver).toBe(false);
      const onHeader = (header: Headers): void => {
        refreshToken = header.get("rpcsession-refresh-token") ?? refreshToken;
      };
      await service.refresh({ refreshToken }, { onHeader });
      await pass(world, 299);
    }
    expect(stream.run.isOver).toBe(false);
    await pass(world, 14);
    await stream.run.over;
    expect(hintOf(await stream.ended)?.session).toBe(session.id);
  });

  it("feat:G7 ends when its session is revoked after its access token expired", async () => {
    const world = await start("endOnRevoke");
    const stream = await openStream(world.server, world.client, { kind });
    await pass(world, 300);
    expect(stream.run.isOver).toBe(false);
    await stream.revoke();
    await expectEnd(stream, Code.Unauthenticated, Action.SIGN_IN, Reason.SESSION_REVOKED);
  });

  it("feat:S13 ends with its access token, if its session is bound to a key that the call has not proven", async () => {
    const world = await start("endOnRevoke");
    const { server, client } = world;
    const key = await newProofKey();
    const { tokens } = await server.sessions.issue({
      ...{ userId: "alice", transport: "header", boundKey: key.thumbprint },
    });
    const { accessToken } = tokens;
    const stolen = await openStream(server, client, {
      ...{ kind, headers: { authorization: `Session ${accessToken}` } },
    });
    const htu = `${realm}/notes.v1.NotesService/WatchNotes`;
    const byDpop = async (nonce?: string) => ({
      authorization: `DPoP ${accessToken}`,
      dpop: await key.prove({ htu, accessToken, nonce }),
    });
    const asked = await openStream(server, client, { kind, headers: await byDpop() }).catch(hintOf);
    const nonce = asked !== undefined && "proofNonce" in asked ? asked.proofNonce : "";
    const proven = await openStream(server, client, { kind, headers: await byDpop(nonce) });
    await pass(world, 121);
    expect(stolen.run.isOver).toBe(true);
    await expectEnd(stolen, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
    // The client that has proven its key keeps its stream.
    expect(proven.run.isOver).toBe(false);
  });

  it("asks the store once per access token lifetime, shortly before the known end", async () => {
    const world = await start("endOnRevoke");
    await openStream(world.server, world.client, { kind });
    await pass(world, 50);
    world.store.take();
    await pass(world, 400);
    expect(world.store.take().filter((call) => call === "load")).toHaveLength(1);
  });

  it("ends with its access token if the store does not answer", async () => {
    const world = await start("endOnRevoke");
    const stream = await openStream(world.server, world.client, { kind });
    world.store.failing.add("load");
    await pass(world, 110);
    expect(stream.run.isOver).toBe(false);
    await pass(world, 11);
    await expectEnd(stream, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
  });

  it("ends when the store reports the end of the session, even if the log did not", async () => {
    const world = await start("endOnRevoke", { maxStreamStaleness: "10m" });
    const stream = await openStream(world.server, world.client, { kind });
    world.store.hanging.add("changes");
    await world.store.store.revoke(stream.session, "revoked");
    await pass(world, 50);
    expect(stream.run.isOver).toBe(false);
    await pass(world, 45);
    await expectEnd(stream, Code.Unauthenticated, Action.SIGN_IN, Reason.SESSION_REVOKED);
  });
});

describe("feat:Q2 a stream that never ends with its session", () => {
  it("outlives expiry, revocation and a silent log", async () => {
    const world = await start("never");
    const stream = await openStream(world.server, world.client, { kind });
    await stream.revoke();
    world.store.failing.add("changes");
    await pass(world, 700);
    expect(stream.run.isOver).toBe(false);
    stream.cancel();
    await stream.run.over;
  });
});

describe("feat:Q2 a stream without a session", () => {
  it("is not watched", async () => {
    const methods = { "notes.v1.NotesService/WatchNotes": { auth: "optional" } } as const;
    const world = await start("endOnExpiry", { methods });
    const stream = await openStream(world.server, world.client, { kind, headers: {} });
    const withSession = await openStream(world.server, world.client, { kind });
    world.store.failing.add("changes");
    await pass(world, 700);
    expect(withSession.run.isOver).toBe(true);
    expect(stream.run.isOver).toBe(false);
    stream.cancel();
    await stream.run.over;
  });
});

describe("feat:G7 revocations of another server", () => {
  it("end the streams of this one", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    const world = await start("endOnExpiry", { store, clock });
    const other = testSessions({ store, clock });
    closing.push(() => other.close());
    const { session, tokens } = await other.issue({ userId: "alice" });
    const headers = { authorization: `Bearer ${tokens.accessToken}` };
    const stream = await openStream(world.server, world.client, { kind, headers });
    expect(stream.session).not.toBe(session.id);
    await session.revoke();
    await expectEnd(stream, Code.Unauthenticated, Action.SIGN_IN, Reason.SESSION_REVOKED);
  });
});

describe("a change log that cannot be read", () => {
  const lost = [Code.Unavailable, Action.RETRY_LATER, Reason.AUTH_UNAVAILABLE] as const;

  it.each(["failing", "hanging"] as const)("(%s) ends streams within a minute", async (how) => {
    const world = await start("endOnRevoke", { lifetimes: { access: "15m" } });
    const streams: OpenedStream[] = [];
    for (let i = 0; i < 5; i++) {
      streams.push(await openStream(world.server, world.client, { kind }));
    }
    world.store[how].add("changes");
    await pass(world, 50);
    // A read only counts as hanging once an answer could have arrived.
    await new Promise((resolve) => setTimeout(resolve, 2));
    expect(streams.map(({ run }) => run.isOver)).toEqual(streams.map(() => false));
    await pass(world, 11);
    const waits = new Set<number>();
    for (const stream of streams) {
      const hint = await expectEnd(stream, ...lost);
      const { seconds = 0n, nanos = 0 } = hint?.retryAfter ?? {};
      const wait = Number(seconds) * 1_000 + nanos / 1e6;
      expect(wait).toBeGreaterThanOrEqual(1_000);
      expect(wait).toBeLessThanOrEqual(10_001);
      waits.add(wait);
    }
    // The streams must not reconnect all at once.
    expect(waits.size).toBeGreaterThan(1);
  });

  it("ends streams only after maxStreamStaleness", async () => {
    const world = await start("endOnExpiry", {
      ...{ maxStreamStaleness: "5m", lifetimes: { access: "15m" } },
    });
    const stream = await openStream(world.server, world.client, { kind });
    world.store.failing.add("changes");
    await pass(world, 260);
    expect(stream.run.isOver).toBe(false);
    await pass(world, 41);
    await expectEnd(stream, ...lost);
  });

  it("ends no stream if it can be read again in time", async () => {
    const world = await start("endOnExpiry", { lifetimes: { access: "15m" } });
    const stream = await openStream(world.server, world.client, { kind });
    for (let i = 0; i < 5; i++) {
      world.store.failing.add("changes");
      await pass(world, 50);
      world.store.failing.delete("changes");
      await pass(world, 5);
    }
    expect(stream.run.isOver).toBe(false);
  });

  it("ends no stream because the process was suspended", async () => {
    const world = await start("endOnRevoke", { lifetimes: { access: "15m" } });
    const stream = await openStream(world.server, world.client, { kind });
    world.server.sessions.clock.advance("14m");
    await pass(world, 10);
    expect(stream.run.isOver).toBe(false);
    // The first read reports the sessions revoked in the meantime.
    await stream.revoke();
    await stream.run.over;
  });

  it.each([4, 8])("waits some seconds for an answer after a suspension: %i s", async (seconds) => {
    const fake = createFakeClock();
    let slept = 0;
    const clock = { ...fake, monotonic: () => fake.monotonic() + slept };
    const inner = memoryStore();
    const late: (() => void)[] = [];
    let awake = true;
    const changes: typeof inner.changes = async (...args) => {
      await (awake ? undefined : new Promise<void>((resolve) => late.push(resolve)));
      return inner.changes(...args);
    };
    const store = { ...inner, changes };
    const world = await start("endOnRevoke", { clock, store, lifetimes: { access: "15m" } });
    const stream = await openStream(world.server, world.client, { kind });
    awake = false;
    slept = 600_000;
    await pass(world, 1);
    await new Promise((resolve) => setTimeout(resolve, 2));
    await pass(world, seconds);
    awake = true;
    for (const answer of late) {
      answer();
    }
    await tick();
    await pass(world, 60);
    expect(stream.run.isOver).toBe(seconds > 5);
  });

  it("maxStreamStaleness shorter than maxStaleness is refused at construction", () => {
    const options = { maxStaleness: "30s", maxStreamStaleness: "20s" } as const;
    expect(() => testSessions(options)).toThrow(
      /^maxStreamStaleness must be at least maxStaleness \(30s\), got 20s$/,
    );
  });

  it.each([
    ["1s", /^maxStreamStaleness must be at least 5s, got "1s"$/],
    ["11m", /^maxStreamStaleness must be at most 10m, got "11m"$/],
    ["soon", /^maxStreamStaleness: "soon" is not a valid duration; use a value such as/],
  ])("maxStreamStaleness %s is refused at construction", (value, message) => {
    expect(() => testSessions({ maxStreamStaleness: value as "1s" })).toThrow(message);
  });
});

describe("a change log that has lost entries", () => {
  it("feat:G7 makes every stream ask the store about its session", async () => {
    const inner = memoryStore();
    let lostAt: number | undefined;
    const changes: typeof inner.changes = async (...args) => ({
      ...(await inner.changes(...args)),
      entries: [],
      ...(lostAt !== undefined && { lostAt }),
    });
    const world = await start("endOnExpiry", { store: { ...inner, changes } });
    const stream = await openStream(world.server, world.client, { kind });
    const other = await openStream(world.server, world.client, { kind });
    await inner.revoke(stream.session, "revoked");
    await pass(world, 20);
    expect(stream.run.isOver).toBe(false);
    lostAt = world.server.sessions.clock.now();
    await pass(world, 20);
    await expectEnd(stream, Code.Unauthenticated, Action.SIGN_IN, Reason.SESSION_REVOKED);
    expect(other.run.isOver).toBe(false);
    // The other stream ends when its own access token expires.
    await pass(world, 82);
    await expectEnd(other, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
  });
});

describe("feat:Q2 a method with check: none", () => {
  const check = (stream: "endOnExpiry" | "endOnRevoke") => ({
    methods: { "notes.v1.NotesService/WatchNotes": { check: "none", stream } } as const,
  });

  it("keeps its streams until the access token expires", async () => {
    const world = await start("endOnExpiry", check("endOnExpiry"));
    const stream = await openStream(world.server, world.client, { kind });
    await stream.revoke();
    world.store.failing.add("changes");
    await pass(world, 110);
    expect(stream.run.isOver).toBe(false);
    await pass(world, 11);
    await expectEnd(stream, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
  });

  it("ends its streams on revocation with stream: endOnRevoke", async () => {
    const world = await start("endOnRevoke", check("endOnRevoke"));
    const stream = await openStream(world.server, world.client, { kind });
    expect(world.server.sessions.health().streams).toBe(1);
    await stream.revoke();
    await expectEnd(stream, Code.Unauthenticated, Action.SIGN_IN, Reason.SESSION_REVOKED);
    expect(world.server.sessions.health().streams).toBe(0);
  });
});

describe("sessions.close", () => {
  it("ends open streams, because they would no longer learn of revocations", async () => {
    const world = await start("endOnExpiry");
    const stream = await openStream(world.server, world.client, { kind });
    await world.server.sessions.close();
    const hint = await expectEnd(stream, Code.Unavailable, Action.REOPEN, Reason.SERVER_DRAINING);
    expect(hint?.retryAfter).toBeUndefined();
  });

  it("ends an upload that has not finished within the time to close", async () => {
    const world = await start("endOnExpiry");
    const stream = await openStream(world.server, world.client, { kind: "client stream" });
    const closing = world.server.sessions.close({ within: "1s" });
    await pass(world, 1);
    await closing;
    await pass(world, 1);
    const lost = [Code.Unavailable, Action.RETRY_LATER, Reason.AUTH_UNAVAILABLE] as const;
    expect((await expectEnd(stream, ...lost))?.retryAfter).toBeDefined();
  });
});

describe("the interceptor without protect", () => {
  it("feat:G7 ends streams, also with an in-memory transport", async () => {
    const sessions = testSessions();
    const service = streamingService(sessions);
    const routes = (router: ConnectRouter): void => {
      router.service(NotesService, {
        watchNotes: (request, context) => service.watchNotes(request, context),
      });
    };
    const alone = createRouterTransport(routes, {
      router: { interceptors: [sessions.interceptor] },
    });
    const twice = createRouterTransport(routes, {
      router: {
        requestGate: sessions.requestGate,
        interceptors: [sessions.interceptor, sessions.interceptor],
      },
    });
    for (const transport of [alone, twice]) {
      const { session, tokens } = await sessions.issue({ userId: "alice" });
      const headers = { authorization: `Bearer ${tokens.accessToken}` };
      const messages = createClient(NotesService, transport)
        .watchNotes({}, { headers })
        [Symbol.asyncIterator]();
      await messages.next();
      expect(sessions.health().streams).toBe(1);
      await session.revoke();
      await expect(messages.next()).rejects.toSatisfy(
        (error) => hintOf(error as never)?.reason === Reason.SESSION_REVOKED,
      );
      await service.runs.at(-1)?.over;
    }
  });
});

describe("the clock that counts", () => {
  it("is the store's clock: a jump ends streams that expire by it", async () => {
    const storeClock = createFakeClock();
    const inner = memoryStore();
    const store = { ...watchedStore(inner).store, open: () => inner.open({ clock: storeClock }) };
    const world = await start("endOnExpiry", { store });
    const stream = await openStream(world.server, world.client, { kind });
    // The wall clock of this server does not matter.
    world.server.sessions.clock.setNow(Date.now() + 1e10);
    await pass(world, 5);
    expect(stream.run.isOver).toBe(false);
    storeClock.setNow(storeClock.now() + 120_000);
    await pass(world, 4);
    await expectEnd(stream, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
  });
});

describe("a message", () => {
  it("feat:Q2 is not sent after the session has expired, even if no timer fires", async () => {
    const fake = createFakeClock();
    const clock = { ...fake, after: () => () => {} };
    const world = await start("endOnExpiry", { clock });
    const manner = "keeps sending";
    const stream = await openStream(world.server, world.client, { kind, manner });
    fake.advance("2m");
    const made = stream.run.count;
    await expectEnd(stream, Code.Unauthenticated, Action.REFRESH, Reason.TOKEN_EXPIRED);
    expect(stream.run.count).toBeLessThanOrEqual(made + 1);
    expect(stream.messages.length).toBeLessThanOrEqual(made);
  });
});

describe("a session that ends between the gate and the handler", () => {
  it("feat:G7 its stream never reaches the handler", async () => {
    let revoke = async (): Promise<void> => {};
    const server = await startStreams({}, { router: { requestGate: () => revoke() } });
    const client = connectTo(server, wire);
    closing.push(async () => {
      client.close();
      await server.close();
    });
    const { session, tokens } = await issue(server, "header");
    revoke = () => session.revoke();
    const headers = { authorization: `Bearer ${tokens.access}` };
    const opening = openStream(server, client, { kind, headers });
    await expect(opening).rejects.toMatchObject({ code: Code.Unauthenticated });
    const error = await opening.catch((reason: unknown) => reason);
    expect(hintOf(error as ConnectError)).toMatchObject({
      reason: Reason.SESSION_REVOKED,
      session: session.id,
    });
    expect(server.service.runs).toHaveLength(0);
  });
});

describe("a service that only verifies", () => {
  it.each(["endOnExpiry", "endOnRevoke"] as const)(
    "feat:Q2 ends streams when their access token expires (%s)",
    async (stream) => {
      const issuer = testSessions({ lifetimes });
      const { clock } = issuer;
      const sessions = verifySessions({
        ...{ issuer: realm, jwks: await issuer.jwks(), clock },
        methods: { "notes.v1.NotesService/WatchNotes": { stream } },
      });
      const service = streamingService(sessions);
      const baseUrl = await listenForTest(
        connectNodeAdapter(
          sessions.protect({
            routes: (router) =>
              router.service(NotesService, {
                watchNotes: (request, context) => service.watchNotes(request, context),
              }),
          }),
        ),
      );
      const { tokens, session } = await issuer.issue({ userId: "alice" });
      const transport = createConnectTransport({ baseUrl, httpVersion: "1.1" });
      const headers = { authorization: `Bearer ${tokens.accessToken}` };
      const messages = createClient(NotesService, transport)
        .watchNotes({}, { headers })
        [Symbol.asyncIterator]();
      await messages.next();
      const ended = messages.next();
      ended.catch(() => {});
      await session.revoke();
      clock.advance("1m");
      await tick();
      expect(service.runs[0]?.isOver).toBe(false);
      clock.advance("1m");
      await expect(ended).rejects.toSatisfy(
        (error) => hintOf(error as never)?.action === Action.REFRESH,
      );
      await service.runs[0]?.over;
    },
  );
});
