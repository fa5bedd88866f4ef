import { describe, expect, it } from "vitest";
import { KnownChanges } from "../../src/engine/revocation/known.ts";
import type { EndedEntry } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";

function revoked(session: string, at: number): EndedEntry {
  return { kind: "revoked", session, endedBy: "revoked", at };
}

describe("KnownChanges", () => {
  it("forgets entries that no longer matter, and no others", () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window: 1_000 });
    for (let i = 0; i < 10; i++) {
      revocations.apply(revoked(`s${i}`, i));
      clock.advance("100ms");
    }
    clock.advance("500ms");
    revocations.prune();
    expect(revocations.size).toBe(4);
    expect(revocations.get("s5")).toBeUndefined();
    expect(revocations.get("s6")).toBeDefined();
  });

  it("keeps a revocation when the wall clock jumps forward and back", () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window: 1_000 });
    revocations.apply(revoked("s", clock.now()));
    const now = clock.now();
    clock.setNow(now + 1e9);
    revocations.prune();
    clock.setNow(now);
    expect(revocations.get("s")).toBeDefined();
  });

  it("ignores an entry that is read twice", () => {
    const revocations = new KnownChanges({ clock: createFakeClock(), window: 1_000 });
    revocations.apply(revoked("s", 1));
    revocations.apply({ ...revoked("s", 2), endedBy: "theft" });
    expect(revocations.get("s")).toEqual(revoked("s", 1));
    expect(revocations.size).toBe(1);
  });

  it.each(["signOut", "replaced"] as const)("records a %s even after another end", (endedBy) => {
    const revocations = new KnownChanges({ clock: createFakeClock(), window: 1_000 });
    revocations.apply(revoked("s", 1));
    revocations.apply({ ...revoked("s", 2), endedBy });
    revocations.apply(revoked("s", 3));
    expect(revocations.get("s")).toMatchObject({ endedBy, at: 2 });
  });

  it("an entry that is recorded again does not keep older ones in memory", () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window: 1_000 });
    revocations.apply(revoked("a", 0));
    revocations.apply(revoked("b", 0));
    clock.advance("500ms");
    revocations.apply({ ...revoked("a", 500), endedBy: "signOut" });
    clock.advance("500ms");
    revocations.prune();
    expect([...revocations.all()].map(({ session }) => session)).toEqual(["a"]);
  });

  it("returns the newest claims version of a session, and counts entries of both kinds", () => {
    const revocations = new KnownChanges({ clock: createFakeClock(), window: 1_000, limit: 2 });
    const claims = (session: string, claimsVersion: number) =>
      revocations.apply({ kind: "claims", session, claimsVersion, at: 0 });
    claims("a", 2);
    claims("a", 1);
    expect(revocations.claimsVersionOf("a")).toBe(2);
    claims("a", 3);
    expect(revocations.claimsVersionOf("a")).toBe(3);
    expect(revocations.claimsVersionOf("b")).toBeUndefined();
    expect(revocations.get("a")).toBeUndefined();
    revocations.apply(revoked("a", 0));
    expect([revocations.size, revocations.isOverfull]).toEqual([2, false]);
    claims("b", 1);
    expect(revocations.isOverfull).toBe(true);
  });

  it("reports that it holds more than its limit, and drops nothing", () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window: 1_000, limit: 2 });
    for (const name of ["a", "b"]) {
      revocations.apply(revoked(name, 0));
    }
    expect(revocations.isOverfull).toBe(false);
    revocations.apply(revoked("c", 0));
    expect(revocations.isOverfull).toBe(true);
    expect(revocations.get("a")).toBeDefined();
    clock.advance("1s");
    revocations.prune();
    expect(revocations.isOverfull).toBe(false);
  });
});

describe("watching a session", () => {
  const start = () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window: 1_000 });
    const told: string[] = [];
    const note = ({ session, endedBy }: EndedEntry): void =>
      void told.push(`${session} ${endedBy}`);
    return { clock, revocations, told, note };
  };

  it("calls each listener once, with the first end", () => {
    const { revocations, told, note } = start();
    revocations.watch("s", note);
    revocations.watch("s", note);
    revocations.watch("other", note);
    revocations.apply(revoked("s", 1));
    revocations.apply({ ...revoked("s", 2), endedBy: "signOut" });
    expect(told).toEqual(["s revoked", "s revoked"]);
    expect(revocations.watching).toBe(1);
  });

  it("calls the listener immediately if the session has ended, and does not keep it", () => {
    const { revocations, told, note } = start();
    revocations.apply(revoked("s", 1));
    revocations.watch("s", note)();
    expect(told).toEqual(["s revoked"]);
    expect(revocations.watching).toBe(0);
  });

  it("does not call removed listeners, even if they are removed during the notification", () => {
    const { revocations, told, note } = start();
    const stops: (() => void)[] = [];
    const first = (): void => {
      for (const stop of stops) {
        stop();
      }
    };
    stops.push(revocations.watch("s", first), revocations.watch("s", note));
    const early = revocations.watch("s", note);
    early();
    early();
    expect(revocations.watching).toBe(2);
    revocations.apply(revoked("s", 1));
    expect(told).toEqual([]);
    expect(revocations.watching).toBe(0);
  });

  it("a listener that throws affects neither other listeners nor the log", () => {
    const { revocations, told, note } = start();
    revocations.watch("s", () => {
      throw new Error("broken");
    });
    revocations.watch("s", note);
    revocations.apply(revoked("s", 1));
    expect(told).toEqual(["s revoked"]);
    expect(revocations.get("s")).toBeDefined();
  });

  it("counts correctly if a session is watched again after all listeners were removed", () => {
    const { revocations, told, note } = start();
    const stop = revocations.watch("s", note);
    stop();
    revocations.watch("s", note);
    stop();
    expect(revocations.watching).toBe(1);
    revocations.apply(revoked("s", 1));
    expect(told).toEqual(["s revoked"]);
  });
});

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
