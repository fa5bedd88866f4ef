import type { ConnectError } from "@connectrpc/connect";
import { keepAlive } from "rpc-session";
import { createFakeClock } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { inboxWires, startInbox } from "./helpers/inbox.ts";
import { settle } from "./helpers/setup.ts";
import { until, watch } from "./helpers/watching.ts";

const heartbeat = ({ number }: { readonly number: number }): boolean => number === 0;

describe.each(inboxWires)("a silent connection, %s", (wire) => {
  it("feat:Q4: is given up after three missing heartbeats, and the stream goes on", async () => {
    const world = await startInbox(wire);
    world.beats = createFakeClock();
    const seen: string[] = [];
    const onInterrupted = ({ rawMessage }: ConnectError): void => void seen.push(rawMessage);
    const watching = watch(world, { heartbeat, onInterrupted });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    // The heartbeats keep the stream open.
    for (let beat = 0; beat < 5; beat++) {
      world.clock.advance("10s");
      world.beats.advance("10s");
      await settle();
    }
    expect([watching.numbers, seen]).toEqual([[1], []]);
    // The connection dies without a word: only the time of the client passes.
    world.clock.advance("29s");
    await settle();
    expect(seen).toEqual([]);
    world.clock.advance("1s");
    await until(() => seen.length === 1);
    expect(seen).toEqual(["no message arrived for 30s, so the connection counts as lost"]);
    world.inbox.add("meanwhile");
    await settle();
    world.clock.advance("1s");
    await until(() => watching.numbers.length === 2);
    expect(world.opened.map(({ after }) => after)).toEqual([0, 1]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
    await until(() => world.opened.every(({ reason }) => reason !== undefined));
  });

  it("is given up after `silence`, also before its first message; 0s sets no limit", async () => {
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

    world.beats = createFakeClock();
    const patient = watch(world, { heartbeat, silence: "0s", onInterrupted });
    await until(() => patient.numbers.length === 2);
    world.clock.advance("60s");
    await settle();
    expect([seen.length, patient.state]).toEqual([1, "on"]);
    patient.leave = true;
    world.inbox.add("bye");
    await patient.ended;
  });
});

describe("keepAlive", () => {
  it("throws a TypeError for an interval out of bounds", () => {
    const context = { responseHeader: new Headers() };
    for (const every of ["999ms", "61m", "soon"] as const) {
      const make = () =>
        keepAlive(context, (async function* () {})(), { message: {}, every } as never);
      expect(make).toThrow(/^every/);
    }
    expect([...context.responseHeader]).toEqual([]);
  });

  it("passes on messages, the end and the error of its source, and ends it", async () => {
    const clock = createFakeClock();
    const context = { responseHeader: new Headers() };
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
});
