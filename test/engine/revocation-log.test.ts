import { describe, expect, it } from "vitest";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";
import { settled } from "../helpers/pass.ts";

describe("RevocationLog", () => {
  const secret = "shared by both servers, 32 bytes!";

  it("detects another server's revocation by polling, without a wake-up", async () => {
    const store = memoryStore();
    const one = await startEngine({ store, secret });
    const deaf = { ...store, onChange: () => () => {} };
    const two = await startEngine({ store: deaf, secret, clock: one.clock });
    const { id } = await one.signIn();
    await one.revoke(id, "revoked");
    expect(two.revocations.get(id)).toBeUndefined();
    one.clock.advance("2500ms");
    await expect.poll(() => two.revocations.get(id)?.endedBy).toBe("revoked");
  });

  it("polls every half of maxStaleness, and every 500 ms while nothing is pushed", async () => {
    const store = memoryStore();
    let pushed: boolean | undefined = true;
    let reads = 0;
    const { clock } = await startEngine({
      secret,
      store: {
        ...store,
        pushed: () => pushed,
        changes: (...args) => {
          reads += 1;
          return store.changes(...args);
        },
      },
    });
    const readsIn = async (seconds: number): Promise<number> => {
      const before = reads;
      for (let ms = 0; ms < seconds * 1000; ms += 100) {
        clock.advance("100ms");
        await settled();
      }
      return reads - before;
    };
    expect(await readsIn(10)).toBe(4);
    for (const state of [false, undefined]) {
      pushed = state;
      // The next read was scheduled before the push was lost.
      await readsIn(2.5);
      expect(await readsIn(10)).toBe(20);
    }
    pushed = true;
    await readsIn(0.5);
    expect(await readsIn(10)).toBe(4);
  });

  it("keeps the process alive while a call waits for it, but not for its own polling", async () => {
    const fake = createFakeClock();
    const timers: (readonly [number, boolean])[] = [];
    const clock: FakeClock = {
      ...fake,
      after(ms, action, keepAlive = false) {
        timers.push([ms, keepAlive]);
        return fake.after(ms, action);
      },
    };
    const store = memoryStore();
    let isDown = false;
    const engine = await startEngine({
      clock,
      store: {
        ...store,
        changes: (...args) => (isDown ? new Promise(() => {}) : store.changes(...args)),
      },
    });
    isDown = true;
    clock.advance("1h");
    expect(engine.revocations.isStale()).toBe(true);
    expect(timers.filter(([, keepAlive]) => keepAlive)).toEqual([]);
    const call = engine.revocations.catchUp();
    expect(timers.filter(([, keepAlive]) => keepAlive)).toEqual([[5_000, true]]);
    // Time that passes without a turn of the event loop does not count.
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance("5s");
    await expect(call).rejects.toMatchObject({ kind: "unavailable" });
  });

  it("reads once more after a wake-up during a read", async () => {
    const store = memoryStore();
    const one = await startEngine({ store, secret });
    let reads = 0;
    let answer = (): void => {};
    let wake = (): void => {};
    const two = await startEngine({
      secret,
      clock: one.clock,
      store: {
        ...store,
        onChange(given) {
          wake = given;
          return () => {};
        },
        async changes(...args) {
          const changes = await store.changes(...args);
          reads += 1;
          if (reads === 2) {
            await new Promise<void>((resolve) => {
              answer = resolve;
            });
          }
          return changes;
        },
      },
    });
    const { id } = await one.signIn();
    wake();
    await expect.poll(() => reads).toBe(2);
    // Too late for the read in progress.
    await one.revoke(id, "revoked");
    wake();
    answer();
    await expect.poll(() => two.revocations.get(id)?.endedBy).toBe("revoked");
    expect(reads).toBe(3);
  });

  it("pauses for as long as the last read took, however many wake-ups come", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    let reads = 0;
    let wake = (): void => {};
    await startEngine({
      clock,
      store: {
        ...store,
        onChange(given) {
          wake = given;
          return () => {};
        },
        changes(...args) {
          reads += 1;
          wake();
          clock.advance("200ms");
          return store.changes(...args);
        },
      },
    });
    const turn = () => new Promise((resolve) => setImmediate(resolve));
    clock.advance("2500ms");
    await turn();
    const before = reads;
    clock.advance("199ms");
    await turn();
    expect(reads).toBe(before);
    clock.advance("1ms");
    await turn();
    expect(reads).toBe(before + 1);
  });

  it("becomes fresh without a call, however much time has passed", async () => {
    const engine = await startEngine();
    engine.clock.advance("10h");
    expect(engine.revocations.isStale()).toBe(true);
    await expect.poll(() => engine.revocations.isStale()).toBe(false);
  });

  it("repeats a failed poll one second later", async () => {
    const store = memoryStore();
    const one = await startEngine({ store, secret });
    let down = false;
    const flaky = await startEngine({
      secret,
      clock: one.clock,
      store: {
        ...store,
        onChange: () => () => {},
        changes: (...args) => (down ? Promise.reject(new Error("down")) : store.changes(...args)),
      },
    });
    const { id } = await one.signIn();
    await one.revoke(id, "revoked");
    down = true;
    one.clock.advance("2500ms");
    await new Promise((resolve) => setImmediate(resolve));
    expect(flaky.revocations.get(id)).toBeUndefined();
    down = false;
    one.clock.advance("1s");
    await expect.poll(() => flaky.revocations.get(id)).toBeDefined();
  });

  it("reads earlier revocations when a server starts", async () => {
    const store = memoryStore();
    const one = await startEngine({ store, secret });
    const { id } = await one.signIn();
    await one.revoke(id, "signOut");
    const late = await startEngine({ store, secret, clock: one.clock });
    expect(late.revocations.get(id)?.endedBy).toBe("signOut");
  });

  it("does not read after it is closed", async () => {
    const store = memoryStore();
    let reads = 0;
    const engine = await startEngine({
      store: {
        ...store,
        changes(...args) {
          reads++;
          return store.changes(...args);
        },
      },
    });
    await engine.close();
    engine.clock.advance("1m");
    expect(reads).toBe(1);
  });
});

describe("RevocationLog.storeNow", () => {
  /** An engine whose next read of the log takes `slow.ms` milliseconds before the store reads its clock. */
  async function slowEngine(first: number) {
    const slow = { ms: first };
    const clock = createFakeClock();
    const store = memoryStore();
    const engine = await startEngine({
      clock,
      store: {
        ...store,
        changes(...args) {
          const { ms } = slow;
          slow.ms = 0;
          clock.advance(`${ms}ms`);
          return store.changes(...args);
        },
      },
    });
    return { engine, clock, slow };
  }

  it("is not ahead of the store's clock after a slow first read", async () => {
    const { engine, clock } = await slowEngine(3_000);
    expect(engine.revocations.storeNow()).toBe(clock.now());
  });

  it("is not changed by a slow later read", async () => {
    const { engine, clock, slow } = await slowEngine(0);
    const { id } = await engine.signIn();
    slow.ms = 2_000;
    await engine.revoke(id, "revoked");
    await expect.poll(() => slow.ms).toBe(0);
    await new Promise((resolve) => setImmediate(resolve));
    expect(engine.revocations.storeNow()).toBe(clock.now());
  });
});
