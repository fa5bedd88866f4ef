import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { KnownChanges } from "../../src/engine/revocation/known.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { exchangeOf } from "../helpers/exchanges.ts";

const perHour = 1_000_000;
/** How long an engine keeps entries: the maximum lifetime of an access token plus a minute. */
const window = 3_660_000;
/** Bytes per entry, as documented. */
const perEntry = 200;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function heap(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

/** An id like that of a session, and a separate string like those from a database driver. */
function idOf(n: number): string {
  return Buffer.from(n.toString(36).padStart(22, "s")).toString("latin1");
}

describe("sec:V04 one million revocations per hour", () => {
  it("are each kept for 61 minutes and no longer", () => {
    const clock = createFakeClock();
    const revocations = new KnownChanges({ clock, window });
    const empty = heap();
    const step = 2_500;
    const perStep = (perHour / 3_600_000) * step;
    let written = 0;
    let most = 0;
    let bytes = 0;
    const at = clock.now();
    for (let time = 0; time < 2.5 * 3_600_000; time += step) {
      for (; written < (time / step + 1) * perStep; written++) {
        const session = idOf(written);
        revocations.apply(
          written % 10 === 0
            ? { kind: "claims", session, claimsVersion: 1, at: at + time }
            : { kind: "revoked", session, endedBy: "revoked", at: at + time },
        );
      }
      clock.advance(`${step}ms`);
      revocations.prune();
      most = Math.max(most, revocations.size);
      if (time % 1_800_000 === 0) {
        bytes = Math.max(bytes, heap() - empty);
      }
    }
    console.log(
      `${perHour} revocations an hour: at most ${most} entries, ${(bytes / 1e6).toFixed(0)} MB, ${(bytes / most).toFixed(0)} bytes each`,
    );
    expect(most).toBeLessThanOrEqual(Math.ceil((perHour * window) / 3_600_000) + perStep);
    expect(bytes / most).toBeLessThan(perEntry);
    expect(revocations.isOverfull).toBe(false);
    expect(revocations.get(idOf(written - 2))).toBeDefined();
    // The memory of the grown map is released.
    clock.advance("62m");
    revocations.prune();
    expect(revocations.size).toBe(0);
    expect(heap() - empty).toBeLessThan(bytes / 2);
  });

  it("a server that starts meanwhile stays within the limit", () => {
    const clock = createFakeClock();
    const limit = 2_000;
    const revocations = new KnownChanges({ clock, window, limit });
    const each = 3_600;
    // First the entries of the existing log with their ages, then as many new ones.
    for (let age = window; age > 0; age -= each) {
      revocations.apply({ kind: "revoked", session: `o${age}`, endedBy: "revoked", at: 0 }, age);
    }
    for (let time = 0; time < window; time += each) {
      clock.advance(`${each}ms`);
      revocations.apply({ kind: "revoked", session: `n${time}`, endedBy: "revoked", at: 0 });
      revocations.prune();
      expect(revocations.isOverfull).toBe(false);
    }
    expect(revocations.size).toBeLessThan(limit / 1.9);
  });
});

describe("changed claims", () => {
  it("are remembered without the private data of the session", async () => {
    const inner = memoryStore();
    const here = testSessions({ store: inner });
    const loaded: WeakRef<object>[] = [];
    const load: SessionStore["load"] = async (id) => {
      const { record, now } = await inner.load(id);
      const data = { text: "large" };
      loaded.push(new WeakRef(data));
      return { record: record && { ...record, data }, now };
    };
    const there = testSessions({ store: { ...inner, load }, clock: here.clock });
    await there.ready();
    const { session, tokens } = await here.issue({ userId: "alice" });
    await here.updateClaims(session.id, { role: "admin" });
    await new Promise((resolve) => setImmediate(resolve));
    const read = async () =>
      (await there.getSession(exchangeOf({ bearer: tokens.accessToken }))).claims;
    expect(await read()).toEqual({ role: "admin" });
    await new Promise((resolve) => setImmediate(resolve));
    collectGarbage();
    // The record is still remembered: it was read only once.
    expect(await read()).toEqual({ role: "admin" });
    expect(loaded.map((ref) => ref.deref())).toEqual([undefined]);
  });
});
