import type { Client, Pool } from "pg";
import { expect, it, vi } from "vitest";
import { databaseTime as timeOfStore } from "../../src/stores/postgres/connections.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { nothing } from "../../src/stores/sql/statement.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { advance, insertNew, newSession } from "../../src/testing/store-contract/fixture.ts";
import { startEngine } from "../helpers/engine.ts";
import { startBlackHole } from "../servers/black-hole.ts";
import { describePostgres } from "./describe-postgres.ts";
import { heldCommits, serverError, watchedPool } from "./held-pool.ts";
import { createPool, createSchema, openedPostgres } from "./postgres-fixture.ts";
import { stillClock } from "./still-clock.ts";

const secret = "a secret of the test, of 32 bytes and more";

describePostgres("postgresStore and its connections", (server) => {
  it("reads the database's clock in whole milliseconds, with an error below a microsecond", async () => {
    await using schema = await createSchema(server());
    const time = timeOfStore.render("numbered", nothing).text;
    const exactly = "floor(extract(epoch from moment + n * interval '1 microsecond') * 1000)";
    const { rows } = await schema.admin.query(`
      select count(*)::integer as wrong from (
        select timestamptz '2026-11-29' + day * interval '1 day 1.000001 s' as moment
        from generate_series(0, 27000) as day
      ) as given
      where ${time.replace("statement_timestamp()", "moment")} not between
        (select ${exactly} from (values (-1)) as before(n)) and (select ${exactly} from (values (1)) as after(n))`);
    expect(rows).toEqual([{ wrong: 0 }]);
  });

  it("rejects if its connection is terminated during a change; the next call works", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await store.insert(newSession());
    await using lock = await lockedSessions(fixture);
    const revoking = store.revoke("s1", "revoked").catch(String);
    await endConnections(admin, "wait_event_type = 'Lock'");
    expect(await revoking).toMatch(/terminat/);
    await lock.release();
    expect((await store.load("s1")).record?.revokedAt).toBeNull();
    expect((await store.changes(undefined, 60_000)).entries).toEqual([]);
    expect((await store.revoke("s1", "revoked")).revoked).toBe(true);
  });

  it("prepares its statements again after a migration changed their columns", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await store.insert(newSession());
    const loadAll = () => Promise.all([1, 2, 3, 4].map(() => store.load("s1")));
    await loadAll();
    await admin.query("alter table rpcsession_sessions add column added_later text");
    // Several loads, because each of the pool's connections has prepared the statement for the old columns.
    expect((await store.load("s1")).record?.id).toBe("s1");
    for (const { record } of await loadAll()) {
      expect(record?.id).toBe("s1");
    }
    await admin.query("alter table rpcsession_sessions drop column added_later");
    expect((await store.revoke("s1", "revoked")).revoked).toBe(true);
  });

  it("makes the engine report Unavailable, and signs nobody out", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    const engine = await startEngine({ store, secret });
    const { id, token } = await engine.signIn();
    await using lock = await lockedSessions(fixture);
    const refreshing = engine.exchange(token).catch((error: unknown) => error);
    await endConnections(admin, "wait_event_type = 'Lock'");
    expect(await refreshing).toMatchObject({ kind: "unavailable" });
    const revoking = engine.revoke(id, "revoked").catch((error: unknown) => error);
    await endConnections(admin, "wait_event_type = 'Lock'");
    expect(await revoking).toMatchObject({ kind: "unavailable" });
    await lock.release();
    expect((await engine.exchange(token)).record.id).toBe(id);
    await engine.close();
  });

  it("survives the loss of a connection between two statements of a change", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin, url, clock } = fixture;
    await store.insert(newSession());
    await using pool = pooled(url);
    const held = heldCommits();
    const other = postgresStore(watchedPool(pool, held.before));
    await other.open({ clock });
    const revoking = other.revoke("s1", "revoked").catch(String);
    await held.arrived;
    await endConnections(admin, "state = 'idle in transaction'");
    await vi.waitFor(() => expect(pool.totalCount - pool.idleCount).toBe(1));
    held.letGo();
    expect(await revoking).toMatch(/connection|queryable|ECONNRESET/i);
    expect((await store.load("s1")).record?.revokedAt).toBeNull();
    expect((await other.revoke("s1", "revoked")).revoked).toBe(true);
    await other.close();
  });

  it("survives the loss of its idle connections", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await Promise.all([store.load("s1"), store.load("s1")]);
    await endConnections(admin, "state = 'idle'");
    expect((await vi.waitFor(() => store.load("s1"))).record).toBeUndefined();
  });

  it("repeats what changes nothing when all its idle connections have died unnoticed", async () => {
    await using fixture = await openedPostgres(server());
    const url = new URL(fixture.url);
    await using hole = await startBlackHole({ host: url.hostname, port: Number(url.port) });
    url.port = String(hole.port);
    const store = postgresStore(url.href, { connections: 4 });
    await store.open({ clock: fixture.clock });
    await store.insert(newSession());
    const loadAll = (count: number) =>
      Promise.all(Array.from({ length: count }, () => store.load("s1")));
    const warm = async () => {
      await loadAll(4);
      expect(hole.links()).toBe(4);
    };
    // A read, and several at once.
    await warm();
    hole.forget();
    expect((await store.load("s1")).record?.id).toBe("s1");
    await warm();
    hole.forget();
    for (const { record } of await loadAll(8)) {
      expect(record?.id).toBe("s1");
    }
    // A single statement that writes may have been done: it is not repeated.
    await warm();
    hole.forget();
    await expect(store.refresh(advance(0))).rejects.toThrow(/ECONNRESET|terminated/);
    expect((await store.load("s1")).record?.generation).toBe(0);
    // A transaction that could not begin has done nothing.
    await warm();
    hole.forget();
    expect((await store.revoke("s1", "revoked")).revoked).toBe(true);
    await store.close();
  });

  it("reports a read that fails on fresh connections too, after one repetition", async () => {
    await using fixture = await openedPostgres(server());
    await using pool = pooled(fixture.url);
    let attempts = 0;
    const store = postgresStore(
      watchedPool(pool, (text) => {
        if (text.startsWith("select") && text.includes("from rpcsession_sessions")) {
          attempts += 1;
          throw Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });
        }
      }),
    );
    await store.open({ clock: fixture.clock });
    await expect(store.load("s1")).rejects.toThrow("ECONNRESET");
    expect(attempts).toBe(2);
    await store.close();
  });

  it("notifies after the commit, not within the transaction", async () => {
    await using fixture = await openedPostgres(server());
    const { store, clock, url } = fixture;
    for (const id of ["s1", "s2", "s3"]) {
      await store.insert(newSession({ id }));
    }
    await using pool = pooled(url);
    const texts: string[] = [];
    const watched = postgresStore(watchedPool(pool, (text) => void texts.push(text)));
    await watched.open({ clock });
    const changes = [
      () => watched.revoke("s1", "revoked"),
      () => watched.revokeAll({ ids: ["s2"] }, "revoked"),
      () => watched.update({ id: "s3", version: 0, claims: {} }),
      () => watched.announceKeys("changed"),
    ];
    for (const change of changes) {
      texts.length = 0;
      await change();
      await vi.waitFor(() => expect(texts.at(-1)).toContain("pg_notify"));
      expect(texts.filter((text) => text.includes("pg_notify"))).toHaveLength(1);
    }
    await watched.close();
  });

  it("notifies of its last changes before it closes", async () => {
    await using fixture = await openedPostgres(server());
    await using pool = pooled(fixture.url);
    const texts: string[] = [];
    const store = postgresStore(watchedPool(pool, (text) => void texts.push(text)));
    // Its timers never fire, so the second change waits for the end of the 20 ms.
    await store.open({ clock: createFakeClock() });
    for (const id of ["s1", "s2"]) {
      await store.insert(newSession({ id }));
      await store.revoke(id, "revoked");
    }
    const notified = () => texts.filter((text) => text.includes("pg_notify"));
    expect(notified()).toHaveLength(1);
    await store.close();
    expect(notified()).toHaveLength(2);
  });

  it("closes the connections it opened, and opens new ones when it is opened again", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin, clock } = fixture;
    await store.close();
    await vi.waitFor(async () => expect(await connections(admin)).toEqual([]));
    await store.open({ clock });
    expect((await store.load("s1")).record).toBeUndefined();
  });

  it("does not close a pool that was passed in", async () => {
    await using schema = await createSchema(server());
    await using pool = pooled(schema.url);
    const store = postgresStore(pool);
    await store.open({ clock: stillClock() });
    await store.close();
    await store.close();
    expect((await pool.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    expect(pool.idleCount).toBe(pool.totalCount);
  });

  it.each(["40001", "40P01"])("repeats a transaction that fails with %s", async (code) => {
    await using fixture = await openedPostgres(server());
    await using failing = await openedFailing(fixture, { code, times: 3 });
    await failing.store.insert(newSession());
    expect((await failing.store.refresh(advance(0))).record?.generation).toBe(1);
    expect(failing.failures()).toBe(3);
    expect((await failing.store.revoke("s1", "theft")).revoked).toBe(true);
    expect((await fixture.store.changes(undefined, 60_000)).entries).toHaveLength(1);
  });

  it.each([
    ["40001", 6],
    ["40P01", 6],
    ["57014", 1],
    ["08006", 1],
  ])("gives up on %s after %i attempts and changes nothing", async (code, attempts) => {
    await using fixture = await openedPostgres(server());
    await fixture.store.insert(newSession());
    await using failing = await openedFailing(fixture, { code, times: 100 });
    await expect(failing.store.revoke("s1", "theft")).rejects.toThrow(code);
    expect(failing.failures()).toBe(attempts);
    expect((await fixture.store.load("s1")).record?.revokedAt).toBeNull();
  });

  it("reads the database's clock once per statement", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    const before = await databaseTime(admin);
    const { record, now } = await insertNew(store);
    const after = await databaseTime(admin);
    expect(now).toBeGreaterThanOrEqual(before);
    expect(now).toBeLessThanOrEqual(after);
    const { createdAt, rotatedAt, authTime, lastSeenAt } = record;
    expect([createdAt, rotatedAt, authTime, lastSeenAt]).toEqual([now, now, now, now]);
    const ended = await store.revoke("s1", "revoked");
    expect(ended.record?.revokedAt).toBe(ended.now);
    expect((await store.load("absent")).now).toBeGreaterThanOrEqual(ended.now);
  });
});

