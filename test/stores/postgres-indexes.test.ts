import { expect, it } from "vitest";
import { insertNew } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { createPostgres } from "./postgres-fixture.ts";

const minute = 60_000;
const hour = 60 * minute;

describePostgres("what the indexes on PostgreSQL cost", (server) => {
  it("nine of ten refreshes in a day change no index", async () => {
    const fixture = await createPostgres(server());
    const { store, clock, admin } = fixture;
    await store.open({ clock });
    const ids = Array.from({ length: 50 }, (_, i) => `hot-${i}`);
    for (const id of ids) {
      await insertNew(store, { id, idle: 14 * 24 * hour, absolute: 90 * 24 * hour });
    }
    const rounds = 96;
    for (let generation = 0; generation < rounds; generation++) {
      await clock.advance(15 * minute);
      const advance = { kind: "advance", generation, idle: 14 * 24 * hour, secretId: "a" } as const;
      await Promise.all(ids.map((id) => store.refresh({ id, ...advance })));
    }
    const updates = rounds * ids.length;
    const counts = async () => {
      const { rows } = await admin.query(
        "select n_tup_upd::int as all, n_tup_hot_upd::int as hot from pg_stat_user_tables where relid = 'rpcsession_sessions'::regclass",
      );
      return rows[0] as { readonly all: number; readonly hot: number };
    };
    // The statistics of a connection are complete once it has closed.
    await store.close();
    await expect.poll(async () => (await counts()).all).toBe(updates);
    expect((await counts()).hot).toBeGreaterThan(0.9 * updates);
    await admin.end();
  });

  it("finds the sessions of a statement for many by the primary key, also if it was prepared for an empty table", async () => {
    const { store, clock, admin } = await createPostgres(server());
    await store.open({ clock });
    const names = (from: number) => Array.from({ length: 40 }, (_, i) => `many-${from + i}`);
    const advanceAll = (ids: readonly string[], secretId: string) =>
      Promise.all(
        ids.map(async (id) =>
          store.advance?.({
            ...{ id, generation: 0, secretId, rootHash: "root", transport: "header" },
            ...{ boundKey: null, overlap: 0, idle: hour, nextSecretId: "next" },
          }),
        ),
      );
    // PostgreSQL keeps a plan after it has run a statement five times on a connection.
    for (let round = 0; round < 60; round++) {
      await advanceAll(names(0), "none");
    }
    const ids = Array.from({ length: 2_000 }, (_, i) => `many-${i}`);
    for (let from = 0; from < ids.length; from += 50) {
      await Promise.all(
        ids.slice(from, from + 50).map((id) =>
          insertNew(store, {
            ...{
              id,
              userId: id,
              idle: hour,
              absolute: hour,
              transport: "header",
              rootHash: "root",
            },
          }),
        ),
      );
    }
    for (let from = 0; from < ids.length; from += 500) {
      await store.confirm(
        ids.slice(from, from + 500).map((session) => ({ session, generation: 0, settle: 0 })),
      );
    }
    await clock.advance(minute);
    const { secretId = "" } = (await store.load("many-0")).record ?? {};
    const plans =
      "select seq_tup_read::int as read from pg_stat_user_tables where relid = 'rpcsession_sessions'::regclass";
    const before = await admin.query(plans);
    for (let from = 0; from < ids.length; from += 40) {
      const done = await advanceAll(names(from), secretId);
      expect(done.map((one) => one?.advanced)).toEqual(names(from).map(() => true));
    }
    // The statistics of a connection are complete once it has closed.
    await store.close();
    const pkey =
      "select idx_scan::int as scans from pg_stat_user_indexes where indexrelname = 'rpcsession_sessions_pkey' and relid = 'rpcsession_sessions'::regclass";
    await expect
      .poll(async () => Number((await admin.query(pkey)).rows[0]?.scans))
      .toBeGreaterThanOrEqual(2 * ids.length);
    // The confirmation reads the table once for 500; one statement in 40 would read 100,000 rows.
    const read = Number((await admin.query(plans)).rows[0]?.read) - Number(before.rows[0]?.read);
    expect(read).toBeLessThanOrEqual(4 * 2 * ids.length);
    await admin.end();
  });

  it("finds a session that is named by its id by the primary key, also before the tables were analyzed", async () => {
    const { store, clock, admin } = await createPostgres(server());
    // Prepared while the tables are empty, as on a new database; this server analyzes nothing.
    await store.open({ clock });
    const ids = Array.from({ length: 40 }, (_, i) => `named-${i}`);
    const session = { idle: hour, absolute: hour, transport: "header", rootHash: "root" } as const;
    for (const id of ids) {
      await insertNew(store, { id, ...session });
    }
    const { secretId } = (await store.load("named-0")).record ?? {};
    for (const id of ids) {
      const confirmed = [{ session: id, generation: 0, settle: 0 }];
      expect(await store.confirm(confirmed)).toEqual([true]);
    }
    await clock.advance(minute);
    for (const id of ids) {
      const advanced = await store.advance?.({
        ...{ id, generation: 0, secretId: secretId ?? "", rootHash: "root", transport: "header" },
        ...{ boundKey: null, overlap: 0, idle: hour, nextSecretId: "next" },
      });
      expect(advanced?.advanced).toBe(true);
      const kept = { id, kind: "keep", settle: null, generation: 1, idle: hour } as const;
      expect((await store.refresh(kept)).record?.id).toBe(id);
      expect((await store.update({ id, version: 0, claims: {} })).record?.id).toBe(id);
    }
    for (const id of ids.slice(20)) {
      expect((await store.revoke(id, "revoked")).revoked).toBe(true);
    }
    expect((await store.revokeAll({ ids: ids.slice(0, 20) }, "revoked")).revoked).toHaveLength(20);
    const scans = async () => {
      const { rows } = await admin.query(
        "select indexrelname as index, idx_scan::int as scans from pg_stat_user_indexes where relid = 'rpcsession_sessions'::regclass and idx_scan > 0 order by 1",
      );
      return rows as readonly { readonly index: string; readonly scans: number }[];
    };
    // The statistics of a connection are complete once it has closed.
    await store.close();
    await expect
      .poll(async () => (await scans()).find(({ index }) => index.endsWith("_pkey"))?.scans ?? 0)
      .toBeGreaterThanOrEqual(3.5 * ids.length);
    expect((await scans()).map(({ index }) => index)).toEqual(["rpcsession_sessions_pkey"]);
    await admin.end();
  });

  it("removes sessions that an older server inserted or refreshed, and none of them early", async () => {
    const fixture = await createPostgres(server());
    const { store, clock, admin } = fixture;
    await store.open({ clock });
    const start = clock.now();
    for (const id of ["inserted", "refreshed", "plain"]) {
      await insertNew(store, { id, idle: hour, absolute: 900 * hour });
    }
    // An older server knows no `sweep_at`.
    await admin.query("update rpcsession_sessions set sweep_at = 0 where id = 'inserted'");
    await admin.query(
      "update rpcsession_sessions set idle_expires_at = $1 where id = 'refreshed'",
      [start + 100 * hour],
    );
    const kept = async () => {
      while ((await store.prune(1)) > 0) {
        // The next row.
      }
      const { rows } = await admin.query("select id from rpcsession_sessions order by id");
      return (rows as { readonly id: string }[]).map(({ id }) => id);
    };
    expect(await kept()).toEqual(["inserted", "plain", "refreshed"]);
    await clock.advance(25 * hour);
    expect(await kept()).toEqual(["inserted", "plain", "refreshed"]);
    await clock.advance(4 * hour + 1);
    expect(await kept()).toEqual(["refreshed"]);
    await clock.advance(95 * hour);
    expect(await kept()).toEqual(["refreshed"]);
    await clock.advance(4 * hour + 1);
    expect(await kept()).toEqual([]);
    await fixture.close();
  });

  it("keeps sessions without a tenant out of the index by tenant, which lists use", async () => {
    const fixture = await createPostgres(server());
    const { store, clock, admin } = fixture;
    await store.open({ clock });
    for (let i = 0; i < 20; i++) {
      await insertNew(store, { id: `s-${i}`, tenantId: i < 3 ? "acme" : null });
    }
    await admin.query("analyze rpcsession_sessions");
    const { rows } = await admin.query(
      "select reltuples::int as n from pg_class where oid = 'rpcsession_sessions_in_tenant'::regclass",
    );
    expect(rows).toEqual([{ n: 3 }]);
    await admin.query("set enable_seqscan = off; set enable_sort = off");
    const plan = await admin.query(
      "explain (format json) select id from rpcsession_sessions where tenant_id = 'acme' and revoked_at is null order by created_at desc, id collate \"C\" desc limit 10",
    );
    expect(JSON.stringify(plan.rows)).toContain("rpcsession_sessions_in_tenant");
    await fixture.close();
  });
});
