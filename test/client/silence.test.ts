import { Code, ConnectError } from "@connectrpc/connect";
import { keepAlive } from "rpc-session";
import { createFakeClock } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { Action, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import type { ResumeOptions } from "../../src/client/index.ts";
import { type BlackHole, startBlackHole } from "../servers/black-hole.ts";
import {
  countTimers,
  type InboxOptions,
  type InboxWire,
  type InboxWorld,
  inboxWires,
  startInbox,
} from "./helpers/inbox.ts";
import { settle } from "./helpers/setup.ts";
import { until, type Watching, watch } from "./helpers/watching.ts";

const lost = "no message arrived for 30s, so the connection counts as lost";

/** A stream that is open and has brought one message and some heartbeats. */
interface KeptAlive {
  readonly world: InboxWorld;
  readonly hole: BlackHole;
  readonly watching: Watching;
  /** The messages of the errors that interrupted it. */
  readonly seen: string[];
  /** Lets 10 seconds pass on the server and on the client, and waits until the heartbeat has arrived. */
  readonly beat: () => Promise<void>;
}

async function keptAlive(
  wire: InboxWire,
  { pings, ...options }: InboxOptions & ResumeOptions<{ readonly number: number }> = {},
): Promise<KeptAlive> {
  const holes: BlackHole[] = [];
  const through = async (port: number): Promise<number> => {
    const hole = await startBlackHole({ port, host: "127.0.0.1" });
    holes.push(hole);
    return hole.port;
  };
  const world = await startInbox(wire, { through, ...(pings && { pings }) });
  const [hole] = holes as [BlackHole];
  onTestFinished(() => hole[Symbol.asyncDispose]());
  const beats = countTimers();
  world.beats = beats;
  const seen: string[] = [];
  let heard = 0;
  const watching = watch(world, {
    heartbeat({ number }) {
      heard += number === 0 ? 1 : 0;
      return number === 0;
    },
    onInterrupted: ({ rawMessage }: ConnectError) => void seen.push(rawMessage),
    ...options,
  });
  const beat = async (): Promise<void> => {
    await until(() => beats.pending === 1);
    const before = heard;
    world.clock.advance("10s");
    beats.advance("10s");
    await until(() => heard > before);
  };
  world.inbox.add("hello");
  await until(() => watching.numbers.length === 1);
  return { world, hole, watching, seen, beat };
}

/** Leaves the loop, and waits until no handler of a stream is left. */
async function leave({ world, watching, hole }: KeptAlive): Promise<void> {
  watching.leave = true;
  world.inbox.add("bye");
  await watching.ended;
  hole.close();
  await until(() => world.opened.every(({ reason }) => reason !== undefined));
}

describe.each(inboxWires)("a quiet stream, %s", (wire) => {
  it("feat:Q8 stays open while heartbeats arrive, and is opened again when three are missing", async () => {
    const stream = await keptAlive(wire);
    const { world, watching, seen, beat } = stream;
    for (let count = 0; count < 5; count++) {
      await beat();
    }
    expect([watching.numbers, seen]).toEqual([[1], []]);
    // From now on, only the time of the client passes.
    world.clock.advance("29s");
    await settle();
    expect(seen).toEqual([]);
    world.clock.advance("1s");
    await until(() => seen.length === 1);
    expect(seen).toEqual([lost]);
    world.inbox.add("meanwhile");
    world.clock.advance("1s");
    await until(() => watching.numbers.length === 2);
    expect(world.opened.map(({ after }) => after)).toEqual([0, 1]);
    await leave(stream);
    expect(watching.numbers).toEqual([1, 2, 3]);
  });

  it("feat:Q2 ends with its session, between two heartbeats", async () => {
    const { world, watching, beat } = await keptAlive(wire);
    await beat();
    await world.revoke();
    const error = ConnectError.from(await watching.ended);
    expect(error.code).toBe(Code.Unauthenticated);
    expect(error.findDetails(RefreshHintSchema)[0]?.action).toBe(Action.SIGN_IN);
    await until(() => world.opened[0]?.reason !== undefined);
    expect(world.opened).toHaveLength(1);
  });

  it("is opened again after `silence`, also before its first message; 0s sets no limit", async () => {
    const world = await startInbox(wire);
    world.onWatch = () => (world.opened.length === 1 ? new Promise(() => {}) : undefined);
    const seen: ConnectError[] = [];
    const onInterrupted = (error: ConnectError): void => void seen.push(error);
    const watching = watch(world, { silence: "45s", onInterrupted });
    await until(() => world.opened.length === 1);
    world.clock.advance("44s");
    await settle();
    expect(seen).toEqual([]);
    world.clock.advance("1s");
    await until(() => seen.length === 1);
    world.clock.advance("1s");
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;

    const patient = await keptAlive(wire, { silence: "0s" });
    await patient.beat();
    patient.world.clock.advance("10m");
    await settle();
    expect([patient.seen, patient.watching.state]).toEqual([[], "on"]);
    await leave(patient);
  });
});

it("a stream that breaks off after its first heartbeat is opened ever later, until giveUpAfter", async () => {
  const world = await startInbox();
  world.beats = countTimers();
  const pauses: number[] = [];
  let heard = 0;
  const watching = watch(world, {
    heartbeat: () => Number.isSafeInteger(++heard),
    onInterrupted: (_error, retryIn) => void pauses.push(retryIn),
    giveUpAfter: "1m",
  });
  while (watching.state === "on") {
    // Each stream brings one heartbeat.
    await until(() => heard > pauses.length);
    world.cut();
    await until(() => pauses.length === heard || watching.state === "over");
    world.clock.advance(`${Math.ceil(pauses.at(-1) ?? 0)}ms`);
  }
  expect(await watching.ended).toBeInstanceOf(ConnectError);
  expect(pauses[1]).toBeGreaterThan(pauses[0] ?? 0);
});

describe("a connection that dies without a word", () => {
  const [h1, h2] = [/h1|web/, /h2c/].map((kind) => inboxWires.filter((wire) => kind.test(wire)));

  it.each(h1 ?? [])("is replaced by a new one, and no message is lost, %s", async (wire) => {
    const stream = await keptAlive(wire);
    stream.hole.open("present");
    stream.world.inbox.add("into the void");
    stream.world.clock.advance("29s");
    await settle();
    expect(stream.seen).toEqual([]);
    // A pool may offer another dead connection first, which is silent as well.
    while (stream.watching.numbers.length < 2) {
      stream.world.clock.advance("1s");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(new Set(stream.seen)).toEqual(new Set([lost]));
    await leave(stream);
    expect(stream.watching.numbers).toEqual([1, 2, 3]);
  });

  it.each(h2 ?? [])(
    "is used again by a Node.js client without `pingIntervalMs`, %s",
    async (wire) => {
      const stream = await keptAlive(wire);
      stream.hole.open("present");
      stream.world.inbox.add("into the void");
      for (let count = 1; count <= 3; count++) {
        stream.world.clock.advance("30s");
        await until(() => stream.seen.length === count);
        stream.world.clock.advance("10s");
        await settle();
      }
      expect([stream.seen, stream.watching.numbers]).toEqual([[lost, lost, lost], [1]]);
      // The connection that carried the first stream is still the only one.
      expect([stream.hole.links(), stream.world.opened.length]).toEqual([1, 1]);
      stream.hole.close();
      await until(() => stream.seen.length === 4);
      stream.world.clock.advance("10s");
      await until(() => stream.watching.numbers.length === 2);
      await leave(stream);
    },
  );

  it.each(h2 ?? [])("is replaced by a client with `pingIntervalMs`, %s", async (wire) => {
    const stream = await keptAlive(wire, { pings: { pingIntervalMs: 200, pingTimeoutMs: 2_000 } });
    stream.hole.open("present");
    stream.world.inbox.add("into the void");
    // The transport notices it, before three heartbeats are missing.
    await until(() => stream.seen.length === 1 && stream.hole.links() === 0);
    stream.world.clock.advance("1s");
    await until(() => stream.watching.numbers.length === 2);
    await leave(stream);
    expect(stream.watching.numbers).toEqual([1, 2, 3]);
  });
});

describe("keepAlive", () => {
  it("throws a TypeError for an interval out of bounds", () => {
    const context = { responseHeader: new Headers(), signal: new AbortController().signal };
    for (const every of ["999ms", "61m", "soon"] as const) {
      const make = () =>
        keepAlive(context, (async function* () {})(), { message: {}, every } as never);
      expect(make).toThrow(/^every/);
    }
    expect([...context.responseHeader]).toEqual([]);
  });

  it("passes on messages, the end and the error of its source, and ends it", async () => {
    const clock = createFakeClock();
    const context = { responseHeader: new Headers(), signal: new AbortController().signal };
    let ended = 0;
    async function* source(fails: boolean) {
      try {
        yield 1;
        yield 2;
        if (fails) {
          throw new RangeError("broken");
        }
      } finally {
        ended += 1;
      }
    }
    const options = { message: 0, clock };
    const all: number[] = [];
    for await (const value of keepAlive(context, source(false), options)) {
      all.push(value);
    }
    expect(all).toEqual([0, 1, 2]);
    expect(context.responseHeader.get("rpcsession-heartbeat")).toBe("15000");
    const read = async (): Promise<void> => {
      for await (const value of keepAlive(context, source(true), options)) {
        all.push(value);
      }
    };
    await expect(read()).rejects.toThrow(RangeError);
    for await (const value of keepAlive(context, source(false), options)) {
      if (value === 1) {
        break;
      }
    }
    expect(ended).toBe(3);
  });

  it.each(["ends", "never ends"])(
    "ends with the call, even if its source ignores the signal and %s",
    async (how) => {
      const clock = countTimers();
      const abort = new AbortController();
      const context = { responseHeader: new Headers(), signal: abort.signal };
      let returned = 0;
      const source = {
        [Symbol.asyncIterator]: () => ({
          next: () => new Promise<IteratorResult<number>>(() => {}),
          return() {
            returned += 1;
            return how === "ends"
              ? Promise.reject(new Error("late"))
              : new Promise<never>(() => {});
          },
        }),
      };
      const messages = keepAlive(context, source, { message: 0, clock });
      expect(await messages.next()).toEqual({ done: false, value: 0 });
      const second = messages.next();
      await until(() => clock.pending === 1);
      clock.advance("15s");
      expect(await second).toEqual({ done: false, value: 0 });
      const third = messages.next();
      await until(() => clock.pending === 1);
      abort.abort(new RangeError("the client is gone"));
      await expect(third).rejects.toThrow("the client is gone");
      expect([returned, clock.pending]).toEqual([1, 0]);
      expect(await messages.next()).toEqual({ done: true, value: undefined });
    },
  );
});
