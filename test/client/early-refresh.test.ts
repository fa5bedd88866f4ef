import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { latch, settle, signedIn, transports } from "./helpers/setup.ts";

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
});
