import { describe, expect, it, vi } from "vitest";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";

/** How long an access token is accepted: the default of `lifetimes.access`. */
const accessLife = 900_000;

/** A store that can simulate lost changes and failures. */
function losingStore() {
  const inner = memoryStore();
  const state: { lostAt?: number; failing: boolean; failed: number } = {
    failing: false,
    failed: 0,
  };
  const store: SessionStore = {
    ...inner,
    async changes(cursor, window) {
      const { lostAt } = state;
      return { ...(await inner.changes(cursor, window)), ...(lostAt !== undefined && { lostAt }) };
    },
    async revoke(id, endedBy) {
      if (state.failing) {
        throw new Error("out of reach");
      }
      return inner.revoke(id, endedBy);
    },
    async revokeAll(scope, endedBy) {
      if (state.failing) {
        state.failed += 1;
        throw new Error("out of reach");
      }
      return inner.revokeAll(scope, endedBy);
    },
  };
  return { store, state, inner };
}

async function twoEngines() {
  const { store, state, inner } = losingStore();
  const clock = createFakeClock();
  const engine = await startEngine({ store, clock });
  const other = await startEngine({ store, clock });
  const { id } = await engine.signIn();
  const wake = async () => {
    const { id: any } = await engine.signIn();
    await inner.revoke(any, "revoked");
  };
  return { engine, other, state, inner, clock, id, wake };
}

describe("a store that has lost changes", () => {
  it("gets one new signing key if it has lost all keys, even if several servers sign concurrently", async () => {
    const { engine, inner } = await twoEngines();
    await inner.removeSigningKeysBelow(9);
    engine.clock.advance("1h");
    await Promise.all([engine.signIn(), engine.signIn(), engine.signIn()]);
    expect((await inner.signingKeys()).keys).toHaveLength(1);
  });

  it("is read on every call until all tokens from before the loss have expired", async () => {
    const { engine, state, clock, wake } = await twoEngines();
    expect(engine.revocations.unsure).toBe(false);
    state.lostAt = clock.now();
    clock.advance("10m");
    await wake();
    await vi.waitFor(() => expect(engine.revocations.unsure).toBe(true));
    clock.advance("5m");
    await wake();
    expect(engine.revocations.unsure).toBe(true);
    clock.advance("60s");
    expect(engine.revocations.unsure).toBe(false);
  });

  it("is distrusted by a server that starts soon after the loss, and trusted by one that starts later", async () => {
    const { store, state } = losingStore();
    const clock = createFakeClock();
    state.lostAt = clock.now() - accessLife;
    const engine = await startEngine({ store, clock });
    expect(engine.revocations.unsure).toBe(true);
    clock.advance("60s");
    expect(engine.revocations.unsure).toBe(false);
    expect((await startEngine({ store, clock })).revocations.unsure).toBe(false);
  });

  it("is distrusted for longer after a second loss", async () => {
    const { engine, state, clock, wake } = await twoEngines();
    state.lostAt = clock.now();
    await wake();
    await vi.waitFor(() => expect(engine.revocations.unsure).toBe(true));
    clock.advance("10m");
    state.lostAt = clock.now();
    await wake();
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance("15m");
    expect(engine.revocations.unsure).toBe(true);
    clock.advance("60s");
    expect(engine.revocations.unsure).toBe(false);
  });

  it("gets back the revocations that a server remembers, as soon as it can be reached", async () => {
    const { engine, other, state, inner, clock, id, wake } = await twoEngines();
    // This process knows the revocation; the store has lost it, so its record is live.
    const lost = { kind: "revoked", session: id, endedBy: "signOut", at: clock.now() } as const;
    const revokeAll = vi.spyOn(inner, "revokeAll");
    vi.spyOn(engine.revocations, "all").mockReturnValue([]);
    other.revocations.apply(lost);
    state.lostAt = clock.now();
    state.failing = true;
    await wake();
    await vi.waitFor(() => expect(other.revocations.unsure).toBe(true));
    await vi.waitFor(() => expect(state.failed).toBe(1));
    expect((await engine.load(id)).record?.revokedAt).toBeNull();
    state.failing = false;
    await vi.waitFor(async () => {
      clock.advance("1s");
      expect((await engine.load(id)).record?.endedBy).toBe("signOut");
    });
    const given = revokeAll.mock.calls.filter(([, endedBy]) => endedBy === "signOut");
    expect(given).toEqual([[{ ids: [id] }, "signOut"]]);
    await vi.waitFor(() => expect(engine.revocations.get(id)?.endedBy).toBe("signOut"));
  });

  it("gets back revocations in batches by cause, until the server closes", async () => {
    const { engine, other, state, inner, clock, wake } = await twoEngines();
    for (let i = 0; i < 1_200; i++) {
      const endedBy = i % 3 === 0 ? "theft" : "revoked";
      other.revocations.apply({ kind: "revoked", session: `s${i}`, endedBy, at: clock.now() });
    }
    vi.spyOn(engine.revocations, "all").mockReturnValue([]);
    const given: string[] = [];
    vi.spyOn(inner, "revokeAll").mockImplementation(async (scope, endedBy) => {
      given.push(`${"ids" in scope ? scope.ids.length : 0} ${endedBy}`);
      if (given.length === 2) {
        void other.close();
      }
      return { revoked: [], now: clock.now() };
    });
    state.lostAt = clock.now();
    await wake();
    await vi.waitFor(() => expect(given).toHaveLength(2));
    await new Promise((resolve) => setImmediate(resolve));
    // The other 301 are left to servers that keep running.
    expect(given.toSorted()).toEqual(["400 theft", "500 revoked"]);
  });
});
