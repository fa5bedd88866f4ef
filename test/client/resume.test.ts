import { getEventListeners } from "node:events";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { Action, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { withRefresh } from "../../src/client/index.ts";
import { type InboxWorld, inboxWires, startInbox } from "./helpers/inbox.ts";
import { settle, setup } from "./helpers/setup.ts";
import { range, until, watch } from "./helpers/watching.ts";

/** Advances the clock in steps. Waits for calls in flight before each step, so that none times out. */
async function pass(world: InboxWorld, seconds: number, step = 1): Promise<void> {
  for (let i = 0; i < seconds; i += step) {
    world.clock.advance(`${step}s`);
    await settle();
    await until(() => world.underway() === 0);
    await settle();
  }
}

describe.each(inboxWires)("session.resume, %s", (wire) => {
  it("feat:Q2: outlives its access tokens without losing or repeating a message", async () => {
    const world = await startInbox(wire);
    const watching = watch(world);
    let sent = 0;
    for (let life = 0; life < 4; life++) {
      for (let i = 0; i < 5; i++) {
        world.inbox.add("hello");
        sent += 1;
        await until(() => watching.numbers.length === sent);
      }
      const opened = world.opened.length;
      // This message is sent while no stream is open.
      world.clock.advance("15m");
      world.inbox.add("meanwhile");
      sent += 1;
      await until(() => world.opened.length > opened && watching.numbers.length === sent);
    }
    expect(watching.numbers).toEqual(range(sent));
    expect(world.opened.map(({ after }) => after)).toEqual([0, 5, 11, 17, 23]);
    expect(watching.state).toBe("on");
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:O10 goes on at once after a server that stops, without a report of an interruption", async () => {
    const world = await startInbox(wire);
    const interruptions: number[] = [];
    const watching = watch(world, {
      giveUpAfter: "0s",
      onInterrupted: (_error, retryIn) => interruptions.push(retryIn),
    });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    // 1. The stream is opened again at once. The clock stands still.
    const drained = world.drainStreams();
    world.inbox.add("meanwhile");
    await drained;
    await until(() => watching.numbers.length === 2);
    expect(watching.numbers).toEqual([1, 2]);
    expect(world.opened.map(({ after }) => after)).toEqual([0, 1]);
    expect([interruptions, watching.state]).toEqual([[], "on"]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:O10 pauses if it meets the server that stops again", async () => {
    const world = await startInbox(wire);
    const interruptions: number[] = [];
    const watching = watch(world, {
      onInterrupted: (_error, retryIn) => interruptions.push(retryIn),
    });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    await world.sessions.drain();
    await until(() => interruptions.length === 1);
    world.clock.advance("1s");
    await until(() => interruptions.length === 2);
    expect(interruptions[1]).toBeLessThan(2_000);
    expect(watching.state).toBe("on");
    watching.leave = true;
    await world.sessions.close();
  });

  it("feat:Q4: outlives its connection", async () => {
    const world = await startInbox(wire);
    const watching = watch(world);
    for (let sent = 1; sent <= 3; sent++) {
      world.inbox.add("hello");
      await until(() => watching.numbers.length === sent);
      world.cut();
      await until(() => world.opened.at(-1)?.reason !== undefined);
      await settle();
      world.clock.advance("1s");
      await until(() => world.opened.length === sent + 1);
    }
    expect(watching.numbers).toEqual([1, 2, 3]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:Q4: does not wait out its pause when the browser is online again", async () => {
    const page = new EventTarget();
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
    onTestFinished(() => void vi.unstubAllGlobals());
    const world = await startInbox(wire);
    let interruptions = 0;
    const watching = watch(world, { onInterrupted: () => (interruptions += 1) });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    world.cut();
    await until(() => interruptions === 1);
    page.dispatchEvent(new Event("online"));
    // The fake clock stands still, so that the pause never ends by itself.
    await until(() => world.opened.length === 2);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
    expect(getEventListeners(page, "online")).toEqual([]);
  });

  it("feat:Q4: outlives an outage of the server and reports each interruption", async () => {
    const world = await startInbox(wire);
    const interruptions: [Code, number][] = [];
    const onInterrupted = ({ code }: ConnectError, ms: number) => interruptions.push([code, ms]);
    const watching = watch(world, { onInterrupted });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    await world.stop();
    while (interruptions.length < 5) {
      const seen = interruptions.length;
      await until(() => interruptions.length > seen);
      world.clock.advance("31s");
    }
    await world.restart();
    await until(() => interruptions.length > 5 || world.opened.length === 2);
    world.clock.advance("31s");
    world.inbox.add("again");
    await until(() => watching.numbers.length === 2);
    const pauses = interruptions.map(([, ms]) => ms);
    pauses.slice(0, 5).forEach((ms, i) => {
      expect(ms).toBeLessThanOrEqual(500 * 2 ** i);
      expect(ms).toBeGreaterThanOrEqual(250 * 2 ** i);
    });
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("ends the call and releases every timer and listener when the loop is left", async () => {
    const world = await startInbox(wire);
    const { signal } = new AbortController();
    const before = world.clock.pending;
    const watching = watch(world, { signal });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    expect(world.clock.pending).toBe(before + 1);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
    await until(() => world.opened[0]?.reason !== undefined);
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
    expect(world.clock.pending).toBe(before);
  });

  it("outlives its access tokens behind a gateway that drops error details", async () => {
    const world = await startInbox(wire);
    world.dropDetails = true;
    const watching = watch(world);
    // The first stream ends before its headers are sent, the others after a message.
    for (const messages of [0, 1, 2]) {
      const opened = messages + 1;
      await until(() => world.opened.length === opened);
      if (messages > 0) {
        world.inbox.add("hello");
        await until(() => watching.numbers.length === messages);
      }
      world.clock.advance("15m");
      await until(() => world.opened.length > opened || watching.state === "over");
    }
    expect(watching.state).toBe("on");
    expect(watching.numbers).toEqual([1, 2]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:G7: ends with the server's error when the session is revoked", async () => {
    const world = await startInbox(wire);
    const watching = watch(world);
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    await world.revoke();
    const error = ConnectError.from(await watching.ended);
    expect(error.code).toBe(Code.Unauthenticated);
    expect(error.findDetails(RefreshHintSchema)[0]?.action).toBe(Action.SIGN_IN);
    expect(world.session.state.status).toBe("signedOut");
    expect(world.opened).toHaveLength(1);
    await until(() => world.opened[0]?.reason !== undefined);
  });
});

describe("session.resume", () => {
  it("feat:P8: refreshes early, so that the next stream opens at once", async () => {
    const world = await startInbox();
    const watching = watch(world);
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    await pass(world, 11 * 60, 60);
    expect(world.refreshes()).toBe(0);
    await pass(world, 2 * 60, 30);
    expect(world.refreshes()).toBe(1);
    expect(world.opened).toHaveLength(1);
    await pass(world, 2 * 60, 30);
    await until(() => world.opened.length === 2);
    expect(world.refreshes()).toBe(1);
    expect(watching.state).toBe("on");
  });

  it("keeps refreshing early while it runs and stops when it ends", async () => {
    const world = await startInbox();
    const watching = watch(world);
    await until(() => world.opened.length === 1);
    await pass(world, 3_600, 30);
    expect(world.refreshes()).toBeGreaterThanOrEqual(4);
    expect(world.refreshes()).toBeLessThanOrEqual(6);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
    const refreshes = world.refreshes();
    await pass(world, 3_600, 60);
    expect(world.refreshes()).toBe(refreshes);
  });

  it("ends at once when the user signs out, even if the server is down", async () => {
    const world = await startInbox();
    const watching = watch(world);
    await until(() => world.opened.length === 1);
    await world.stop();
    await expect(world.session.signOut()).rejects.toThrow();
    expect(ConnectError.from(await watching.ended).code).toBe(Code.Unauthenticated);
  });

  it("is not opened again under a different session", async () => {
    const world = await startInbox();
    const watching = watch(world);
    await until(() => world.opened.length === 1);
    world.onWatch = () => {
      throw new ConnectError("busy", Code.Unavailable);
    };
    world.cut();
    await until(() => world.opened[0]?.reason !== undefined);
    await world.client.signIn({ user: "bob" });
    const error = ConnectError.from(await watching.ended);
    expect(error.code).toBe(Code.Aborted);
    await pass(world, 60, 10);
    expect(world.opened).toHaveLength(1);
  });

  it("ends with Aborted, not with a sign-in hint, when its client signs in again", async () => {
    const world = await startInbox();
    const watching = watch(world);
    await until(() => world.opened.length === 1);
    // The server ends the stream of the replaced session before it answers the sign-in.
    await world.client.signIn({ user: "bob" });
    const error = ConnectError.from(await watching.ended);
    expect(error.code).toBe(Code.Aborted);
    expect(error.findDetails(RefreshHintSchema)).toEqual([]);
    expect(world.session.state.status).toBe("signedIn");
  });

  it("waits up to two seconds for a new session after the client's own call ended the session", async () => {
    const world = await startInbox();
    const { sessionId: session } = world.session.state;
    const realm = "https://test.example";
    const value = { action: Action.SIGN_IN, session: session ?? "", realm };
    world.onWatch = () => {
      const detail = { desc: RefreshHintSchema, value };
      throw new ConnectError("the session was ended", Code.Unauthenticated, undefined, [detail]);
    };
    const before = world.clock.pending;
    const watching = watch(world);
    await until(() => world.opened.length === 1 && world.clock.pending === before + 2);
    await pass(world, 1);
    expect(watching.state).toBe("on");
    await pass(world, 1);
    const error = ConnectError.from(await watching.ended);
    expect([error.code, error.rawMessage]).toEqual([Code.Unauthenticated, "the session was ended"]);
    expect(world.clock.pending).toBe(before);
  });

  it("pauses for as long as the server asks", async () => {
    const world = await startInbox();
    const waits: number[] = [];
    world.onWatch = () => {
      throw new ConnectError("busy", Code.Unavailable, undefined, [
        {
          desc: RefreshHintSchema,
          value: { action: Action.RETRY_LATER, retryAfter: { seconds: 7n, nanos: 500_000_000 } },
        },
      ]);
    };
    const watching = watch(world, { onInterrupted: (_, ms) => void waits.push(ms) });
    await until(() => waits.length === 1);
    expect(waits).toEqual([7_500]);
    await pass(world, 7);
    expect(world.opened).toHaveLength(1);
    world.onWatch = undefined;
    await pass(world, 1);
    await until(() => world.opened.length === 2);
    expect(watching.state).toBe("on");
  });

  it.each(["0s", "30s", "5m"] as const)("gives up after %s of failures", async (giveUpAfter) => {
    const world = await startInbox();
    world.onWatch = () => {
      throw new ConnectError("busy", Code.Unavailable);
    };
    const start = world.clock.monotonic();
    const waits: number[] = [];
    const onInterrupted = (_: ConnectError, ms: number): void => void waits.push(ms);
    const watching = watch(world, { giveUpAfter, onInterrupted });
    for (let pauses = 1; ; pauses++) {
      await until(() => watching.state === "over" || waits.length === pauses);
      if (watching.state === "over") {
        break;
      }
      world.clock.advance(`${Math.ceil(waits.at(-1) ?? 0)}ms`);
    }
    const error = ConnectError.from(await watching.ended);
    expect([error.code, error.rawMessage]).toEqual([Code.Unavailable, "busy"]);
    const limit = { "0s": 0, "30s": 30, "5m": 300 }[giveUpAfter];
    const took = (world.clock.monotonic() - start) / 1_000;
    // The next pause would have passed the limit.
    expect(took).toBeLessThanOrEqual(limit + 0.1);
    expect(took).toBeGreaterThan(limit - 30);
    expect(world.opened).toHaveLength(waits.length + 1);
  });

  it("starts a new series of failures after a message and after a long-lived stream", async () => {
    const world = await startInbox();
    const waits: number[] = [];
    const watching = watch(world, { onInterrupted: (_, ms) => void waits.push(ms) });
    for (const between of ["a message", "a minute"]) {
      for (let i = 0; i < 4; i++) {
        const opened = world.opened.length;
        await until(() => world.opened.length > 0);
        if (between === "a message") {
          const { length } = watching.numbers;
          world.inbox.add("hello");
          await until(() => watching.numbers.length > length);
        } else {
          await pass(world, 60, 10);
        }
        world.cut();
        await until(() => world.opened.at(-1)?.reason !== undefined);
        await settle();
        world.clock.advance("1s");
        await until(() => world.opened.length > opened);
      }
    }
    expect(waits).toHaveLength(8);
    expect(Math.max(...waits)).toBeLessThanOrEqual(500);
    expect(watching.state).toBe("on");
  });

  it("does not count a sleep of the machine as failures", async () => {
    const world = await startInbox();
    const seen: ConnectError[] = [];
    const watching = watch(world, { onInterrupted: (error) => void seen.push(error) });
    await until(() => world.opened.length === 1);
    await world.stop();
    await until(() => seen.length === 1);
    // The machine falls asleep in the first pause. After it, the network is not back at once.
    world.clock.advance("8h");
    await until(() => seen.length === 2 || watching.state === "over");
    expect(watching.state).toBe("on");
    world.clock.setNow(world.clock.now() + 8 * 3_600_000);
    world.clock.advance("1s");
    await until(() => seen.length === 3 || watching.state === "over");
    expect(watching.state).toBe("on");
    watching.leave = true;
    await world.session.signOut().catch(() => {});
    await watching.ended;
  });

  it.each([
    ["an error of the handler", new ConnectError("no such inbox", Code.NotFound)],
    ["an Unauthenticated error without a hint", new ConnectError("who?", Code.Unauthenticated)],
    ["an Aborted error of the handler", new ConnectError("conflict", Code.Aborted)],
  ])("throws %s to the reader", async (_, thrown) => {
    const world = await startInbox();
    world.onWatch = () => {
      throw thrown;
    };
    const error = ConnectError.from(await watch(world).ended);
    expect([error.code, error.rawMessage]).toEqual([thrown.code, thrown.rawMessage]);
    expect(world.opened).toHaveLength(1);
  });

  it("feat:Q2: works with an existing client through withRefresh", async () => {
    const world = await startInbox("gRPC over h2c");
    const inbox = withRefresh(world.plain, world.session);
    const numbers: number[] = [];
    const read = async (): Promise<void> => {
      const messages = world.session.resume((after, call) => inbox.watch({ after }, call), {
        start: 0,
        cursor: ({ number }) => number,
      });
      for await (const { number } of messages) {
        numbers.push(number);
        if (number === 6) {
          break;
        }
      }
    };
    const done = read();
    for (let sent = 1; sent <= 6; sent++) {
      world.inbox.add("hello");
      await until(() => numbers.length === sent);
      if (sent % 2 === 0 && sent < 6) {
        const { length } = world.opened;
        world.clock.advance("15m");
        await until(() => world.opened.length > length);
      }
    }
    await done;
    expect(numbers).toEqual(range(6));
    expect(world.opened.map(({ after }) => after)).toEqual([0, 2, 4]);
    await until(() => world.opened.at(-1)?.reason !== undefined);
  });

  it("obeys its signal before it starts, while a stream is open, and during a pause", async () => {
    const world = await startInbox();
    const reason = new ConnectError("enough", Code.DeadlineExceeded);
    const never = watch(world, { signal: AbortSignal.abort(reason) });
    expect(await never.ended).toBe(reason);
    expect(world.opened).toHaveLength(0);

    let pauses = 0;
    const onInterrupted = (): void => void pauses++;
    const first = new AbortController();
    const open = watch(world, { signal: first.signal, onInterrupted });
    await until(() => world.opened.length === 1);
    first.abort();
    expect(ConnectError.from(await open.ended).code).toBe(Code.Canceled);
    expect(pauses).toBe(0);
    await until(() => world.opened[0]?.reason !== undefined);

    const second = new AbortController();
    world.onWatch = () => {
      throw new ConnectError("busy", Code.Unavailable);
    };
    const pausing = watch(world, { signal: second.signal, onInterrupted });
    await until(() => pauses === 1);
    second.abort(reason);
    expect(await pausing.ended).toBe(reason);
  });

  it("can be ended while it waits for a message", async () => {
    const world = await startInbox();
    const messages = world.session
      .resume((_, call) => world.client.watch({}, call))
      [Symbol.asyncIterator]();
    const waiting = messages.next();
    waiting.catch(() => {});
    await until(() => world.opened.length === 1);
    expect(await messages.return?.()).toEqual({ done: true, value: undefined });
    await expect(waiting).rejects.toMatchObject({ code: Code.Canceled });
    await until(() => world.opened[0]?.reason !== undefined);
    expect(await messages.next()).toEqual({ done: true, value: undefined });
  });

  it("ends without an error when the stream ends", async () => {
    const world = await startInbox();
    const numbers: number[] = [];
    world.inbox.add("hello");
    world.inbox.add("bye");
    async function* two(after: number, call: { readonly signal: AbortSignal }) {
      for await (const message of world.client.watch({ after }, call)) {
        yield message;
        if (message.number === 2) {
          return;
        }
      }
    }
    const messages = world.session.resume(two, { start: 0, cursor: ({ number }) => number });
    for await (const { number } of messages) {
      numbers.push(number);
    }
    expect(numbers).toEqual([1, 2]);
    // The wrapper left the inner stream open; it ends with the loop.
    await until(() => world.opened[0]?.reason !== undefined);
  });

  it("gives up instead of looping when every token is refused", async () => {
    const { server, session, notes, clock } = setup("header");
    await notes.signIn({});
    server.refuseAll = true;
    let state = "on";
    const read = async (): Promise<void> => {
      for await (const _ of session.resume((_cursor, call) => notes.watchNotes({}, call))) {
        // No message is expected.
      }
    };
    const ended = read().finally(() => {
      state = "over";
    });
    ended.catch(() => {});
    for (let seconds = 0; state === "on" && seconds < 400; seconds++) {
      clock.advance(1_000);
      await settle();
    }
    await expect(ended).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("WatchNotes")).toBeLessThan(60);
    expect(server.count("Refresh")).toBeLessThan(30);
  });

  it("throws the error of the cursor function and ends the call", async () => {
    const world = await startInbox();
    world.inbox.add("hello");
    const cursor = (): number => {
      throw new RangeError("no number");
    };
    const messages = world.session.resume((after, call) => world.client.watch({ after }, call), {
      ...{ start: 0, cursor },
    });
    await expect(messages[Symbol.asyncIterator]().next()).rejects.toThrow(RangeError);
    await until(() => world.opened[0]?.reason !== undefined);
  });

  it("throws a TypeError for invalid arguments", async () => {
    const world = await startInbox();
    const { session, client } = world;
    const open = (_: unknown, call: object) => client.watch({}, call);
    expect(() => session.resume(undefined as never)).toThrow(
      /^resume: the first argument must be a function/,
    );
    expect(() => session.resume(open, { start: 1 } as never)).toThrow(/belong together/);
    expect(() => session.resume(open, { cursor: () => 1 } as never)).toThrow(/belong together/);
    expect(() => session.resume(open, { giveUpAfter: "forever" as "1m" })).toThrow(/^giveUpAfter/);
    expect(() => session.resume(open, { giveUpAfter: "24h" })).not.toThrow();
    expect(() => session.resume(open, { giveUpAfter: "86401s" })).toThrow(/^giveUpAfter.* 1d/);
    for (const silence of ["999ms", "86401s", "", 0, null] as never[]) {
      expect(() => session.resume(open, { silence })).toThrow(/^silence/);
    }
    expect(() => session.resume(open, { silence: "24h" })).not.toThrow();
    expect(() => session.resume(open, { giveupAfter: "1m" } as never)).toThrow(
      /^unknown option "giveupAfter" for resume; /,
    );
    const promised = session.resume((async () => {}) as never);
    await expect(promised[Symbol.asyncIterator]().next()).rejects.toThrow(
      /^resume: the function must return a stream/,
    );
    world.inbox.add("hello");
    const deaf = session.resume(() => client.watch({}));
    await expect(deaf[Symbol.asyncIterator]().next()).rejects.toThrow(
      /^resume: the function must pass its second argument/,
    );
  });
});
