import type { DatabaseSync } from "node:sqlite";
import { describe, expect, it } from "vitest";
import { PushConnection, type PushEvents } from "../../src/stores/push.ts";
import { FileWatch } from "../../src/stores/sqlite/push.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { settled } from "../helpers/pass.ts";

/** A connection whose lines the test controls. */
function setup() {
  const clock = createFakeClock();
  const state = { opening: "works", pinging: "works", woken: 0, opened: 0, closed: 0, pings: 0 };
  let events: PushEvents | undefined;
  const outcome = async (how: string): Promise<void> => {
    if (how === "fails") {
      throw new Error("refused");
    }
    if (how === "hangs") {
      await new Promise(() => {});
    }
  };
  const push = new PushConnection({
    clock,
    wake: () => {
      state.woken += 1;
    },
    async open(given) {
      events = given;
      state.opened += 1;
      await outcome(state.opening);
      return {
        ping() {
          state.pings += 1;
          return outcome(state.pinging);
        },
        close() {
          state.closed += 1;
        },
      };
    },
  });
  return { clock, push, state, told: () => events?.wake(), lose: () => events?.lost() };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("sec:V01 a line on which the database sends notifications", () => {
  it("is connected after its first ping, and wakes for anything missed before", async () => {
    const { push, state } = setup();
    expect(push.connected()).toBe(false);
    await turn();
    expect(push.connected()).toBe(true);
    expect(state).toMatchObject({ opened: 1, pings: 1, woken: 1 });
    push.close();
    expect([push.connected(), state.closed]).toEqual([false, 1]);
  });

  it("is pinged every five seconds, and replaced if it does not answer", async () => {
    const { clock, push, state } = setup();
    await turn();
    clock.advance("5s");
    await turn();
    expect(state).toMatchObject({ pings: 2, opened: 1 });
    state.pinging = "hangs";
    clock.advance("5s");
    await turn();
    expect(push.connected()).toBe(true);
    clock.advance("5s");
    await turn();
    expect(push.connected()).toBe(false);
    expect(state.closed).toBe(1);
    state.pinging = "works";
    clock.advance("200ms");
    await turn();
    expect(push.connected()).toBe(true);
    // Woken by the loss, after which the log is polled more often, and for anything missed meanwhile.
    expect(state).toMatchObject({ opened: 2, woken: 3 });
    push.close();
  });

  it("is reopened with exponential backoff, which restarts after a success", async () => {
    const { clock, push, state, lose } = setup();
    await turn();
    state.opening = "fails";
    lose();
    expect(push.connected()).toBe(false);
    const opened: number[] = [];
    for (let second = 0; second < 300; second++) {
      for (let tenth = 0; tenth < 10; tenth++) {
        clock.advance("100ms");
        await turn();
      }
      if (state.opened !== (opened.at(-1) ?? 0)) {
        opened.push(state.opened);
      }
    }
    // Pauses of 0.1 s, 0.2 s, … 30 s, each between half and one and a half times as long.
    expect(state.opened).toBeGreaterThan(12);
    expect(state.opened).toBeLessThan(40);
    state.opening = "works";
    clock.advance("45s");
    await turn();
    expect(push.connected()).toBe(true);
    const before = state.opened;
    lose();
    clock.advance("200ms");
    await turn();
    expect(state.opened).toBe(before + 1);
    push.close();
  });

  it("is closed if it opens too late or after the end", async () => {
    const clock = createFakeClock();
    const lines: (() => void)[] = [];
    let closed = 0;
    const push = new PushConnection({
      clock,
      wake() {},
      open: () =>
        new Promise((resolve) => {
          lines.push(() => resolve({ ping: async () => {}, close: () => void closed++ }));
        }),
    });
    await turn();
    clock.advance("5s");
    await turn();
    lines[0]?.();
    await turn();
    expect([closed, push.connected()]).toEqual([1, false]);
    clock.advance("200ms");
    await turn();
    expect(lines).toHaveLength(2);
    push.close();
    lines[1]?.();
    await turn();
    expect([closed, push.connected()]).toEqual([2, false]);
    clock.advance("10m");
    await turn();
    expect(lines).toHaveLength(2);
  });

  it("wakes at once, five times within 100 ms, and then every 200 ms while it is told again", async () => {
    const { clock, push, state, told } = setup();
    await turn();
    expect(state.woken).toBe(1);
    clock.advance("1s");
    const times: number[] = [];
    for (let ms = 0; ms <= 1000; ms++) {
      const before = state.woken;
      told();
      told();
      clock.advance("1ms");
      times.push(...Array.from({ length: state.woken - before }, () => ms));
    }
    expect(times).toEqual([0, 19, 39, 59, 79, 199, 399, 599, 799, 999]);
    clock.advance("1s");
    const quiet = state.woken;
    told();
    told();
    expect(state.woken).toBe(quiet + 1);
    clock.advance("20ms");
    expect(state.woken).toBe(quiet + 2);
    push.close();
  });

  it("stays connected when a test clock jumps an hour", async () => {
    const { clock, push, state } = setup();
    await turn();
    clock.advance("1h");
    await turn();
    expect(push.connected()).toBe(true);
    expect(state.opened).toBe(1);
    push.close();
  });
});

describe("FileWatch", () => {
  it("is not connected while the file cannot be read, and wakes for what was written meanwhile", async () => {
    const clock = createFakeClock();
    const file = { version: 1, fails: false };
    const connection = {
      prepare: () => ({
        get() {
          if (file.fails) {
            throw new Error("disk I/O error");
          }
          return { data_version: file.version };
        },
      }),
      close: () => {},
    } as unknown as DatabaseSync;
    let woken = 0;
    const watch = new FileWatch({
      ...{ connection, clock, check: () => {} },
      wake() {
        woken += 1;
      },
    });
    const poll = async () => {
      clock.advance("100ms");
      await settled();
    };
    await poll();
    expect([watch.connected(), woken]).toEqual([true, 0]);
    file.fails = true;
    await poll();
    expect([watch.connected(), woken]).toEqual([false, 0]);
    Object.assign(file, { version: 2, fails: false });
    await poll();
    expect([watch.connected(), woken]).toEqual([true, 1]);
    watch.close();
    file.version = 3;
    await poll();
    expect(woken).toBe(1);
  });
});
