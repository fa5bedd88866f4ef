import { describe, expect, it, onTestFinished } from "vitest";
import { Sweeper } from "../../src/engine/sweeper.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { pass, settled } from "../helpers/pass.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";

const second = 1_000;
const minute = 60 * second;

/** A sweeper on a store that notes its calls; several may share what is kept. */
async function sweeping(inner = memoryStore(), clock = createFakeClock()) {
  const watched = watchedStore(inner);
  await watched.store.open({ clock });
  let removals = 0;
  const keys = { removeDead: async () => void removals++ };
  const sweeper = new Sweeper({ store: watched.store, keys, clock });
  sweeper.start();
  onTestFinished(() => closed(watched, sweeper));
  return { ...watched, clock, sweeper, removals: () => removals };
}

async function closed({ hanging }: WatchedStore, sweeper: Sweeper): Promise<void> {
  // One that hangs for ever would be waited for.
  if (hanging.size === 0) {
    await sweeper.close();
  }
}

function countOf({ calls }: WatchedStore, name: string): number {
  return calls.filter((call) => call === name).length;
}

/** Adds sessions that ended more than a day ago by now. */
async function addEnded({ store, clock }: Awaited<ReturnType<typeof sweeping>>, count: number) {
  const ids = Array.from({ length: count }, (_, index) => `ended-${index}`);
  for (const id of ids) {
    await store.insert(newSession({ id, idle: 1, absolute: 1 }));
  }
  clock.setNow(clock.now() + 25 * 60 * minute);
  const left = async () => {
    const loaded = await Promise.all(ids.map((id) => store.load(id)));
    return loaded.filter(({ record }) => record !== undefined).length;
  };
  return { left };
}

describe("the sweeper", () => {
  it("sweeps about once a minute, never earlier than after three quarters of one", async () => {
    const sweep = await sweeping();
    await pass(sweep.clock, 44 * second);
    expect(sweep.take()).toEqual(["open"]);
    await pass(sweep.clock, 31 * second + 60 * minute);
    expect(countOf(sweep, "prune")).toBeGreaterThanOrEqual(48);
    expect(countOf(sweep, "prune")).toBeLessThanOrEqual(82);
    expect(countOf(sweep, "lease")).toBe(countOf(sweep, "prune"));
    expect(sweep.removals()).toBe(countOf(sweep, "prune"));
  });

  it("feat:O5 removes much in batches, with a pause after each", async () => {
    const sweep = await sweeping();
    const { left } = await addEnded(sweep, 3200);
    await sweep.store.insert(newSession({ id: "alive" }));
    while (countOf(sweep, "prune") === 0) {
      await pass(sweep.clock, second);
    }
    for (let batch = 1; batch < 7; batch++) {
      expect(countOf(sweep, "prune")).toBe(batch);
      expect(await left()).toBe(3200 - batch * 500);
      await pass(sweep.clock, 99, 99);
      expect(countOf(sweep, "prune")).toBe(batch);
      await pass(sweep.clock, 1, 1);
    }
    expect(await left()).toBe(0);
    // The lease is renewed for each of them, and the keys come last.
    expect(countOf(sweep, "lease")).toBe(7);
    expect(sweep.removals()).toBe(1);
    await pass(sweep.clock, 44 * second);
    expect(countOf(sweep, "prune")).toBe(7);
    expect((await sweep.store.load("alive")).record?.id).toBe("alive");
  });

  it("feat:O5 of several on one store one works, the whole time", async () => {
    const first = await sweeping();
    const others = [await sweeping(first.store, first.clock)];
    others.push(await sweeping(first.store, first.clock));
    // What the others do goes through the first one's store, too: only theirs is told apart.
    await pass(first.clock, 60 * minute);
    const [a = 0, b = 0] = others.map((other) => countOf(other, "prune"));
    const own = countOf(first, "prune") - a - b;
    expect([own, a, b].filter((count) => count > 0)).toHaveLength(1);
    expect(own + a + b).toBeGreaterThanOrEqual(48);
    expect(countOf(first, "lease")).toBeGreaterThanOrEqual(3 * 48);
  });

  it.each(["hanging", "failing"] as const)(
    "another one takes over within four minutes when the one that works is %s",
    async (fault) => {
      const inner = memoryStore();
      const first = await sweeping(inner);
      await pass(first.clock, 2 * minute);
      expect(countOf(first, "prune")).toBeGreaterThan(0);
      const second = await sweeping(inner, first.clock);
      await pass(first.clock, 10 * minute);
      expect(countOf(second, "prune")).toBe(0);
      first[fault].add("lease");
      await pass(first.clock, 4 * minute);
      expect(countOf(second, "prune")).toBeGreaterThan(0);
    },
  );

  it("survives an outage, and goes on afterwards", async () => {
    const sweep = await sweeping();
    const { left } = await addEnded(sweep, 3);
    for (const broken of ["lease", "prune"] as const) {
      sweep.failing.clear();
      sweep.failing.add(broken);
      const before = countOf(sweep, broken);
      await pass(sweep.clock, 10 * minute);
      // As often as ever: an outage is no reason to hurry.
      expect(countOf(sweep, broken) - before).toBeGreaterThanOrEqual(7);
      expect(countOf(sweep, broken) - before).toBeLessThanOrEqual(14);
      expect(await left()).toBe(3);
    }
    sweep.failing.clear();
    await pass(sweep.clock, 2 * minute);
    expect(await left()).toBe(0);
  });

  it("stops when it is closed: between two sweeps, and between two batches", async () => {
    for (const count of [0, 1200]) {
      const sweep = await sweeping();
      await addEnded(sweep, count);
      while (countOf(sweep, "prune") === 0) {
        await pass(sweep.clock, second);
      }
      await sweep.sweeper.close();
      sweep.take();
      await pass(sweep.clock, 10 * minute);
      expect(sweep.calls).toEqual([]);
    }
  });

  it("waits for the batch under way when it is closed, and begins no other", async () => {
    const inner = memoryStore();
    const reached = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    const slow = {
      ...inner,
      async lease(name: string, holder: string, ttl: number) {
        reached.resolve();
        await answer.promise;
        return inner.lease(name, holder, ttl);
      },
    };
    const sweep = await sweeping(slow);
    await pass(sweep.clock, 75 * second);
    await reached.promise;
    let ended = false;
    const closing = sweep.sweeper.close().then(() => {
      ended = true;
    });
    await settled();
    expect(ended).toBe(false);
    answer.resolve();
    await closing;
    expect(countOf(sweep, "prune")).toBe(0);
  });
});
