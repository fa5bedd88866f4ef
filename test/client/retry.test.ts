import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { Action, RefreshHintSchema, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { header } from "../../src/base/wire.ts";
import { latch, settle, signedIn, transports } from "./helpers/setup.ts";

describe.each(transports)("a unary call on session.transport, %s mode", (via) => {
  it("feat:P1, feat:P2 refreshes once for 1,000 refused calls and runs every handler once", async () => {
    const { server, notes } = await signedIn(via);
    server.expireAll();
    await Promise.all(Array.from({ length: 1000 }, () => notes.addNote({})));
    expect(server.count("Refresh")).toBe(1);
    expect(server.count("AddNote")).toBeLessThanOrEqual(2000);
    expect(server.handled.filter((method) => method === "AddNote")).toHaveLength(1000);
  });

  it("is sent again without a refresh if another call has refreshed meanwhile", async () => {
    const { server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    let first = true;
    server.refuse = (context) => {
      if (context.method.name === "ListNotes" && first) {
        first = false;
        return server.hint(context, { action: Action.REFRESH, session: "s1" });
      }
    };
    server.hold.Refresh = slow.promise;
    const calls = [notes.listNotes({}), notes.addNote({})];
    await settle();
    slow.open();
    await Promise.all(calls);
    expect(server.count("Refresh")).toBe(1);
  });

  it("carries the new token instead of the old one when it is sent again", async () => {
    const { server, notes, jar } = await signedIn(via);
    server.expireAll();
    const before = new Map(jar);
    await notes.addNote({});
    const [old, fresh] = server.seen
      .filter((call) => call.method === "AddNote")
      .map((call) => call.header.get(via === "header" ? "authorization" : "cookie"));
    expect(old).not.toBe(fresh);
    expect(fresh).toContain(".2.");
    expect(server.last("AddNote").get(header.transport)).toBe(via);
    expect([...jar]).toHaveLength(via === "cookie" ? before.size : 0);
  });

  it("returns at once on abort or deadline while the refresh continues for other calls", async () => {
    const { server, notes, session } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const abort = new AbortController();
    const aborted = notes.addNote({}, { signal: abort.signal });
    const late = notes.addNote({}, { timeoutMs: 30 });
    const patient = notes.addNote({});
    aborted.catch(() => {});
    late.catch(() => {});
    await settle();
    abort.abort();
    await expect(aborted).rejects.toMatchObject({ code: Code.Canceled });
    await expect(late).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    slow.open();
    await patient;
    expect(server.count("Refresh")).toBe(1);
    expect(session.state.status).toBe("signedIn");
  });

  it("sends the remaining time as the deadline of the second attempt", async () => {
    const { clock, server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({}, { timeoutMs: 9_000 });
    await settle();
    clock.advance(2_500);
    slow.open();
    await call;
    const sent = server.seen.filter((seen) => seen.method === "AddNote");
    const left = sent.map((seen) => seen.header.get("connect-timeout-ms"));
    expect(left).toEqual(["9000", "6500"]);
  });

  it("is not sent again when no time is left", async () => {
    const { clock, server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({}, { timeoutMs: 5_000 });
    call.catch(() => {});
    await settle();
    clock.advance(5_000);
    slow.open();
    await expect(call).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    expect(server.count("AddNote")).toBe(1);
  });

  it.each([
    ["a plain 401 without a hint", undefined],
    ["a hint for another realm", { action: Action.REFRESH, realm: "https://other" }],
    ["a hint without a realm", { action: Action.REFRESH, realm: "" }],
    ["a SIGN_IN hint", { action: Action.SIGN_IN }],
    ["a STEP_UP hint", { action: Action.STEP_UP }],
    ["a hint with an unknown action", { action: 99 }],
    [
      "a hint with an unknown value in `tokens`",
      { action: Action.SIGN_IN, tokens: 99, session: "s1" },
    ],
    [
      "the end of a session in another realm",
      { action: 2, tokens: Tokens.CLEAR, session: "s1", realm: "x" },
    ],
    ["the end of another session", { action: 2, tokens: Tokens.CLEAR, session: "s9" }],
    ["the end of a session that is not named", { action: 2, tokens: Tokens.CLEAR }],
  ])("neither refreshes nor signs out on %s", async (_name, hint) => {
    const { server, notes, session } = await signedIn(via);
    server.refuse = (context) =>
      hint ? server.hint(context, hint) : new ConnectError("HTTP 401", Code.Unauthenticated);
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("AddNote")).toBe(1);
    expect(server.count("Refresh")).toBe(0);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it("ignores a REFRESH hint in an error that is not Unauthenticated", async () => {
    const { server, notes } = await signedIn(via);
    server.refuse = (context) => {
      const { details } = server.hint(context, { action: Action.REFRESH });
      const error = new ConnectError("no", Code.PermissionDenied);
      error.details = details;
      return error;
    };
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.PermissionDenied });
    expect(server.count("Refresh")).toBe(0);
  });

  it("signs out when a hint declares the session over", async () => {
    const { server, notes, session, events } = await signedIn(via);
    server.refuse = (context) => server.over(context, "s1");
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state).toEqual({ status: "signedOut", realm: "https://api.test" });
    expect(events.at(-1)).toEqual({ type: "signedOut", sessionId: "s1", by: "server" });
  });

  it("is not sent again if it is refused after a new sign-in", async () => {
    const { server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Gate = slow.promise;
    const call = notes.addNote({});
    call.catch(() => {});
    await settle();
    await notes.signIn({});
    slow.open();
    await expect(call).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("AddNote")).toBe(1);
  });

  it("is not sent again if the user signs in during the refresh", async () => {
    const { server, notes } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({});
    call.catch(() => {});
    await settle();
    await notes.signIn({});
    slow.open();
    await expect(call).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("AddNote")).toBe(1);
  });
});

describe.each(transports)("feat:P3 a second REFRESH hint for one call, %s mode", (via) => {
  it("throws an error that lists likely causes and keeps the details", async () => {
    const { server, notes, session } = await signedIn(via);
    server.refuseAll = true;
    const error = ConnectError.from(await notes.addNote({}).catch((reason) => reason));
    expect(error.code).toBe(Code.Unauthenticated);
    expect(error.rawMessage).toMatch(/right after a refresh.*cookies.*clocks/);
    expect(error.findDetails(RefreshHintSchema)).toHaveLength(1);
    expect(server.count("AddNote")).toBe(2);
    expect(session.state.status).toBe("signedIn");
  });

  it("delays refreshes for 10 s, doubling to 5 min, until a call succeeds", async () => {
    const { clock, server, notes, events } = await signedIn(via);
    server.life = 86_400_000;
    server.refuseAll = true;
    const waits: number[] = [];
    for (const expected of [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]) {
      await expect(notes.addNote({})).rejects.toThrow("right after");
      waits.push(expected);
      const refreshes = server.count("Refresh");
      clock.advance(expected - 1);
      await expect(notes.addNote({})).rejects.toThrow("right after");
      expect(server.count("Refresh")).toBe(refreshes);
      clock.advance(1);
    }
    const reported = events.flatMap((event) =>
      event.type === "refreshRefused" ? event.retryIn : [],
    );
    expect(reported).toEqual(waits);
    server.refuseAll = false;
    server.expireAll();
    await notes.addNote({});
    server.refuseAll = true;
    await expect(notes.addNote({})).rejects.toThrow("in 10 s");
  });
});

describe.each(transports)("the second attempt, %s mode", (via) => {
  it("carries what an inner interceptor appends to the headers once", async () => {
    const appends: Interceptor = (next) => (request) => {
      request.header.append("x-appended", "once");
      return next(request);
    };
    const { server, notes } = await signedIn(via, { interceptors: [appends] });
    const headers = { "x-own": "kept" };
    server.expireAll();
    await notes.addNote({}, { headers });
    server.expireAll();
    for await (const _ of notes.watchNotes({}, { headers })) {
      // Only the headers matter.
    }
    const sent = server.seen.filter(
      ({ method }) => method.endsWith("Note") || method === "WatchNotes",
    );
    expect(sent.map(({ method }) => method)).toEqual([
      ...["AddNote", "AddNote", "WatchNotes", "WatchNotes"],
    ]);
    for (const { header } of sent) {
      expect([header.get("x-appended"), header.get("x-own")]).toEqual(["once", "kept"]);
    }
  });
});

it.each(transports)(
  "a call is sent at most twice, although another refresh ended while its second attempt was under way: %s",
  async (via) => {
    const { server, session, notes } = await signedIn(via);
    server.expireAll();

    // 1. The first attempt is refused. The second one is held at the gate.
    const gate = latch();
    server.refuse = () => {
      server.refuse = undefined;
      server.hold.Gate = gate.promise;
      return undefined;
    };
    const call = notes.addNote({});
    await expect.poll(() => server.count("AddNote")).toBe(2);

    // 2. Another refresh renews the token, and then the second attempt is refused too.
    await session.refresh();
    server.refuseAll = true;
    gate.open();
    await expect(call).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("AddNote")).toBe(2);
  },
);
