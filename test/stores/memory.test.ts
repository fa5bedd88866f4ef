import { describe, expect, it } from "vitest";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { MemorySessions, newRecord } from "../../src/stores/memory/sessions.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describeSessionStore } from "../../src/testing/store-contract/index.ts";
import { describePruning } from "./pruning.ts";
import { stillClock } from "./still-clock.ts";

async function create() {
  const store = memoryStore();
  return { store, clock: stillClock(), close: () => store.close() };
}

describeSessionStore({ describe, it }, "memoryStore", create);
describePruning("memoryStore", create);

describe("memoryStore()", () => {
  it("rejects every call before open()", async () => {
    await expect(memoryStore().load("s1")).rejects.toThrow("memoryStore: the store is not open");
    await expect(memoryStore().insert(newSession())).rejects.toThrow(
      "memoryStore: the store is not open",
    );
  });

  it("uses the clock of the first engine that opens it", async () => {
    const { store, clock } = await create();
    const other = stillClock();
    await other.advance(1000);
    await store.open({ clock });
    await store.open({ clock: other });
    expect((await store.load("s1")).now).toBe(clock.now());
  });

  it("keeps working for other engines after one has closed it", async () => {
    const { store, clock } = await create();
    await store.open({ clock });
    await store.insert(newSession());
    await store.close();
    expect((await store.load("s1")).record?.id).toBe("s1");
  });

  it("generates a different secret of 32 bytes for each store", async () => {
    const secrets = [await memoryStore().secret?.(), await memoryStore().secret?.()];
    expect(secrets.map((secret) => secret?.length)).toEqual([32, 32]);
    expect(secrets[0]).not.toEqual(secrets[1]);
  });

  it("removes a dropped session from the indexes of its owners", () => {
    const sessions = new MemorySessions();
    for (const id of ["s1", "s2"]) {
      sessions.set(newRecord(newSession({ id, tenantId: "one" }), 0));
    }
    expect(sessions.indexSizes).toEqual([2, 2]);
    expect(sessions.prune(1, 90 * 86_400_000)).toBe(1);
    expect(sessions.indexSizes).toEqual([1, 1]);
    sessions.prune(1, 90 * 86_400_000);
    expect(sessions.indexSizes).toEqual([]);
  });

  it("changes nothing when claims are not JSON", async () => {
    const { store, clock } = await create();
    await store.open({ clock });
    await store.insert(newSession());
    const claims = { big: 1n as unknown as number };
    await expect(store.insert(newSession({ id: "s2", claims, replaces: "s1" }))).rejects.toThrow(
      "BigInt",
    );
    expect((await store.load("s1")).record?.revokedAt).toBeNull();
    expect((await store.load("s2")).record).toBeUndefined();
  });
});
