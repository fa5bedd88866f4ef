import { expect, it } from "vitest";
import { Turns } from "../../src/stores/redis/turns.ts";

/** Handles replies that arrive at once, and returns how many were handled in each turn of the event loop. */
async function handled(replies: number): Promise<number[]> {
  const turns = new Turns();
  const counts: number[] = [];
  let now = 0;
  const all = Array.from({ length: replies }, async () => {
    await turns.take();
    now++;
  });
  await new Promise((resolve) => process.nextTick(resolve));
  for (let seen = 0; seen < replies; ) {
    counts.push(now - seen);
    seen = now;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(all);
  return counts;
}

it("few replies are handled at once", async () => {
  expect(await handled(1)).toEqual([1]);
  expect(await handled(8)).toEqual([8]);
});

it("replies that arrive together are handled eight in a turn, so that new commands are sent in between", async () => {
  expect(await handled(32)).toEqual([8, 8, 8, 8]);
});

it("the last of a thousand replies waits for a few turns only", async () => {
  expect((await handled(1_000)).length).toBeLessThan(25);
});

it("replies keep their order, also with some that arrive later", async () => {
  const turns = new Turns();
  const order: number[] = [];
  const handle = async (number: number): Promise<void> => {
    await turns.take();
    order.push(number);
  };
  const first = Array.from({ length: 20 }, (_, i) => handle(i));
  await first[8];
  const later = Array.from({ length: 20 }, (_, i) => handle(20 + i));
  await Promise.all([...first, ...later]);
  expect(order).toEqual(Array.from({ length: 40 }, (_, i) => i));
});
