import { describe, expect, it } from "vitest";
import { KnownChanges } from "../../src/engine/revocation/known.ts";
import type { EndedEntry } from "../../src/engine/store.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";

function revoked(session: string, at: number): EndedEntry {
  return { kind: "revoked", session, endedBy: "revoked", at };
}

describe("KnownChanges", () => {
  it("forgets entries that no longer matter, and no others", () => {
    const clock = createFakeClock();
    const changes = new KnownChanges({ clock, window: 1_000 });
    for (let i = 0; i < 10; i++) {
      changes.apply(revoked(`s${i}`, i));
      clock.advance("100ms");
    }
    clock.advance("500ms");
    changes.prune();
    expect(changes.size).toBe(4);
    expect(changes.get("s5")).toBeUndefined();
    expect(changes.get("s6")).toBeDefined();
  });

  it("keeps a revocation when the wall clock jumps forward and back", () => {
    const clock = createFakeClock();
    const changes = new KnownChanges({ clock, window: 1_000 });
    changes.apply(revoked("s", clock.now()));
    const now = clock.now();
    clock.setNow(now + 1e9);
    changes.prune();
    clock.setNow(now);
    expect(changes.get("s")).toBeDefined();
  });

  it("ignores an entry that is read twice", () => {
    const changes = new KnownChanges({ clock: createFakeClock(), window: 1_000 });
    changes.apply(revoked("s", 1));
    changes.apply({ ...revoked("s", 2), endedBy: "theft" });
    expect(changes.get("s")).toEqual(revoked("s", 1));
    expect(changes.size).toBe(1);
  });

  it.each(["signOut", "replaced"] as const)("records a %s even after another end", (endedBy) => {
    const changes = new KnownChanges({ clock: createFakeClock(), window: 1_000 });
    changes.apply(revoked("s", 1));
    changes.apply({ ...revoked("s", 2), endedBy });
    changes.apply(revoked("s", 3));
    expect(changes.get("s")).toMatchObject({ endedBy, at: 2 });
  });

  it("an entry that is recorded again does not keep older ones in memory", () => {
    const clock = createFakeClock();
    const changes = new KnownChanges({ clock, window: 1_000 });
    changes.apply(revoked("a", 0));
    changes.apply(revoked("b", 0));
    clock.advance("500ms");
    changes.apply({ ...revoked("a", 500), endedBy: "signOut" });
    clock.advance("500ms");
    changes.prune();
    expect([...changes.all()].map(({ session }) => session)).toEqual(["a"]);
  });

  it("returns the newest claims version of a session, and counts entries of both kinds", () => {
    const changes = new KnownChanges({ clock: createFakeClock(), window: 1_000, limit: 2 });
    const claims = (session: string, claimsVersion: number) =>
      changes.apply({ kind: "claims", session, claimsVersion, at: 0 });
    claims("a", 2);
    claims("a", 1);
    expect(changes.claimsVersionOf("a")).toBe(2);
    claims("a", 3);
    expect(changes.claimsVersionOf("a")).toBe(3);
    expect(changes.claimsVersionOf("b")).toBeUndefined();
    expect(changes.get("a")).toBeUndefined();
    changes.apply(revoked("a", 0));
    expect([changes.size, changes.isOverfull]).toEqual([2, false]);
    claims("b", 1);
    expect(changes.isOverfull).toBe(true);
  });

  it("reports that it holds more than its limit, and drops nothing", () => {
    const clock = createFakeClock();
    const changes = new KnownChanges({ clock, window: 1_000, limit: 2 });
    for (const name of ["a", "b"]) {
      changes.apply(revoked(name, 0));
    }
    expect(changes.isOverfull).toBe(false);
    changes.apply(revoked("c", 0));
    expect(changes.isOverfull).toBe(true);
    expect(changes.get("a")).toBeDefined();
    clock.advance("1s");
    changes.prune();
    expect(changes.isOverfull).toBe(false);
  });
});

describe("KnownChanges.watch", () => {
  const start = () => {
    const clock = createFakeClock();
    const changes = new KnownChanges({ clock, window: 1_000 });
    const told: string[] = [];
    const note = ({ session, endedBy }: EndedEntry): void =>
      void told.push(`${session} ${endedBy}`);
    return { clock, changes, told, note };
  };

  it("calls each listener once, with the first end", () => {
    const { changes, told, note } = start();
    changes.watch("s", note);
    changes.watch("s", note);
    changes.watch("other", note);
    changes.apply(revoked("s", 1));
    changes.apply({ ...revoked("s", 2), endedBy: "signOut" });
    expect(told).toEqual(["s revoked", "s revoked"]);
    expect(changes.watching).toBe(1);
  });

  it("calls the listener immediately if the session has ended, and does not keep it", () => {
    const { changes, told, note } = start();
    changes.apply(revoked("s", 1));
    changes.watch("s", note)();
    expect(told).toEqual(["s revoked"]);
    expect(changes.watching).toBe(0);
  });

  it("does not call removed listeners, even if they are removed during the notification", () => {
    const { changes, told, note } = start();
    const stops: (() => void)[] = [];
    const first = (): void => {
      for (const stop of stops) {
        stop();
      }
    };
    stops.push(changes.watch("s", first), changes.watch("s", note));
    const early = changes.watch("s", note);
    early();
    early();
    expect(changes.watching).toBe(2);
    changes.apply(revoked("s", 1));
    expect(told).toEqual([]);
    expect(changes.watching).toBe(0);
  });

  it("a listener that throws affects neither other listeners nor the log", () => {
    const { changes, told, note } = start();
    changes.watch("s", () => {
      throw new Error("broken");
    });
    changes.watch("s", note);
    changes.apply(revoked("s", 1));
    expect(told).toEqual(["s revoked"]);
    expect(changes.get("s")).toBeDefined();
  });

  it("counts correctly if a session is watched again after all listeners were removed", () => {
    const { changes, told, note } = start();
    const stop = changes.watch("s", note);
    stop();
    changes.watch("s", note);
    stop();
    expect(changes.watching).toBe(1);
    changes.apply(revoked("s", 1));
    expect(told).toEqual(["s revoked"]);
  });
});
