import { expect, it } from "vitest";
import { Confirmations } from "../../src/engine/refresh/confirmations.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { settled } from "../helpers/pass.ts";

/** Confirmations on a store that answers when the test says so. */
function confirmations() {
  const clock = createFakeClock();
  const writes: { readonly id: string; readonly answer: (confirmed: boolean) => void }[] = [];
  const confirm = (id: string) =>
    new Promise<boolean>((answer) => {
      writes.push({ id, answer });
    });
  const store = { confirm } as unknown as SessionStore;
  return { clock, writes, all: new Confirmations({ store, clock, settle: 30_000 }) };
}

it("a server that closes waits for confirmations under way, but only for two seconds", async () => {
  const { all, clock, writes } = confirmations();
  let waiting = 0;
  const wait = async (): Promise<void> => {
    waiting += 1;
    await all.settled();
    waiting -= 1;
  };
  await all.settled();
  all.used({ sid: "s1", gen: 1, transport: "header" }, []);
  void wait();
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

it("a generation that was too young is confirmed by a use five seconds later, and then never again", async () => {
  const { all, clock, writes } = confirmations();
  const use = async (generation: number): Promise<number> => {
    all.used({ sid: "s1", gen: generation, transport: "header" }, []);
    await settled();
    return writes.length;
  };
  expect(await use(1)).toBe(1);
  writes[0]?.answer(false);
  await settled();
  clock.advance("4999ms");
  expect(await use(1)).toBe(1);
  clock.advance("1ms");
  expect(await use(1)).toBe(2);
  writes[1]?.answer(true);
  await settled();
  clock.advance("1h");
  expect(await use(1)).toBe(2);
  // An older generation needs none, a newer one its own.
  expect(await use(0)).toBe(2);
  expect(await use(2)).toBe(3);
});

it("at most 1,000 confirmations are under way; a use beyond them is left to a later one", async () => {
  const { all, writes } = confirmations();
  for (let i = 0; i <= 1_000; i++) {
    all.used({ sid: `s${i}`, gen: 1, transport: "header" }, []);
  }
  expect(writes).toHaveLength(1_000);
  writes[0]?.answer(true);
  await settled();
  all.used({ sid: "s1000", gen: 1, transport: "header" }, []);
  expect(writes).toHaveLength(1_001);
});

it("50,000 sessions are remembered; beyond that, the older half is forgotten", async () => {
  const { all, writes } = confirmations();
  const use = async (session: number): Promise<boolean> => {
    const before = writes.length;
    all.used({ sid: `s${session}`, gen: 1, transport: "header" }, []);
    writes[before]?.answer(true);
    // Lets the write end.
    await Promise.resolve();
    await Promise.resolve();
    await Promise.resolve();
    return writes.length > before;
  };
  for (let i = 0; i < 49_000; i++) {
    expect(await use(i)).toBe(true);
  }
  expect(await use(0)).toBe(false);
  for (let i = 49_000; i < 51_000; i++) {
    expect(await use(i)).toBe(true);
  }
  expect(await use(26_000)).toBe(false);
  expect(await use(0)).toBe(true);
});
