import { Code, ConnectError, createClient, type HandlerContext } from "@connectrpc/connect";
import type { Session } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { issue } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { type Connections, connectTo, hintOf, streamWires, tick } from "../helpers/streams.ts";
import { watchedStore } from "../helpers/watched-store.ts";

type Handler = (context: HandlerContext, session: Session) => AsyncGenerator<string>;

describe.each(streamWires)("a handler that ends the session of its own stream, $name", (wire) => {
  let server: NotesServer;
  let sessions: TestSessions;
  let client: Connections;
  let handler: Handler;
  let isOver: Promise<void>;
  beforeEach(async () => {
    server = await startNotes({
      sessions: { public: [] },
      adapt(made) {
        sessions = made;
        return made.protect({ routes: (router) => router.service(NotesService, { watchNotes }) });
      },
    });
    client = connectTo(server, wire);
  });
  afterEach(async () => {
    client.close();
    await server.close();
  });

  async function* watchNotes(_request: unknown, context: HandlerContext) {
    const over = Promise.withResolvers<void>();
    isOver = over.promise;
    try {
      for await (const text of handler(context, sessions.require(context))) {
        yield { note: { text } };
      }
    } finally {
      over.resolve();
    }
  }

  /** Returns the messages, the error that ended the stream, and the response headers. */
  async function watch(onMessage: (text: string, header: Headers) => unknown = () => {}) {
    const { tokens } = await issue(server, "header");
    const texts: (string | undefined)[] = [];
    let header = new Headers();
    let error: ConnectError | undefined;
    try {
      for await (const { note } of createClient(NotesService, client.transport).watchNotes(
        {},
        {
          headers: { authorization: `Bearer ${tokens.access}` },
          onHeader: (received) => {
            header = received;
          },
        },
      )) {
        texts.push(note?.text);
        await onMessage(note?.text ?? "", header);
      }
    } catch (reason) {
      error = ConnectError.from(reason);
    }
    return { texts, error, header };
  }

  it("can send one more message, then the stream ends", async () => {
    handler = async function* (_context, session) {
      yield "hello";
      await session.revoke();
      yield "you are signed out";
      yield "and one too many";
    };
    const { texts, error } = await watch();
    expect(texts).toEqual(["hello", "you are signed out"]);
    expect(error?.code).toBe(Code.Unauthenticated);
    expect(hintOf(error)).toMatchObject({
      action: Action.SIGN_IN,
      reason: Reason.SESSION_REVOKED,
    });
    await isOver;
  });

  it("can end its stream successfully; the headers report the end of the session", async () => {
    handler = async function* (_context, session) {
      yield* [];
      await session.revoke();
    };
    const { texts, error, header } = await watch();
    expect(error).toBeUndefined();
    expect(texts).toEqual([]);
    expect(header.get("rpcsession-session")).toMatch(/^event=ended&/);
  });

  it("can fail with its own error", async () => {
    handler = async function* (_context, session) {
      yield "hello";
      await session.revoke();
      throw new ConnectError("no more", Code.NotFound);
    };
    expect((await watch()).error?.code).toBe(Code.NotFound);
  });

  it("is released after 5 s if it does neither", async () => {
    let aborted: unknown;
    const revoked = Promise.withResolvers<void>();
    handler = async function* ({ signal }, session) {
      yield "hello";
      await session.revoke();
      revoked.resolve();
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      aborted = signal.reason;
    };
    const watching = watch();
    const states: string[] = [];
    void watching.then(() => states.push("over"));
    await revoked.promise;
    for (let second = 0; second < 4; second++) {
      server.sessions.clock.advance("1s");
      await tick();
    }
    expect(aborted).toBeUndefined();
    expect(states).toEqual([]);
    server.sessions.clock.advance("2s");
    const { error } = await watching;
    expect(hintOf(error)).toMatchObject({ reason: Reason.SESSION_REVOKED });
    await isOver;
    expect(hintOf(aborted as ConnectError)).toMatchObject({ reason: Reason.SESSION_REVOKED });
  });

  it("continues as long as the session that it created instead", async () => {
    const created: Session[] = [];
    handler = async function* (context, session) {
      created.push(session, await sessions.create(context, { userId: "bob" }));
      for (let i = 0; i < 3; i++) {
        yield String(i);
      }
      await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
    };
    const { texts, error } = await watch(async (text, header) => {
      if (text === "2") {
        const authorization = `Bearer ${header.get("rpcsession-access-token")}`;
        const headers = { authorization };
        await createClient(SessionService, client.transport).signOut({}, { headers });
      }
    });
    expect(texts).toEqual(["0", "1", "2"]);
    expect(hintOf(error)).toMatchObject({
      ...{ reason: Reason.SESSION_REVOKED, session: created[1]?.id },
    });
    await isOver;
    expect(created[1]?.id).not.toBe(created[0]?.id);
  });
});

it.each(streamWires.slice(0, 1))(
  "a handler whose own revoke hangs ends within seconds after a revoke from elsewhere",
  async (wire) => {
    const inner = watchedStore();
    const store = watchedStore(inner.store);
    let sessions: TestSessions | undefined;
    let messages = 0;
    const server = await startNotes({
      sessions: { public: [], store: store.store },
      adapt(made) {
        sessions = made;
        return made.protect({ routes: (router) => router.service(NotesService, { watchNotes }) });
      },
    });
    async function* watchNotes(_request: unknown, context: HandlerContext) {
      store.hanging.add("revoke");
      void sessions?.require(context).revoke();
      // Wait for the reader, because its reading moves the clock.
      for (let sent = 1; !context.signal.aborted; sent++) {
        yield {};
        do {
          await tick();
        } while (sent > messages && !context.signal.aborted);
      }
    }
    const elsewhere = testSessions({ store: inner.store, clock: server.sessions.clock });
    const client = connectTo(server, wire);
    const { session, tokens } = await issue(server, "header");
    const headers = { authorization: `Bearer ${tokens.access}` };
    const read = async () => {
      const watching = createClient(NotesService, client.transport).watchNotes({}, { headers });
      for await (const _ of watching) {
        messages += 1;
        await (messages === 1 ? elsewhere.revoke(session.id) : tick());
        server.sessions.clock.advance("500ms");
      }
    };
    const error = ConnectError.from(await read().catch((reason: unknown) => reason));
    expect(error.code).toBe(Code.Unauthenticated);
    expect(hintOf(error)?.reason).toBe(Reason.SESSION_REVOKED);
    expect(messages).toBeLessThan(40);
    client.close();
    await elsewhere.close();
    // The operation that hangs is not waited for.
    await server.sessions.close({ within: "0s" });
    store.hanging.clear();
    await server.close();
  },
  20_000,
);
