import { setTimeout as pause } from "node:timers/promises";
import type { Client } from "pg";
import { expect, it } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresBackend } from "../../src/stores/postgres/connections.ts";
import { postgresMigrations } from "../../src/stores/postgres/migrations.ts";
import { borrowPool, type OpenPool, openPool } from "../../src/stores/postgres/pools.ts";
import type { MigrationStep } from "../../src/stores/sql/database.ts";
import { sql } from "../../src/stores/sql/statement.ts";
import { SqlStore } from "../../src/stores/sql/store.ts";
import { advance, newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { olderStatements, olderTables, recordedVersions } from "./older-schema.ts";
import { createPool, createSchema, openedPostgres } from "./postgres-fixture.ts";

const known = postgresMigrations.length;
/** The schema of the oldest version that works beside this one. */
const oldest = postgresMigrations.at(-1)?.compatibleFrom ?? 0;

const colour: MigrationStep = {
  name: "colour",
  compatibleFrom: oldest,
  transaction: ["alter table rpcsession_sessions add column colour text"],
};
const index: MigrationStep = {
  name: "byDevice",
  compatibleFrom: oldest,
  transaction: [],
  afterwards: [{ index: "rpcsession_sessions_device", on: "rpcsession_sessions (device)" }],
};

describePostgres("upgrading the tables of postgresStore", (server) => {
  it("feat:O8 an older server works, and starts again, beside tables of a newer version that say so", async () => {
    await using older = await openedPostgres(server());
    await older.store.insert(newSession());
    const newer = withSteps(older.url, [colour]);
    await newer.open({ clock: systemClock });
    // It goes on: its prepared statements are of the table without the new column.
    expect((await older.store.refresh(advance(0))).record?.generation).toBe(1);
    // It starts again.
    const restarted = withSteps(older.url, []);
    await restarted.open({ clock: systemClock });
    expect((await restarted.refresh(advance(1))).record?.generation).toBe(2);
    expect((await newer.load("s1")).record?.generation).toBe(2);
    await Promise.all([newer.close(), restarted.close()]);
  });

  it("an older server refuses tables of a newer version that it cannot work with, and says which versions can", async () => {
    await using older = await openedPostgres(server());
    const newer = withSteps(older.url, [colour, { ...index, compatibleFrom: known + 1 }]);
    await newer.open({ clock: systemClock });
    await newer.close();
    const restarted = withSteps(older.url, []);
    await expect(restarted.open({ clock: systemClock })).rejects.toThrow(
      `postgresStore: the tables were made by a newer rpc-session (schema ${known + 2}, this version supports up to ${known}), and they work only with versions that know schema ${known + 1}; upgrade this server`,
    );
    // A version between the two knows enough.
    const between = withSteps(older.url, [colour]);
    await between.open({ clock: systemClock });
    await between.close();
  });

  it.each(recordedVersions)(
    "every statement of a server with schema %i returns as many rows as before, and it may start",
    async (version) => {
      await using schema = await createSchema(server());
      await schema.admin.query(olderTables("postgres", version));
      const store = withSteps(schema.url, []);
      await store.open({ clock: systemClock });
      await schema.admin.query("delete from rpcsession_sessions; delete from rpcsession_changes");
      for (const { op, text, values, rows } of olderStatements("postgres", version)) {
        const result = await schema.admin.query(text, values);
        expect([op, result.rows.length]).toEqual([op, rows]);
      }
      // This is what such a server reads before it starts, and refuses if it is beyond its schema.
      const found = await schema.admin.query(
        "select max(version) as version from rpcsession_migrations",
      );
      expect(found.rows).toEqual([{ version }]);
      // A newer server reads what it wrote, and may be rolled back and upgraded again.
      expect((await store.load("old-3")).record).toMatchObject({
        ...{ userId: "olga", generation: 5, claims: { role: "user" }, endedBy: "signOut" },
      });
      await store.close();
    },
  );

  it("a server of version 0.1 may start on tables that a newer version has made", async () => {
    await using fixture = await openedPostgres(server());
    const found = await fixture.admin.query(
      "select max(version) as version from rpcsession_migrations",
    );
    expect(found.rows).toEqual([{ version: oldest }]);
    for (const { op, text, values, rows } of olderStatements("postgres", 3)) {
      const result = await fixture.admin.query(text, values);
      expect([op, result.rows.length]).toEqual([op, rows]);
    }
  });

  it("a step takes longer than calls may, on a pool with a single connection", async () => {
    await using schema = await createSchema(server());
    const limits = { statement_timeout: 200, query_timeout: 200, connectionTimeoutMillis: 5_000 };
    await using pool = createPool({ connectionString: schema.url, max: 1, ...limits });
    await expect(pool.query("select pg_sleep(0.5)")).rejects.toThrow();
    const slow = { ...colour, transaction: ["select pg_sleep(0.5)", ...colour.transaction] };
    const store = withSteps(async () => borrowPool(pool), [slow]);
    await store.open({ clock: systemClock });
    await store.insert(newSession());
    await store.close();
  });

  it("a step takes longer than the defaults of the role allow, on connections of a foreign pool", async () => {
    await using schema = await createSchema(server());
    await schema.admin.query(
      `create role hurried login superuser; alter role hurried set statement_timeout = '200ms'`,
    );
    const connectionString = schema.url.replace("postgres@", "hurried@");
    await using pool = createPool({ connectionString, max: 2 });
    await expect(pool.query("select pg_sleep(0.5)")).rejects.toThrow("statement timeout");
    const slow = { ...colour, transaction: ["select pg_sleep(0.5)"] };
    const foreign = { connect: () => pool.connect() };
    const store = withSteps(async () => borrowPool(foreign), [slow]);
    await store.open({ clock: systemClock });
    // Neither connection of the migration is lent again, because it has no limits.
    const asleep = await Promise.allSettled([1, 2].map(() => pool.query("select pg_sleep(0.5)")));
    expect(asleep.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    await store.close();
  });

  it("a step gives up when it waits for a lock, names the holder, and says what to do", async () => {
    await using fixture = await openedPostgres(server());
    await fixture.store.insert(newSession());
    const holder = await fixture.connect();
    await holder.query("set application_name = 'nightly report'; begin");
    await holder.query("select * from rpcsession_sessions");
    const newer = withSteps(fixture.url, [colour]);
    await expect(newer.open({ clock: systemClock })).rejects.toThrow(
      new RegExp(
        `^postgresStore: step ${known + 1} of the tables, "colour", waited too long for a lock that another transaction holds \\(process \\d+ of nightly report\\); end that transaction, then start the server or run "rpc-session migrate" again, which continues there$`,
      ),
    );
    // Calls that queued behind the step wait less than their limit of 5 s.
    expect((await fixture.store.load("s1")).record?.userId).toBe("alice");
    await holder.end();
    await newer.open({ clock: systemClock });
    await newer.close();
  });

  it("a step that fails is named, with the reason and what to do", async () => {
    await using fixture = await openedPostgres(server());
    await fixture.admin.query(`create role reader login;
      grant usage on schema ${fixture.name} to reader;
      grant select, insert, update, delete on all tables in schema ${fixture.name} to reader`);
    const url = fixture.url.replace("postgres@", "reader@");
    await expect(withSteps(url, [colour]).open({ clock: systemClock })).rejects.toThrow(
      `postgresStore: step ${known + 1} of the tables, "colour", failed: must be owner of table rpcsession_sessions; mend that, then start the server or run "rpc-session migrate" again, which continues there`,
    );
    expect(await stepsOf(fixture.admin)).toHaveLength(known);
  });

  it("servers write sessions while an index is made, and a server that dies meanwhile leaves it to the next one", async () => {
    await using fixture = await openedPostgres(server());
    const { admin, store, url } = fixture;
    await store.insert(newSession());
    // The index waits for a transaction that has written, as every long transaction makes it wait.
    const long = await fixture.connect();
    await long.query("begin; update rpcsession_sessions set device = device");
    const newer = withSteps(url, [index]);
    const opening = newer.open({ clock: systemClock });
    await expect.poll(() => making(admin)).toBe(1);
    // 1. Meanwhile nobody waits: neither writers nor other servers of the older version.
    await store.insert(newSession({ id: "s2", userId: "bob" }));
    expect((await store.refresh({ ...advance(0), id: "s2" })).record?.generation).toBe(1);
    const older = withSteps(url, []);
    await older.open({ clock: systemClock });
    await older.close();
    // 2. The server that makes the index dies.
    const failed = opening.catch(String);
    await admin.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where query like 'create index concurrently%'",
    );
    expect(await failed).toMatch(
      /"byDevice", failed: .*run "rpc-session migrate" again, which continues there/s,
    );
    expect(await validity(admin, "rpcsession_sessions_device")).toEqual([false]);
    expect((await stepsOf(admin)).at(-1)).toMatchObject({ name: "byDevice", finished: false });
    // 3. The next one begins the index again.
    await long.query("commit");
    await newer.open({ clock: systemClock });
    expect(await validity(admin, "rpcsession_sessions_device")).toEqual([true]);
    expect((await stepsOf(admin)).at(-1)).toMatchObject({ name: "byDevice", finished: true });
    await newer.close();
    await long.end();
  });

  it("several servers that start at once make an index once", async () => {
    await using fixture = await openedPostgres(server());
    await fixture.store.insert(newSession());
    await fixture.admin.query(
      "insert into rpcsession_leases select 'filler' || n, '', 0 from generate_series(1, 50000) as n",
    );
    const onLeases = {
      ...index,
      afterwards: [{ index: "rpcsession_leases_at", on: "rpcsession_leases (expires_at)" }],
    };
    const stores = Array.from({ length: 8 }, () => withSteps(fixture.url, [onLeases]));
    await Promise.all(stores.map((store) => store.open({ clock: systemClock })));
    expect(await validity(fixture.admin, "rpcsession_leases_at")).toEqual([true]);
    await Promise.all(stores.map((store) => store.close()));
  });

  it("many rows are changed in batches, and a row that others have locked delays its batch alone", async () => {
    await using fixture = await openedPostgres(server());
    const { admin, store, url } = fixture;
    await fill(admin, 9_000);
    const filled: MigrationStep = {
      ...colour,
      afterwards: [
        {
          inBatches: sql`rpcsession_sessions`,
          by: sql`id`,
          set: sql`colour = 'green'`,
          where: sql`colour is null`,
        },
      ],
    };
    const holder = await fixture.connect();
    await holder.query("begin");
    const newer = withSteps(url, [colour]);
    await newer.open({ clock: systemClock });
    await newer.close();
    await admin.query(`delete from rpcsession_steps where name = 'colour'`);
    await admin.query(
      `insert into rpcsession_steps values (${known + 1}, 'colour', ${oldest}, 0, null)`,
    );
    const [last] = (await admin.query("select max(id) as id from rpcsession_sessions")).rows as {
      readonly id: string;
    }[];
    await holder.query("update rpcsession_sessions set version = version where id = $1", [
      last?.id,
    ]);
    const changing = withSteps(url, [filled]);
    const opening = changing.open({ clock: systemClock });
    const left = async (): Promise<number> => {
      const { rows } = await admin.query(
        "select count(*)::int as n from rpcsession_sessions where colour is null",
      );
      return (rows[0] as { readonly n: number }).n;
    };
    // All batches but the last one are committed, and their rows are free.
    await expect.poll(left).toBe(1_000);
    await store.revoke("filler-100001", "revoked");
    await holder.query("commit");
    await opening;
    expect(await left()).toBe(0);
    await changing.close();
    await holder.end();
  });

  it("feat:O8 100,000 sessions are migrated from version 0.1 while its servers serve", async () => {
    await using schema = await createSchema(server());
    await schema.admin.query(olderTables("postgres", 3));
    await fill(schema.admin, 100_000);
    await using pool = createPool({
      connectionString: schema.url,
      ...{ max: 4, statement_timeout: 5_000, query_timeout: 10_000 },
    });
    const statements = olderStatements("postgres", 3);
    const migrated = new AbortController();
    let rounds = 0;
    const serve = async (client: number): Promise<void> => {
      while (!migrated.signal.aborted) {
        const owner = `c${client}-${rounds++}`;
        for (const { text, values } of statements) {
          await pool.query(
            text,
            values.map((value) => ownedBy(owner, value)),
          );
        }
        // Other statements get their turn.
        await pause(1);
      }
    };
    const serving = Promise.all([0, 1, 2, 3].map(serve));
    await expect.poll(() => rounds).toBeGreaterThan(4);
    const store = withSteps(schema.url, [colour, index]);
    await Promise.race([store.open({ clock: systemClock }), serving]);
    const before = rounds;
    await expect.poll(() => rounds).toBeGreaterThan(before + 4);
    migrated.abort();
    await serving;
    const steps = await stepsOf(schema.admin);
    expect(steps.map(({ finished }) => finished)).toEqual(steps.map(() => true));
    expect((await store.load("filler-199999")).record?.userId).toBe("user-99999");
    await store.close();
  });
});

/** A store of a version with further steps. */
function withSteps(
  database: string | (() => Promise<OpenPool>),
  steps: readonly MigrationStep[],
): SessionStore {
  const open = typeof database === "string" ? () => openPool(database, { max: 4 }) : database;
  const backend = postgresBackend(open);
  const migrations = [...postgresMigrations, ...steps];
  return new SqlStore({ ...backend, dialect: { ...backend.dialect, migrations } });
}

/** Copies the session `s1` of the tables of an older version, or adds one first. */
async function fill(admin: Client, count: number): Promise<void> {
  await admin.query(`insert into rpcsession_sessions (id, user_id, transport, salt, secret_id, generation, rotated_at, created_at, auth_time, idle_expires_at, expires_at, claims, claims_version, data, version, device, last_seen_at)
    select 'filler-' || 100000 + n, 'user-' || n, 'cookie', 'c2FsdA', 'secret-a', 0, 1000, 1000, 1000, 8000000000000, 9000000000000, '{}', 0, '{}', 0, '{"userAgent":"Agent/1.0"}', 1000
    from generate_series(0, ${count - 1}) as n`);
}

function ownedBy(owner: string, value: string | number | null): string | number | null {
  return typeof value === "string" && /^(?:old-|olga$)/.test(value) ? `${owner}-${value}` : value;
}

async function making(admin: Client): Promise<number> {
  const { rows } = await admin.query(
    "select count(*)::int as n from pg_stat_activity where query like 'create index concurrently%' and wait_event_type = 'Lock'",
  );
  return (rows[0] as { readonly n: number }).n;
}

async function validity(admin: Client, name: string): Promise<boolean[]> {
  const { rows } = await admin.query(
    "select indisvalid as valid from pg_index where indexrelid = to_regclass($1)",
    [name],
  );
  return (rows as { readonly valid: boolean }[]).map(({ valid }) => valid);
}

async function stepsOf(
  admin: Client,
): Promise<{ readonly name: string; readonly finished: boolean }[]> {
  const { rows } = await admin.query(
    "select name, finished_at is not null as finished from rpcsession_steps order by version",
  );
  return rows as { readonly name: string; readonly finished: boolean }[];
}