type Fixture = Awaited<ReturnType<typeof openedPostgres>>;

/** Another store over the same tables, whose next writes fail. */
async function openedFailing(
  { url, clock }: Fixture,
  { code, times }: { readonly code: string; readonly times: number },
) {
  const pool = createPool({ connectionString: url });
  let failures = 0;
  const failing = watchedPool(pool, (text) => {
    if (text.startsWith("update") && failures < times) {
      failures += 1;
      throw serverError(code);
    }
  });
  const store = postgresStore(failing);
  await store.open({ clock });
  return {
    store,
    failures: () => failures,
    async [Symbol.asyncDispose]() {
      await store.close();
      // A notification may be under way; on this clock, closing does not wait for it.
      await vi.waitFor(() => expect(pool.idleCount).toBe(pool.totalCount));
      await pool.end();
    },
  };
}

/** Terminates the stores' connections in a given state, as soon as there are any. */
async function endConnections(admin: Client, state: string): Promise<void> {
  await vi.waitFor(async () => {
    const { rowCount } = await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where ${state} and pid <> pg_backend_pid() and backend_type = 'client backend'`,
    );
    expect(rowCount).toBeGreaterThan(0);
  });
}

/** Makes every write to a session wait. */
async function lockedSessions(fixture: Fixture) {
  const client = await fixture.connect();
  await client.query("begin; select 1 from rpcsession_sessions for update");
  return {
    release: () => client.query("rollback"),
    [Symbol.asyncDispose]: () => client.end(),
  };
}

async function connections(admin: Client): Promise<unknown[]> {
  const { rows } = await admin.query(
    "select pid from pg_stat_activity where application_name = 'rpc-session'",
  );
  return rows;
}

async function databaseTime(admin: Client): Promise<number> {
  const { rows } = await admin.query(
    "select floor(extract(epoch from clock_timestamp()) * 1000)::int8::text as now",
  );
  return Number((rows[0] as { now: string }).now);
}

function pooled(url: string): Pool & AsyncDisposable {
  const pool = createPool({ connectionString: url });
  pool.on("error", () => {});
  return pool;
}
