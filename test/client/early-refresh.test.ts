import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type Transport,
} from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { withRefresh } from "../../src/client/index.ts";
import { latch, type Setup, settle, signedIn, transports, withJar } from "./helpers/setup.ts";

/** A transport to the same server that knows nothing of the session. */
function plainTransport({ server, jar }: Setup): Transport {
  return createRouterTransport(server.routes, {
    router: { requestGate: server.gate },
    transport: { interceptors: [withJar(jar)] },
  });
}

async function drain(stream: AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  for await (const _ of stream) {
    count += 1;
  }
  return count;
}

describe.each(transports)("feat:P8 an early refresh, %s mode", (via) => {
  it.each([
    { age: 719_999, early: undefined, refreshes: 0 },
    { age: 720_000, early: undefined, refreshes: 1 },
    { age: 449_999, early: 0.5, refreshes: 0 },
    { age: 450_000, early: 0.5, refreshes: 1 },
    { age: 899_999, early: 1, refreshes: 0 },
  ])(
    "runs $refreshes times at $age ms of a 15 min lifetime with earlyRefresh $early",
    async (row) => {
      const options = row.early === undefined ? {} : { earlyRefresh: row.early };
      const { clock, server, notes } = await signedIn(via, options);
      clock.advance(row.age);
      await notes.addNote({});
      await settle();
      expect(server.count("Refresh")).toBe(row.refreshes);
      expect(server.count("AddNote")).toBe(1);
    },
  );

  it("does not delay a unary call while the token is valid", async () => {
    const { clock, server, notes } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    clock.advance(800_000);
    await notes.addNote({});
    expect(server.count("AddNote")).toBe(1);
    slow.open();
  });

  it("delays a unary call once the token has expired", async () => {
    const { clock, server, notes } = await signedIn(via);
    clock.advance(900_000);
    await Promise.all([notes.addNote({}), notes.addNote({})]);
    expect(server.count("AddNote")).toBe(2);
    expect(server.count("Refresh")).toBe(1);
    expect(server.seen.map((call) => call.method).indexOf("Refresh")).toBe(1);
  });

  it("delays every stream", async () => {
    const { clock, server, notes } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    clock.advance(720_000);
    const stream = drain(notes.watchNotes({}));
    const upload = notes.importNotes(
      (async function* () {
        yield {};
      })(),
    );
    await settle();
    expect(server.count("WatchNotes") + server.count("ImportNotes")).toBe(0);
    slow.open();
    expect(await stream).toBe(2);
    expect((await upload).imported).toBe(1);
    expect(server.count("Refresh")).toBe(1);
  });

  it("releases a waiting call at the deadline of the call", async () => {
    const { clock, server, notes } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    clock.advance(900_000);
    await expect(notes.addNote({}, { timeoutMs: 20 })).rejects.toMatchObject({
      code: Code.DeadlineExceeded,
    });
    expect(server.count("AddNote")).toBe(0);
    slow.open();
  });

  it("sends the call anyway if it fails, and is not repeated for 10 s", async () => {
    const { clock, server, notes, session } = await signedIn(via);
    server.refreshError = () => new ConnectError("down", Code.Unavailable);
    clock.advance(720_000);
    expect(await drain(notes.watchNotes({}))).toBe(2);
    expect(await drain(notes.watchNotes({}))).toBe(2);
    expect(server.count("Refresh")).toBe(1);
    clock.advance(10_000);
    await drain(notes.watchNotes({}));
    expect(server.count("Refresh")).toBe(2);
    expect(session.state.status).toBe("signedIn");
  });

  it("does not happen after a sign-out", async () => {
    const { clock, server, notes, session } = await signedIn(via);
    await session.signOut();
    clock.advance(900_000);
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(server.count("Refresh")).toBe(0);
  });

  it("delays a large message while it is due, because an early refusal of it may be lost", async () => {
    const { clock, server, notes } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    clock.advance(800_000);
    await notes.addNote({ note: { text: "x".repeat(65_000) } });
    expect(server.count("AddNote")).toBe(1);
    const large = notes.addNote({ note: { text: "x".repeat(66_000) } });
    await settle();
    expect(server.count("AddNote")).toBe(1);
    slow.open();
    await large;
    expect(server.count("Refresh")).toBe(1);
  });

  it("happens on time although the monotonic clock stood still while the machine slept", async () => {
    const { clock, server, notes } = await signedIn(via);
    clock.sleep(900_000);
    await notes.addNote({});
    expect(server.seen.map(({ method }) => method)).toEqual(["SignIn", "Refresh", "AddNote"]);
    clock.sleep(-86_400_000);
    clock.advance(720_000);
    await notes.addNote({});
    await settle();
    expect(server.count("Refresh")).toBe(2);
  });
});

describe.each(transports)("after a refusal for an expired token, %s mode", (via) => {
  async function* requests() {
    yield {};
    yield {};
  }

  it.each(["the transport of the session", "withRefresh"])(
    "a request stream that is sent again waits for the refresh that the refusal started: %s",
    async (how) => {
      const made = await signedIn(via);
      const { server, session } = made;
      const plain = createClient(NotesService, plainTransport(made));
      const notes = how === "withRefresh" ? withRefresh(plain, session) : made.notes;
      const send = async (): Promise<unknown> => (await notes.importNotes(requests())).imported;
      expect(await send()).toBe(2);
      const talk = (): Promise<number> => drain(notes.syncNotes(requests()));
      expect(await talk()).toBe(2);
      for (const again of [send, talk]) {
        server.seen.length = 0;
        const slow = latch();
        server.hold.Refresh = slow.promise;
        server.expireAll();
        await expect(again()).rejects.toMatchObject({ code: Code.Unauthenticated });
        const second = again();
        await settle();
        expect(server.seen.map(({ method }) => method).slice(1)).toEqual(["Refresh"]);
        slow.open();
        expect(await second).toBe(2);
        expect(server.count("Refresh")).toBe(1);
      }
    },
  );
});
