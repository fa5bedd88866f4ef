import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { latch, type Setup, settle, setup, signedIn, transports } from "./helpers/setup.ts";

describe.each(transports)("a stream on session.transport, %s mode", (via) => {
  it.each([true, false])(
    "is resent once if refused before its first message, with hint header: %s",
    async (hasHintHeader) => {
      const { server, notes } = await signedIn(via);
      server.noHintHeader = !hasHintHeader;
      server.onHandler = (context) => {
        context.responseHeader.set("x-good", "yes");
        context.responseTrailer.set("x-end", "yes");
      };
      server.expireAll();
      const headers: (string | null)[] = [];
      const trailers: (string | null)[] = [];
      const onHeader = (answer: Headers): number => headers.push(answer.get("x-good"));
      const onTrailer = (answer: Headers): number => trailers.push(answer.get("x-end"));
      expect(await texts({ notes }, { onHeader, onTrailer })).toEqual(["a", "b"]);
      expect(server.count("WatchNotes")).toBe(2);
      expect(server.handled.filter((method) => method === "WatchNotes")).toHaveLength(1);
      expect(headers).toEqual([hasHintHeader ? "yes" : null]);
      expect(trailers).toEqual(["yes"]);
    },
  );

  it("explains a second refusal", async () => {
    const { server, notes } = await signedIn(via);
    server.refuseAll = true;
    await expect(texts({ notes })).rejects.toThrow("right after a refresh");
    expect(server.count("WatchNotes")).toBe(2);
  });

  it("throws a refusal after the first message, and refreshes for the next call", async () => {
    const { server, notes } = await signedIn(via);
    server.failAfterFirst = () => server.hint(undefined, { action: 1, session: "s1" });
    const seen: unknown[] = [];
    const error = await (async () => {
      for await (const message of notes.watchNotes({})) {
        seen.push(message);
      }
    })().catch((reason: unknown) => reason);
    expect(ConnectError.from(error).code).toBe(Code.Unauthenticated);
    expect(seen).toHaveLength(1);
    await settle();
    expect(server.count("WatchNotes")).toBe(1);
    expect(server.count("Refresh")).toBe(1);
  });

  it("is never resent if it sends a stream of requests, but refreshes for the next call", async () => {
    const { server, notes } = await signedIn(via);
    for (const call of [importTwo, syncTwo]) {
      server.expireAll();
      const refreshes = server.count("Refresh");
      await expect(call({ notes })).rejects.toMatchObject({ code: Code.Unauthenticated });
      await settle();
      expect(server.count("Refresh")).toBe(refreshes + 1);
      expect(await call({ notes })).toBe(2);
    }
    expect(server.count("ImportNotes")).toBe(2);
    expect(server.count("SyncNotes")).toBe(2);
  });

  it("signs out when a hint declares the session over", async () => {
    const { server, notes, session } = await signedIn(via);
    server.refuse = (context) =>
      context.method.name === "WatchNotes" ? server.over(context, "s1") : undefined;
    await expect(texts({ notes })).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state.status).toBe("signedOut");
  });

  it("is released on abort and on its deadline while it waits for a refresh", async () => {
    const { server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const abort = new AbortController();
    const aborted = texts({ notes }, { signal: abort.signal });
    const late = texts({ notes }, { timeoutMs: 30 });
    aborted.catch(() => {});
    late.catch(() => {});
    await settle();
    abort.abort();
    await expect(aborted).rejects.toMatchObject({ code: Code.Canceled });
    await expect(late).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    slow.open();
  });
});

describe("the request of a stream that can be sent again", () => {
  it.each(["return", "throw"] as const)(
    "is read from the start by every attempt, and no further after %s",
    async (end) => {
      const { session } = setup("header");
      let reads = 0;
      const requests = {
        [Symbol.asyncIterator]: () => ({
          next: async () => ({ done: false as const, value: { number: ++reads } }),
        }),
      };
      const seen: unknown[] = [];
      const transport = session.interceptor(async (request) => {
        const reader = (request.message as AsyncIterable<unknown>)[Symbol.asyncIterator]();
        seen.push((await reader.next()).value);
        await reader[end]?.("the attempt failed").catch((error: unknown) => seen.push(error));
        seen.push((await reader.next()).done);
        throw new ConnectError("down", Code.Unavailable);
      });
      const method = NotesService.method.watchNotes;
      const request = {
        ...{ stream: true as const, method, service: NotesService, requestMethod: "POST" },
        ...{ url: "https://api.test", header: new Headers(), message: requests },
        ...{ signal: new AbortController().signal, contextValues: createContextValues() },
      };
      await expect(transport(request as never)).rejects.toThrow("down");
      expect(seen).toEqual([
        { number: 1 },
        ...(end === "throw" ? ["the attempt failed"] : []),
        true,
      ]);
      expect(reads).toBe(1);
    },
  );
});

async function texts({ notes }: Pick<Setup, "notes">, options = {}): Promise<unknown[]> {
  const seen: unknown[] = [];
  for await (const message of notes.watchNotes({}, options)) {
    seen.push(message.note?.text);
  }
  return seen;
}

async function* two(): AsyncGenerator<object> {
  yield {};
  yield {};
}

async function importTwo({ notes }: Pick<Setup, "notes">): Promise<number> {
  return (await notes.importNotes(two())).imported;
}

async function syncTwo({ notes }: Pick<Setup, "notes">): Promise<number> {
  let last = 0;
  for await (const answer of notes.syncNotes(two())) {
    last = answer.number;
  }
  return last;
}
