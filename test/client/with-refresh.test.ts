import {
  Code,
  createClient,
  createContextKey,
  createContextValues,
  createRouterTransport,
} from "@connectrpc/connect";
import { describe, expect, expectTypeOf, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { header } from "../../src/base/wire.ts";
import { type SessionClient, withRefresh } from "../../src/client/index.ts";
import { latch, type Setup, settle, setup, transports, withJar } from "./helpers/setup.ts";

async function* two(): AsyncGenerator<object> {
  yield {};
  yield {};
}

/** Wraps a client whose transport does not handle sessions. */
async function wrapped(via: (typeof transports)[number]): Promise<Setup> {
  const made = setup(via);
  const { server, jar } = made;
  const plain = createRouterTransport(server.routes, {
    router: { requestGate: server.gate },
    transport: { interceptors: [withJar(jar)] },
  });
  const notes = withRefresh(createClient(NotesService, plain), made.session);
  await notes.signIn({});
  return { ...made, notes };
}

async function texts(
  stream: AsyncIterable<{ note?: { text: string } | undefined }>,
): Promise<unknown[]> {
  const seen: unknown[] = [];
  for await (const message of stream) {
    seen.push(message.note?.text);
  }
  return seen;
}

describe.each(transports)("withRefresh(client, session), %s mode", (via) => {
  it("feat:P1 signs in and refreshes once for 100 unary calls", async () => {
    const { server, notes, session } = await wrapped(via);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
    server.expireAll();
    await Promise.all(Array.from({ length: 100 }, () => notes.addNote({})));
    expect(server.count("Refresh")).toBe(1);
    expect(server.handled.filter((method) => method === "AddNote")).toHaveLength(100);
  });

  it.each([0, -1])("a timeout of %i ms is none, as in Connect", async (timeoutMs) => {
    const { clock, server, notes } = await wrapped(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({}, { timeoutMs });
    await settle();
    clock.advance(5_000);
    slow.open();
    await call;
    expect(server.count("AddNote")).toBe(2);
  });

  it("resends a stream that is refused before its first message, and shows only the final headers", async () => {
    const { server, notes } = await wrapped(via);
    server.onHandler = (context) => {
      context.responseHeader.set("x-good", "yes");
    };
    for (const _ of ["kind unknown", "kind known"]) {
      server.expireAll();
      const headers: (string | null)[] = [];
      const onHeader = (answer: Headers): number => headers.push(answer.get("x-good"));
      expect(await texts(notes.watchNotes({}, { onHeader }))).toEqual(["a", "b"]);
      expect(headers).toEqual(["yes"]);
    }
    expect(server.count("WatchNotes")).toBe(4);
  });

  it("shows the headers of the refusal if the call finally fails", async () => {
    const { server, notes, session } = await wrapped(via);
    server.expireAll();
    server.refreshError = (id) => server.over(undefined, id);
    const headers: (string | null)[] = [];
    const onHeader = (answer: Headers): number => headers.push(answer.get(header.hint));
    await expect(texts(notes.watchNotes({}, { onHeader }))).rejects.toThrow(/refused/);
    expect(headers).toEqual(["refresh"]);
    expect(session.state.status).toBe("signedOut");
  });

  it("never resends an iterable of requests, but refreshes for the next call", async () => {
    const { server, notes } = await wrapped(via);
    server.expireAll();
    await expect(notes.importNotes(two())).rejects.toMatchObject({ code: Code.Unauthenticated });
    await settle();
    expect((await notes.importNotes(two())).imported).toBe(2);
    expect(server.count("ImportNotes")).toBe(2);
    server.expireAll();
    await expect(texts(notes.syncNotes(two()) as never)).rejects.toThrow(/refused/);
    expect(server.count("SyncNotes")).toBe(1);
  });

  it("explains a second refusal of the same call", async () => {
    const { server, notes } = await wrapped(via);
    server.refuseAll = true;
    await expect(notes.addNote({})).rejects.toThrow("right after a refresh");
    expect(server.count("AddNote")).toBe(2);
  });

  it("preserves the caller's headers, callbacks, context values and deadline", async () => {
    const { clock, server, notes } = await wrapped(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const called: string[] = [];
    const key = createContextKey("none");
    const call = notes.addNote(
      {},
      {
        headers: { "x-mine": "1" },
        timeoutMs: 9_000,
        contextValues: createContextValues().set(key, "mine"),
        onHeader: () => called.push("header"),
        onTrailer: () => called.push("trailer"),
      },
    );
    await settle();
    clock.advance(2_000);
    slow.open();
    await call;
    expect(called).toEqual(["header", "trailer"]);
    expect(server.last("AddNote").get("x-mine")).toBe("1");
    expect(server.last("AddNote").get("connect-timeout-ms")).toBe("7000");
  });

  it("releases a waiting call on abort and on its deadline", async () => {
    const { clock, server, notes } = await wrapped(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const abort = new AbortController();
    const aborted = notes.addNote({}, { signal: abort.signal });
    const late = notes.addNote({}, { timeoutMs: 5_000 });
    for (const call of [aborted, late]) {
      call.catch(() => {});
    }
    await settle();
    abort.abort();
    clock.advance(5_000);
    await expect(aborted).rejects.toMatchObject({ code: Code.Canceled });
    await expect(late).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    slow.open();
  });

  it("leaves the call to an interceptor on the same transport", async () => {
    const { server, notes, session } = setup(via);
    const double = withRefresh(withRefresh(notes, session), session);
    await double.signIn({});
    expect(session.state.sessionId).toBe("s1");
    server.refuseAll = true;
    await expect(double.addNote({})).rejects.toThrow("right after a refresh");
    expect(server.count("AddNote")).toBe(2);
    await expect(texts(double.watchNotes({}))).rejects.toThrow(/refused/);
    expect(server.count("WatchNotes")).toBeLessThanOrEqual(2);
  });

  it("waits for an early refresh only from the second call of a method onwards", async () => {
    const { clock, server, notes } = await wrapped(via);
    await notes.addNote({});
    clock.advance(900_000);
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(1);
    expect(server.count("AddNote")).toBe(2);
  });
});

describe("withRefresh(client, session)", () => {
  it.each(transports)(
    "delays the second stream of a method until an early refresh has finished: %s",
    async (via) => {
      const { clock, server, notes } = await wrapped(via);
      await texts(notes.watchNotes({}));
      const slow = latch();
      server.hold.Refresh = slow.promise;
      clock.advance(720_000);
      const stream = texts(notes.watchNotes({}));
      await settle();
      expect(server.count("Refresh")).toBe(1);
      expect(server.count("WatchNotes")).toBe(1);
      slow.open();
      expect(await stream).toEqual(["a", "b"]);
      expect(server.count("WatchNotes")).toBe(2);
    },
  );

  it("returns an object of the client's type", () => {
    const { notes, session } = setup("header");
    expectTypeOf(withRefresh(notes, session)).toEqualTypeOf(notes);
  });

  it("sends a call at most twice even if the interceptor is installed twice", async () => {
    const { server, session, notes } = setup("header");
    const twice = createRouterTransport(server.routes, {
      router: { requestGate: server.gate },
      transport: { interceptors: [session.interceptor, session.interceptor] },
    });
    await notes.signIn({});
    server.refuseAll = true;
    await expect(createClient(NotesService, twice).addNote({})).rejects.toThrow(/refused/);
    expect(server.count("AddNote")).toBe(2);
  });

  it.each([
    ["client", {}],
    ["client", { a: 1 }],
    ["client", null],
    ["client", []],
  ])("throws a TypeError naming the %s for %j", (name, client) => {
    const { session } = setup("header");
    expect(() => withRefresh(client as object, session)).toThrow(TypeError);
    expect(() => withRefresh(client as object, session)).toThrow(name);
  });

  it("throws a TypeError for a session that createSessionClient did not return", () => {
    const { notes } = setup("header");
    expect(() => withRefresh(notes, {} as SessionClient)).toThrow(
      /`session` must be the object returned by createSessionClient/,
    );
  });
});
