import { DatabaseSync } from "node:sqlite";
import { describe, expect, it } from "vitest";
import type { Clock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import {
  advance,
  confirmOne,
  evictAbove,
  newSession,
} from "../../src/testing/store-contract/fixture.ts";
import { openedSqlite } from "./sqlite-fixture.ts";
import { stillClock } from "./still-clock.ts";

const writes: [name: string, write: (store: SessionStore) => Promise<unknown>][] = [
  ["insert", (store) => store.insert(newSession({ id: "s2", replaces: "s1" }))],
  ["refresh", (store) => store.refresh(advance(0))],
  ["confirm", (store) => confirmOne(store, "s1", 0, 0)],
  ["revoke", (store) => store.revoke("s1", "revoked")],
  ["revokeAll", (store) => store.revokeAll({ ids: ["s1"] }, "revoked")],
  ["update", (store) => store.update({ id: "s1", version: 0, claims: {} })],
];

describe("sqliteStore while another process writes", () => {
  it.each(writes)(
    "%s waits without blocking the thread until the other process commits",
    async (_name, write) => {
      await using fixture = await openedSqlite();
      await fixture.store.insert(newSession());
      const before = await fixture.store.load("s1");
      const holder = holdLock(fixture.file);
      const clock = pausingClock((pauses) => {
        if (pauses === 3) {
          holder.release();
        }
      });
      const store = sqliteStore(fixture.file);
      await store.open({ clock });
      await write(store);
      expect(clock.pauses).toEqual([5, 10, 20]);
      expect(await fixture.store.load("s1")).not.toEqual(before);
      await store.close();
    },
  );

  it.each(writes)(
    "%s rejects and changes nothing if the other process never ends its transaction",
    async (_name, write) => {
      await using fixture = await openedSqlite();
      await fixture.store.insert(newSession());
      const before = await fixture.store.load("s1");
      const holder = holdLock(fixture.file);
      await expect(write(fixture.store)).rejects.toThrow("database is locked");
      expect(await fixture.store.load("s1")).toEqual(before);
      holder.release();
      expect((await fixture.store.load("s2")).record).toBeUndefined();
      await write(fixture.store);
    },
  );

  it("a write waits about two seconds in all before it rejects", async () => {
    await using fixture = await openedSqlite();
    const holder = holdLock(fixture.file);
    const clock = pausingClock(() => {});
    const store = sqliteStore(fixture.file);
    await store.open({ clock });
    await expect(store.insert(newSession())).rejects.toThrow("database is locked");
    const waited = clock.pauses.reduce((sum, pause) => sum + pause, 0);
    expect(waited).toBeGreaterThan(1_800);
    expect(waited).toBeLessThan(2_200);
    holder.release();
    await store.close();
  });

  it("reads do not wait for the write lock", async () => {
    await using fixture = await openedSqlite();
    await fixture.store.insert(newSession());
    const holder = holdLock(fixture.file);
    const clock = pausingClock(() => {});
    const store = sqliteStore(fixture.file);
    await store.open({ clock });
    await store.load("s1");
    await store.list({ userId: "alice", tenantId: null }, { cursor: undefined, limit: 10 });
    await store.changes(undefined, 0);
    await store.signingKeys();
    expect(clock.pauses).toEqual([]);
    holder.release();
    await store.close();
  });

  it("a change is rolled back if its entry in the change log fails", async () => {
    await using fixture = await openedSqlite();
    await fixture.store.insert(newSession());
    const before = await fixture.store.load("s1");
    const other = new DatabaseSync(fixture.file);
    other.exec(
      "create trigger full before insert on rpcsession_changes begin select raise(abort, 'log is full'); end",
    );
    await expect(fixture.store.revoke("s1", "revoked")).rejects.toThrow("log is full");
    await expect(fixture.store.insert(newSession({ id: "s2", replaces: "s1" }))).rejects.toThrow(
      "log is full",
    );
    await expect(fixture.store.revokeAll({ ids: ["s1"] }, "revoked")).rejects.toThrow(
      "log is full",
    );
    await expect(
      fixture.store.insert(newSession({ id: "s2", limit: evictAbove(1) })),
    ).rejects.toThrow("log is full");
    await expect(fixture.store.update({ id: "s1", version: 0, claims: {} })).rejects.toThrow(
      "log is full",
    );
    expect(await fixture.store.load("s1")).toEqual(before);
    expect((await fixture.store.load("s2")).record).toBeUndefined();
    other.exec("drop trigger full");
    other.close();
    expect((await fixture.store.revoke("s1", "revoked")).revoked).toBe(true);
  });
});

function holdLock(file: string): { release(): void } {
  const database = new DatabaseSync(file);
  database.exec("begin immediate");
  return {
    release() {
      database.exec("rollback");
      database.close();
    },
  };
}

/** A clock that records its pauses and ends each one at once. */
function pausingClock(onPause: (pauses: number) => void): Clock & { readonly pauses: number[] } {
  const pauses: number[] = [];
  return {
    ...stillClock(),
    pauses,
    after(ms, action) {
      pauses.push(ms);
      onPause(pauses.length);
      const turn = setImmediate(action);
      return () => clearImmediate(turn);
    },
  };
}
