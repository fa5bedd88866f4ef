import http from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout } from "node:timers/promises";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessions, type SessionEvent, type SessionStore } from "rpc-session";
import { healthHandler } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { signedIn, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { Operations } from "../../src/server/call/operations.ts";
import type { VerifyingCore } from "../../src/server/core.ts";
import { OpenStreams } from "../../src/server/streams/open.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { issue } from "../helpers/presented.ts";
import { startNotes } from "../helpers/server.ts";
import { connectTo, hintOf, openStream, startStreams, streamCells } from "../helpers/streams.ts";
import { watchedStore } from "../helpers/watched-store.ts";

/** A store whose answers to `insert` and `revoke` take real time. */
function slowStore(ms = 20): SessionStore {
  const inner = memoryStore();
  return {
    ...inner,
    insert: async (session) => {
      await setTimeout(ms);
      return inner.insert(session);
    },
    revoke: async (id, endedBy) => {
      await setTimeout(ms);
      return inner.revoke(id, endedBy);
    },
  };
}

function closed(): ConnectError {
  return expect.objectContaining({
    kind: "unavailable",
    message: "the server is closing; try again, and another server will answer",
  });
}

describe("feat:O10 sessions.close", () => {
  it("waits for operations under way, and refuses those that begin later", async () => {
    const sessions = testSessions({ store: slowStore() });
    const { session } = await sessions.issue({ userId: "alice" });
    const own = await sessions.issue({ userId: "carol" });
    const underWay = [
      ...Array.from({ length: 100 }, () => sessions.issue({ userId: "bob" })),
      sessions.revoke(session.id),
      own.session.revoke(),
      sessions.keys.list(),
    ];
    await setTimeout(4);
    const closing = sessions.close();
    const refused = [
      () => sessions.issue({ userId: "bob" }),
      () => sessions.find(session.id),
      () => own.session.info(),
      () => sessions.keys.list(),
      () => sessions.secrets.list(),
      () => sessions.jwks(),
      () => sessions.ready(),
      () => sessions.revokeEverybody(),
    ];
    for (const operation of refused) {
      await expect(operation()).rejects.toEqual(closed());
    }
    expect((await Promise.allSettled(underWay)).map(({ status }) => status)).toEqual(
      underWay.map(() => "fulfilled"),
    );
    await closing;
    expect(sessions.health()).toMatchObject({ status: "closed" });
  });

  it("lets the handler of a call under way use the sessions, and refuses new calls", async () => {
    const { sessions, notes, entered, go } = await notesWithSlowHandler();
    const first = notes.listNotes({});
    await entered;
    const closing = sessions.close();
    await expect(notes.listNotes({})).rejects.toMatchObject({
      code: Code.Unavailable,
      rawMessage: "the server is closing; try again, and another server will answer",
    });
    go();
    expect((await first).notes).toMatchObject([{ text: "issued for alice" }]);
    await closing;
  });

  it("waits for an upload", async () => {
    const server = await startStreams();
    onTestFinished(() => server.close());
    const { tokens } = await issue(server, "header");
    const { request, response } = post(server.port.h1, "ImportNotes", {
      "content-type": "application/connect+json",
      authorization: `Bearer ${tokens.access}`,
    });
    request.write(envelope);
    const began = async () => {
      while ((server.service.runs[0]?.count ?? 0) === 0) {
        await setTimeout(1);
      }
    };
    await began();
    let isClosed = false;
    const closing = server.sessions.close().then(() => {
      isClosed = true;
    });
    await setTimeout(20);
    expect(isClosed).toBe(false);
    request.end(envelope);
    expect(await response).toContain('"imported":2');
    await closing;
  });

  it("waits for a call whose body is still on its way", async () => {
    const passed = Promise.withResolvers<void>();
    const server = await startNotes({
      adapt: (s, routes) => s.protect({ routes, requestGate: () => passed.resolve() }),
    });
    onTestFinished(() => server.close());
    const { tokens } = await issue(server, "header");
    const { request, response } = post(server.port.h1, "AddNote", {
      "content-type": "application/json",
      authorization: `Bearer ${tokens.access}`,
    });
    request.write('{"note":');
    await passed.promise;
    let isClosed = false;
    const closing = server.sessions.close().then(() => {
      isClosed = true;
    });
    await setTimeout(20);
    expect([isClosed, server.calls.handled]).toEqual([false, 0]);
    request.end('{"text":"milk"}}');
    expect(await response).toBe("{}");
    expect(server.calls.handled).toBe(1);
    await closing;
  });

  it("forgets calls that ended before their handler, however many there were", async () => {
    const operations = new Operations();
    const ended = AbortSignal.abort();
    for (let i = 0; i < 10; i++) {
      operations.begin({}, ended);
    }
    const aborts = Array.from({ length: 3_000 }, () => new AbortController());
    for (const abort of aborts) {
      operations.begin({}, abort.signal);
      abort.abort();
    }
    expect(Number(/^calls: (\d+),/.exec(operations.left ?? "")?.[1])).toBeLessThanOrEqual(1_024);
    await operations.close(createFakeClock(), 1_000);
    expect(operations.left).toBeUndefined();
  });

  it("says what was under way when its time is over", async () => {
    const events: SessionEvent[] = [];
    const { sessions, notes, entered, go } = await notesWithSlowHandler({
      onEvent: (event) => events.push(event),
    });
    const call = notes.listNotes({});
    call.catch(() => {});
    await entered;
    const closing = sessions.close({ within: "50ms" });
    sessions.clock.advance("50ms");
    await closing;
    expect(events.filter(({ type }) => type === "warning")).toEqual([
      {
        type: "warning",
        option: "close",
        advice:
          "close waited 50ms, but not everything under way has finished (calls: 1, operations: 0); stop the HTTP server before you close the sessions, or set within to a longer time",
      },
    ]);
    go();
    await expect(call).rejects.toMatchObject({ code: Code.Unavailable });
  });

  it("gives up on a store that does not answer", async () => {
    const { store, hanging } = watchedStore();
    const events: SessionEvent[] = [];
    const sessions = createSessions({
      ...{ issuer: "https://test.example", secret: "x".repeat(32) },
      store: { ...store, close: () => new Promise(() => {}) },
      onEvent: (event) => events.push(event),
    });
    await sessions.ready();
    hanging.add("insert");
    const stuck = sessions.issue({ userId: "alice" });
    stuck.catch(() => {});
    await sessions.close({ within: "0s" });
    expect(events.map((event) => "advice" in event && event.advice)).toEqual([
      expect.stringMatching(/^close waited 0ms, .* \(calls: 0, operations: 1\)/),
      "close could not write what waits and close the store within 2s; check that the store is in reach",
    ]);
  });

  it.each([{ within: "11m" }, { within: 5 }, { whithin: "5s" }])(
    "refuses the options %o, and closes nothing",
    async (options) => {
      const sessions = testSessions();
      await expect(sessions.close(options as never)).rejects.toThrow(TypeError);
      await expect(sessions.drain(options as never)).rejects.toThrow(TypeError);
      expect(sessions.health().status).not.toBe("draining");
      await sessions.issue({ userId: "alice" });
    },
  );

  it("writes the confirmations that wait", async () => {
    const { store, take } = watchedStore();
    const sessions = testSessions({ store });
    const { tokens } = await sessions.issue({ userId: "alice" });
    sessions.clock.advance("1m");
    const requestHeader = new Headers({ authorization: `Bearer ${tokens.accessToken}` });
    await sessions.getSession({
      requestHeader,
      requestMethod: "POST",
      responseHeader: new Headers(),
    });
    expect(take()).not.toContain("confirm");
    await sessions.close();
    expect(take()).toContain("confirm");
  });
});

describe.each(streamCells)("feat:O10 sessions.drain, $name", ({ kind, wire }) => {
  it("ends streams with the hint to open them again elsewhere, but no upload", async () => {
    const server = await startStreams();
    const client = connectTo(server, wire);
    onTestFinished(async () => {
      client.close();
      await server.close();
    });
    const stream = await openStream(server, client, { kind });
    expect(server.sessions.health().status).toBe("fresh");
    await server.sessions.drain();
    expect(server.sessions.health().status).toBe("draining");
    expect(
      (await healthHandler(server.sessions)(new Request("http://localhost/ready")))?.status,
    ).toBe(503);
    if (kind === "client stream") {
      expect(stream.run.isOver).toBe(false);
      stream.cancel();
      return;
    }
    const error = await stream.ended;
    await stream.run.over;
    expect(error?.code).toBe(Code.Unavailable);
    const drained = { action: Action.REOPEN, reason: Reason.SERVER_DRAINING };
    expect(hintOf(error)).toMatchObject(drained);
    expect(hintOf(error)?.retryAfter).toBeUndefined();
    expect(error?.metadata.get("rpcsession-hint")).toBe("reopen");
    const refused = await openStream(server, client, { kind }).then(
      () => expect.unreachable("the stream was opened"),
      (reason: unknown) => ConnectError.from(reason),
    );
    expect([refused.code, hintOf(refused), refused.metadata.get("rpcsession-hint")]).toMatchObject([
      Code.Unavailable,
      drained,
      "reopen",
    ]);
    // Other calls go on.
    await server.sessions.issue({ userId: "alice" });
  });
});

describe("feat:O10 sessions.drain", () => {
  it("leaves streams alone whose policy is never, and close does not wait for them", async () => {
    const server = await startStreams({ methods: { "*": { stream: "never" } } });
    const client = connectTo(server, { name: "", protocol: "connect", http: "h1" });
    const stream = await openStream(server, client, { kind: "server stream" });
    await server.sessions.drain();
    await server.sessions.close();
    expect(stream.run.isOver).toBe(false);
    stream.cancel();
    await stream.run.over;
    client.close();
    await server.close();
  });

  it("ends streams without a session, too", async () => {
    const server = await startStreams({ methods: { "*": { auth: "optional" } } });
    const client = connectTo(server, { name: "", protocol: "connect", http: "h1" });
    const stream = await openStream(server, client, { kind: "server stream", headers: {} });
    await server.sessions.drain();
    expect(hintOf(await stream.ended)?.action).toBe(Action.REOPEN);
    client.close();
    await server.close();
  });

  it("is no failure: it is reported as a refused call, at the level info", async () => {
    const events: SessionEvent[] = [];
    const server = await startStreams({ onEvent: (event) => events.push(event) });
    const client = connectTo(server, { name: "", protocol: "connect", http: "h1" });
    const stream = await openStream(server, client, { kind: "server stream" });
    await server.sessions.drain();
    await stream.ended;
    expect(events.filter(({ type }) => type === "failed")).toEqual([]);
    expect(events).toContainEqual(
      expect.objectContaining({ type: "refused", reason: "SERVER_DRAINING" }),
    );
    client.close();
    await server.close();
  });

  it("ends thousands of streams in groups, within the given time", async () => {
    const operations = new Operations();
    const core = {
      clock: createFakeClock(),
      maxStreamStaleness: 60_000,
      operations,
      revocations: {},
    };
    const streams = new OpenStreams(core as unknown as VerifyingCore);
    let ended = 0;
    for (let i = 0; i < 2_000; i++) {
      streams.drained(() => {
        ended += 1;
      });
    }
    const drained = streams.drain(100);
    // Four groups in 100 ms.
    expect(ended).toBe(500);
    await drained;
    expect(ended).toBe(2_000);
    expect(() => streams.drained(() => {})).toThrow(/about to stop/);
  });
});

/** Notes whose handler waits for `go`, then creates a session. */
async function notesWithSlowHandler(options: Parameters<typeof testSessions>[0] = {}) {
  const sessions = testSessions(options);
  const entered = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const transport = createRouterTransport(
    (router) =>
      router.service(NotesService, {
        async listNotes(_request, context) {
          const { userId } = sessions.require(context);
          entered.resolve();
          await go.promise;
          await sessions.issue({ userId });
          await sessions.require(context).info();
          return { notes: [{ text: `issued for ${userId}` }] };
        },
      }),
    {
      router: { requestGate: sessions.requestGate, interceptors: [sessions.interceptor] },
      transport: { interceptors: [await signedIn(sessions, { userId: "alice" })] },
    },
  );
  const notes = createClient(NotesService, transport);
  return { sessions, notes, entered: entered.promise, go: go.resolve };
}

/** One message of a Connect stream: `{}`. */
const envelope = Buffer.from([0, 0, 0, 0, 2, 0x7b, 0x7d]);

/** Sends a call over Connect, whose body the test sends. */
function post(port: number, method: string, headers: Record<string, string>) {
  const path = `/notes.v1.NotesService/${method}`;
  const request = http.request({ host: "127.0.0.1", port, method: "POST", path, headers });
  const response = new Promise<string>((resolve, reject) => {
    request.on("error", reject).on("response", (answer) => {
      text(answer).then(resolve, reject);
    });
  });
  return { request, response };
}
