import { DatabaseSync } from "node:sqlite";
import { expect, it } from "vitest";
import { type Clock, systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import type { MigrationStep } from "../../src/stores/sql/database.ts";
import { migrate } from "../../src/stores/sql/migration/migrate.ts";
import { sql } from "../../src/stores/sql/statement.ts";
import { SqliteConnections } from "../../src/stores/sqlite/connections.ts";
import { sqliteDialect } from "../../src/stores/sqlite/dialect.ts";
import { openSqlite } from "../../src/stores/sqlite/driver.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { sqliteMigrations } from "../../src/stores/sqlite/migrations.ts";
import { advance, newSession } from "../../src/testing/store-contract/fixture.ts";
import { olderStatements, olderTables, recordedVersions } from "./older-schema.ts";
import { createSqlite, openedSqlite } from "./sqlite-fixture.ts";

const known = sqliteMigrations.length;
/** The schema of the oldest version that works beside this one. */
const oldest = sqliteMigrations.at(-1)?.compatibleFrom ?? 0;

const colour: MigrationStep = {
  name: "colour",
  compatibleFrom: oldest,
  transaction: ["alter table rpcsession_sessions add column colour text"],
};
const filled: MigrationStep = {
  name: "filled",
  compatibleFrom: oldest,
  transaction: [],
  afterwards: [
    {
      inBatches: sql`rpcsession_sessions`,
      by: sql`id`,
      set: sql`colour = 'green'`,
      where: sql`colour is null`,
    },
    { index: "rpcsession_sessions_colour", on: "rpcsession_sessions (colour)" },
    { dropIndex: "rpcsession_sessions_revoked" },
  ],
};

it("feat:O8 sqliteStore works, and starts again, beside tables of a newer version that say so", async () => {
  await using older = await openedSqlite();
  await older.store.insert(newSession());
  await migrateWith([colour], older.file);
  expect((await older.store.refresh(advance(0))).record?.generation).toBe(1);
  const restarted = older.another();
  await restarted.open({ clock: systemClock });
  expect((await restarted.refresh(advance(1))).record?.generation).toBe(2);
  await restarted.close();
});

it("sqliteStore refuses tables of a newer version that it cannot work with, and says which versions can", async () => {
  await using older = await openedSqlite();
  await migrateWith([{ ...colour, compatibleFrom: known + 1 }], older.file);
  await expect(older.another().open({ clock: systemClock })).rejects.toThrow(
    `sqliteStore: the tables were made by a newer rpc-session (schema ${known + 1}, this version supports up to ${known}), and they work only with versions that know schema ${known + 1}; upgrade this server`,
  );
});

it.each(recordedVersions)(
  "every statement of a server with schema %i returns as many rows as before in a SQLite file, and it may start",
  async (version) => {
    const fixture = await createSqlite();
    const database = new DatabaseSync(fixture.file);
    database.exec(olderTables("sqlite", version));
    await fixture.store.open({ clock: systemClock });
    database.exec("delete from rpcsession_sessions; delete from rpcsession_changes");
    for (const { op, text, values, rows } of olderStatements("sqlite", version)) {
      const returned = database.prepare(text).all(...values);
      expect([op, returned.length]).toEqual([op, rows]);
    }
    const found = database.prepare("select max(version) as version from rpcsession_migrations");
    expect(found.get()).toEqual({ version });
    expect((await fixture.store.load("old-3")).record).toMatchObject({
      ...{ userId: "olga", generation: 5, claims: { role: "user" }, endedBy: "signOut" },
    });
    database.close();
    await fixture.close();
  },
);

it("a step of a SQLite file in which a server crashed is continued by the next one", async () => {
  await using fixture = await openedSqlite();
  for (const id of ["s1", "s2", "s3"]) {
    await fixture.store.insert(newSession({ id }));
  }
  await migrateWith([colour], fixture.file);
  const database = new DatabaseSync(fixture.file);
  // What a crash after the first rows leaves.
  database.exec(`update rpcsession_sessions set colour = 'red' where id = 's1';
    insert into rpcsession_steps values (${known + 2}, 'filled', ${oldest}, 0, null)`);
  await migrateWith([colour, filled], fixture.file);
  const rows = database.prepare("select id, colour from rpcsession_sessions order by id").all();
  expect(rows).toEqual([
    { id: "s1", colour: "red" },
    { id: "s2", colour: "green" },
    { id: "s3", colour: "green" },
  ]);
  const indexes = database
    .prepare(
      "select name from sqlite_schema where name in ('rpcsession_sessions_colour', 'rpcsession_sessions_revoked')",
    )
    .all();
  expect(indexes.map(({ name }) => name)).toEqual(["rpcsession_sessions_colour"]);
  const unfinished = database.prepare(
    "select name from rpcsession_steps where finished_at is null",
  );
  expect(unfinished.all()).toEqual([]);
  database.close();
});

it("a step of a SQLite file waits for another process that writes, and then says what to do", async () => {
  await using fixture = await openedSqlite();
  const other = new DatabaseSync(fixture.file);
  other.exec("begin immediate");
  let waited = 0;
  const clock = fasterClock((ms) => {
    waited += ms;
  });
  await expect(migrateWith([colour], fixture.file, clock)).rejects.toThrow(
    `sqliteStore: step ${known + 1} of the tables, "colour", waited too long for a lock that another transaction holds; end that transaction, then start the server or run "rpc-session migrate" again, which continues there`,
  );
  expect(waited).toBeGreaterThan(18_000);
  other.exec("rollback");
  other.close();
  await migrateWith([colour], fixture.file);
});

it("a server waits while another one takes its steps, longer than a call would wait", async () => {
  await using fixture = await openedSqlite();
  const other = new DatabaseSync(fixture.file);
  other.exec("begin immediate");
  let waited = 0;
  const clock = fasterClock((ms) => {
    waited += ms;
    if (waited > 10_000 && other.isTransaction) {
      other.exec("rollback");
    }
  });
  await migrateWith([colour], fixture.file, clock);
  expect(waited).toBeGreaterThan(10_000);
  other.close();
});

it("whatever a migration writes waits while another process writes", async () => {
  const fixture = await createSqlite();
  const database = openSqlite(DatabaseSync, fixture.file);
  const connections = new SqliteConnections({
    ...{ database, clock: fasterClock(() => {}) },
    ...{ openAnother: () => new DatabaseSync(fixture.file), check: () => {} },
  });
  // Each statement that needs the write lock meets another process the first time.
  const refused: string[] = [];
  const refuseOnce = (statement: string): void => {
    if (!/^\s*select\b/.test(statement) && !refused.includes(statement)) {
      refused.push(statement);
      throw Object.assign(new Error("database is locked"), { errcode: 5 });
    }
  };
  let begun = 0;
  const dialect = { ...sqliteDialect, migrations: [...sqliteMigrations, colour, filled] };
  await migrate("sqliteStore", dialect, {
    now: connections.now,
    retries: connections.retries,
    migrationRetries: connections.migrationRetries,
    close: () => connections.close(),
    async query(statement, values) {
      refuseOnce(statement);
      return connections.query(statement, values);
    },
    begin(statement) {
      // Once it has begun, a transaction has the lock.
      if (begun++ % 2 === 0) {
        throw Object.assign(new Error("database is locked"), { errcode: 5 });
      }
      return connections.begin(statement);
    },
  });
  const finished = database.prepare("select 1 from rpcsession_steps where finished_at is not null");
  expect(finished.all()).toHaveLength(known + 2);
  // What is written outside of transactions.
  expect(new Set(refused.map((statement) => statement.split(" ", 2).join(" ")))).toEqual(
    new Set(["create index", "drop index", "update rpcsession_steps"]),
  );
  await connections.close();
  await fixture.close();
});

/** A clock whose timers are 200 times faster. */
function fasterClock(onWait: (ms: number) => void): Clock {
  return {
    ...systemClock,
    after(ms, action, keepAlive) {
      onWait(ms);
      return systemClock.after(ms / 200, action, keepAlive);
    },
  };
}

/** Opens and closes a store of a version with further steps. */
async function migrateWith(
  steps: readonly MigrationStep[],
  file: string,
  clock: Clock = systemClock,
): Promise<void> {
  const store: SessionStore = sqliteStore(file);
  const { migrations } = sqliteDialect;
  Object.assign(sqliteDialect, { migrations: [...sqliteMigrations, ...steps] });
  try {
    await store.open({ clock });
  } finally {
    Object.assign(sqliteDialect, { migrations });
  }
  await store.close();
}
