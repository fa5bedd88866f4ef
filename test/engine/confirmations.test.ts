import { describe, expect, it } from "vitest";
import { Confirmations } from "../../src/engine/refresh/confirmations.ts";
import { Generations } from "../../src/engine/refresh/generations.ts";
import type { GenerationUse, SessionStore } from "../../src/engine/store.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { settled } from "../helpers/pass.ts";

/** Confirmations on a store that answers when the test says so. */
function confirmations() {
  const clock = createFakeClock();
  const writes: {
    readonly uses: readonly GenerationUse[];
    readonly answer: (confirmed: boolean) => void;
  }[] = [];
  const confirm: SessionStore["confirm"] = (uses) =>
    new Promise((resolve) => {
      writes.push({ uses, answer: (confirmed) => resolve(uses.map(() => confirmed)) });
    });
  const store = { confirm } as unknown as SessionStore;
  const all = new Confirmations({ store, clock, settle: 30_000 });
  const use = (sid: string, gen = 1) => all.used({ sid, gen, transport: "header" }, []);
  return { clock, writes, all, use };
}

it("a server that closes writes what waits and waits for it, but only for two seconds", async () => {
  const { all, clock, writes, use } = confirmations();
  let waiting = 0;
  const wait = async (): Promise<void> => {
    waiting += 1;
    await all.settled();
    waiting -= 1;
  };
  await all.settled();
  use("s1");
  void wait();
  await settled();
  expect(writes).toHaveLength(1);
  clock.advance("1999ms");
  await settled();
  expect(waiting).toBe(1);
  clock.advance("1ms");
  await settled();
  expect(waiting).toBe(0);

  void wait();
  writes[0]?.answer(true);
  await settled();
  expect(waiting).toBe(0);
});

it("uses are gathered for five to ten seconds, each session once, and written together", async () => {
  const { clock, writes, use } = confirmations();
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 1_100; i++) {
      use(`s${i}`);
    }
  }
  use("s7", 2);
  clock.advance("4999ms");
  await settled();
  expect(writes).toHaveLength(0);
  clock.advance("5001ms");
  const sizes: number[] = [];
  for (let i = 0; i < 3; i++) {
    await settled();
    const { uses = [], answer } = writes[i] ?? {};
    sizes.push(uses.length);
    answer?.(true);
  }
  await settled();
  expect(sizes).toEqual([500, 500, 100]);
  const asked = writes.flatMap(({ uses }) => uses);
  expect(new Set(asked.map(({ session }) => session)).size).toBe(1_100);
  expect(asked.find(({ session }) => session === "s7")?.generation).toBe(2);
});

it("the age counts from the use, so that a re-send since then settles anew", async () => {
  const { all, clock, writes, use } = confirmations();
  use("s1");
  clock.advance("700ms");
  void all.settled();
  await settled();
  expect(writes[0]?.uses).toEqual([{ session: "s1", generation: 1, settle: 30_700 }]);
});

it("a generation that was too young is confirmed by a use five seconds later, and then never again", async () => {
  const { all, clock, writes, use } = confirmations();
  const asked = async (generation: number): Promise<number> => {
    use("s1", generation);
    void all.settled();
    await settled();
    return writes.length;
  };
  expect(await asked(1)).toBe(1);
  writes[0]?.answer(false);
  await settled();
  clock.advance("4999ms");
  expect(await asked(1)).toBe(1);
  clock.advance("1ms");
  expect(await asked(1)).toBe(2);
  writes[1]?.answer(true);
  await settled();
  clock.advance("1h");
  expect(await asked(1)).toBe(2);
  // An older generation needs none, a newer one its own.
  expect(await asked(0)).toBe(2);
  expect(await asked(2)).toBe(3);
});

it("at most 100,000 uses wait; one beyond them is left to a later one", async () => {
  const { all, writes, use } = confirmations();
  for (let i = 0; i < 110_000; i++) {
    use(`s${i}`);
  }
  // The first 10,000 are being written.
  use("s110000");
  void all.settled();
  let count = 0;
  for (let i = 0; i < 220; i++) {
    await settled();
    count += writes[i]?.uses.length ?? 0;
    writes[i]?.answer(true);
  }
  await settled();
  expect([count, writes.length]).toEqual([110_000, 220]);
  use("s110000");
  void all.settled();
  await settled();
  expect(writes).toHaveLength(221);
});

describe("the generations that are remembered", () => {
  it("keeps the newest of each of many sessions", () => {
    const generations = new Generations(400_000);
    for (let i = 0; i < 200_000; i++) {
      generations.set(`session-${i}`, i % 7);
    }
    const wrong = Array.from({ length: 200_000 }, (_, i) => i).filter(
      (i) => generations.get(`session-${i}`) !== i % 7,
    );
    expect(wrong).toEqual([]);
    expect(generations.get("session-200000")).toBe(-1);
    generations.set("session-5", 90);
    expect(generations.get("session-5")).toBe(90);
  });

  it("forgets the older half beyond its limit, and what was not set again after two turns", () => {
    const generations = new Generations(100);
    const known = (from: number, to: number) =>
      Array.from({ length: to - from }, (_, i) => generations.get(`s${from + i}`)).filter(
        (generation) => generation === 1,
      ).length;
    for (let i = 0; i < 101; i++) {
      generations.set(`s${i}`, 1);
    }
    expect([known(0, 50), known(50, 101)]).toEqual([0, 51]);
    generations.turn();
    generations.set("s100", 1);
    generations.turn();
    expect(known(0, 101)).toBe(1);
  });
});
