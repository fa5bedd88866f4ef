import { expect, it } from "vitest";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { heldCommits, watchedPool } from "./held-pool.ts";
import { createPool, holding, openedPostgres } from "./postgres-fixture.ts";

const hour = 3_600_000;

describePostgres("the change log on PostgreSQL", (server) => {
  it.each([
    ["revoke", (store: SessionStore) => store.revoke("late", "theft")],
    ["insert", (store: SessionStore) => store.insert(newSession({ id: "n", replaces: "late" }))],
  ])("returns a %s that commits after a later change was read", async (_name, write) => {
    await using fixture = await openedPostgres(server());
    const { store, url, clock } = fixture;
    await store.insert(newSession({ id: "late" }));
    await store.insert(newSession({ id: "soon" }));
    const start = await store.changes(undefined, hour);
    await using pool = createPool({ connectionString: url });
    const held = heldCommits();
    const slow = postgresStore(watchedPool(pool, held.before));
    await slow.open({ clock });
    const writing = write(slow);
    await held.arrived;
    await store.revoke("soon", "revoked");

    const before = await store.changes(start.cursor, 0);
    expect(sessionsOf(before)).toEqual(["soon"]);
    const first = await store.changes(undefined, hour);
    expect(sessionsOf(first)).toEqual(["soon"]);
    held.letGo();
    await writing;
    expect(sessionsOf(await store.changes(before.cursor, 0))).toContain("late");
    const after = await store.changes(first.cursor, 0);
    expect(sessionsOf(after)).toContain("late");
    expect(sessionsOf(await store.changes(after.cursor, 0))).toEqual([]);
    await slow.close();
  });

  it("returns no entry twice while an older transaction is open, and its entries once it commits", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await store.insert(newSession());
    await admin.query(
      "begin; insert into rpcsession_changes (kind, session, ended_by, at) values ('revoked', 'open', 'revoked', 0)",
    );
    const start = await store.changes(undefined, 0);
    await store.revoke("s1", "revoked");
    const first = await store.changes(start.cursor, 0);
    expect(sessionsOf(first)).toEqual(["s1"]);
    const again = await store.changes(first.cursor, 0);
    expect(sessionsOf(again)).toEqual([]);
    await admin.query("commit");
    expect(sessionsOf(await store.changes(again.cursor, 0))).toEqual(["open"]);
  });

  it("reads the whole window again and reports a loss if the database went back behind the cursor", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await store.insert(newSession());
    await store.insert(newSession({ id: "old" }));
    await store.revoke("s1", "revoked");
    await store.revoke("old", "revoked");
    await admin.query("update rpcsession_changes set at = at - 2 * $1 where session = 'old'", [
      hour,
    ]);
    const [process, , history] = (await store.changes(undefined, 0)).cursor.split("/");
    const future = `${process}/900000000000000:900000000000000:/${history}`;
    const read = await store.changes(future, hour);
    expect(sessionsOf(read)).toEqual(["s1"]);
    expect(read.lostAt).toBeLessThanOrEqual(read.now);
    expect(read.lostAt).toBeGreaterThan(read.now - hour);
    // Servers that start later know of it too.
    expect((await store.changes(undefined, hour)).lostAt).toBe(read.lostAt);
    const next = await store.changes(read.cursor, hour);
    expect(sessionsOf(next)).toEqual([]);
    expect(next.lostAt).toBe(read.lostAt);
  });

  it("reads the whole window again from another server process, and reports no loss it cannot detect", async () => {
    await using fixture = await openedPostgres(server());
    const { store } = fixture;
    await store.insert(newSession());
    await store.revoke("s1", "revoked");
    const { cursor } = await store.changes(undefined, hour);
    expect(sessionsOf(await store.changes(cursor, hour))).toEqual([]);
    const read = await store.changes(cursor.replace(/^\d+/, "1"), hour);
    expect(sessionsOf(read)).toEqual(["s1"]);
    expect(read.lostAt).toBeUndefined();
    expect(sessionsOf(await store.changes(read.cursor, hour))).toEqual([]);
  });

  it("reads a long log in pages without returning an entry twice", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    const start = await store.changes(undefined, hour);
    // Entries are ordered differently by number, by time and by transaction.
    const write = (from: number, to: number) =>
      admin.query(
        "insert into rpcsession_changes (kind, session, ended_by, at) select 'revoked', n::text, 'revoked', floor(extract(epoch from now()) * 1000) - n % 1000 from generate_series($1::int, $2::int) n",
        [from, to],
      );
    await write(1, 30_000);
    await write(30_001, 45_000);
    for (const read of [
      await store.changes(undefined, hour),
      await store.changes(start.cursor, 0),
    ]) {
      const sessions = sessionsOf(read);
      expect(sessions).toHaveLength(45_000);
      expect(new Set(sessions).size).toBe(45_000);
      expect(sessions).toEqual(sessions.toSorted((a, b) => Number(a) - Number(b)));
      expect(sessionsOf(await store.changes(read.cursor, 0))).toEqual([]);
    }
    const plan = await admin.query(
      "explain select * from rpcsession_changes as change where change.xid >= '900'::xid8 and true order by change.xid, change.number limit 20000",
    );
    expect(JSON.stringify(plan.rows)).toMatch(/rpcsession_changes_xid/);
  });

  it("returns an entry that is committed between two pages with a place in the first page", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin, url, clock } = fixture;
    const late = await fixture.connect();
    await late.query(
      "begin; insert into rpcsession_changes (kind, session, ended_by, at) values ('revoked', 'late', 'revoked', floor(extract(epoch from now()) * 1000) - 5000)",
    );
    await admin.query(
      "insert into rpcsession_changes (kind, session, ended_by, at) select 'revoked', n::text, 'revoked', floor(extract(epoch from now()) * 1000) from generate_series(1, 20001) n",
    );
    // The first read begins the history of the tables.
    await store.changes(undefined, 0);
    await using pool = createPool({ connectionString: url });
    let steps = 0;
    const stepping = postgresStore(
      watchedPool(pool, async (text) => {
        steps += text.includes("string_agg") ? 1 : 0;
        if (steps === 2) {
          await late.query("commit");
        }
      }),
    );
    await stepping.open({ clock });
    const read = await stepping.changes(undefined, hour);
    expect([steps, sessionsOf(read).includes("late")]).toEqual([2, false]);
    expect(sessionsOf(await store.changes(read.cursor, 0))).toContain("late");
    await stepping.close();
    await late.end();
  });

  it("returns an entry that somebody inserted by hand", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    const { cursor } = await store.changes(undefined, 0);
    await admin.query(
      "insert into rpcsession_changes (kind, session, ended_by, at) values ('revoked', 's9', 'revoked', 0)",
    );
    expect(sessionsOf(await store.changes(cursor, 0))).toEqual(["s9"]);
  });

  it("is pruned in batches, skipping entries that other transactions have locked", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await admin.query(
      "insert into rpcsession_changes (kind, session, ended_by, at) select 'revoked', n::text, 'revoked', n from generate_series(1, 40) n",
    );
    await using other = await holding(fixture, "select 1 from rpcsession_changes where at <= 10");
    expect(await store.prune(16)).toBe(16);
    expect(await other.left("rpcsession_changes where at <= 10")).toBe(10);
    expect(await other.left("rpcsession_changes")).toBe(24);
    expect(await store.prune(16)).toBe(14);
    expect(await store.prune(16)).toBe(0);
  });
});

function sessionsOf(read: { readonly entries: readonly { readonly session: string }[] }): string[] {
  return read.entries.map(({ session }) => session);
}
