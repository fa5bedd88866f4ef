import { readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { SqliteConnections } from "../../src/stores/sqlite/connections.ts";
import { openSqlite } from "../../src/stores/sqlite/driver.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { confirmOne, newSession } from "../../src/testing/store-contract/fixture.ts";
import { describeDurableSessionStore } from "../../src/testing/store-contract/index.ts";
import { expectBesideOlder, expectInUse, olderTables } from "./older-schema.ts";
import { describePruning } from "./pruning.ts";
import { createSqlite, openedSqlite } from "./sqlite-fixture.ts";

describeDurableSessionStore({ describe, it }, "sqliteStore", createSqlite);
describePruning("sqliteStore", createSqlite);

describe("feat:O3 sqliteStore(file)", () => {
  it.each(["", ":memory:", "file:sessions.db", "FILE::memory:", undefined as unknown as string])(
    "refuses %j and points to memoryStore()",
    (file) => {
      expect(() => sqliteStore(file)).toThrow(TypeError);
      expect(() => sqliteStore(file)).toThrow("memoryStore()");
    },
  );

  it("rejects every call before it is opened, and creates no file", async () => {
    const fixture = await createSqlite();
    const { store, folder } = fixture;
    await expect(store.load("s1")).rejects.toThrow("sqliteStore: the store is not open");
    expect(await readdir(folder)).toEqual([]);
    await fixture.close();
  });

  it("rejects when the folder does not exist", async () => {
    await using fixture = await openedSqlite();
    const store = sqliteStore(join(fixture.folder, "absent", "sessions.db"));
    await expect(store.open(fixture)).rejects.toThrow(/folder .*absent does not exist/);
  });

  it("hides the password of a URL that was passed instead of a path", async () => {
    await using fixture = await openedSqlite();
    const store = sqliteStore("postgres://user:password@db.example.com/sessions");
    await expect(store.open(fixture)).rejects.toThrow(
      /^sqliteStore: the folder .*postgres:\/\*\*\*@db\.example\.com does not exist; create it first$/,
    );
  });

  it("rejects a file that is not a database, and leaves it unchanged", async () => {
    const fixture = await createSqlite();
    await writeFile(fixture.file, "no database ".repeat(500));
    await expect(fixture.store.open(fixture)).rejects.toThrow("not a database");
    expect(await readdir(fixture.folder)).toEqual(["sessions.db"]);
    await fixture.close();
  });

  /** Sessions that each advance at the next refresh. */
  async function ripe({ store, clock }: Awaited<ReturnType<typeof openedSqlite>>) {
    const ids = Array.from({ length: 64 }, (_, i) => `s${i}`);
    for (const id of ids) {
      await store.insert(newSession({ id, salt: "", rootHash: "hash-of-root" }));
      await confirmOne(store, id, 0, 0);
    }
    await clock.advance(2_000);
    const write = {
      ...{ generation: 0, secretId: "secret-a", rootHash: "hash-of-root", boundKey: null },
      ...{ overlap: 1_000, idle: 1_000_000, nextSecretId: "secret-a" },
    };
    const advance = async (id: string) => store.advance?.({ id, transport: "cookie", ...write });
    return { ids, advance };
  }

  it("commits refreshes that come at the same time together", async () => {
    await using fixture = await openedSqlite();
    const { ids, advance } = await ripe(fixture);
    const alone = vi.spyOn(SqliteConnections.prototype, "query");
    const together = vi.spyOn(SqliteConnections.prototype, "begin");
    onTestFinished(() => {
      alone.mockRestore();
      together.mockRestore();
    });
    const done = await Promise.all(ids.map(advance));
    expect(done.filter((answer) => answer?.advanced)).toHaveLength(64);
    expect(done.map((answer) => answer?.record?.id)).toEqual(ids);
    expect(alone.mock.calls.length + together.mock.calls.length).toBeLessThanOrEqual(3);
  });

  it("a row that cannot be read fails its own refresh alone", async () => {
    await using fixture = await openedSqlite();
    const { ids, advance } = await ripe(fixture);
    using file = new DatabaseSync(fixture.file);
    file.exec("update rpcsession_sessions set data = '{' where id = 's30'");
    const together = vi.spyOn(SqliteConnections.prototype, "begin");
    onTestFinished(() => together.mockRestore());
    const outcomes = await Promise.allSettled(ids.map(advance));
    const failed = outcomes.flatMap(({ status }, index) => (status === "rejected" ? [index] : []));
    expect(failed).toEqual([30]);
    const advanced = outcomes.filter((one) => one.status === "fulfilled" && one.value?.advanced);
    expect(advanced).toHaveLength(63);
    expect(together).toHaveBeenCalledOnce();
  });

  it("creates files that only their owner can read", async () => {
    await using fixture = await openedSqlite();
    await fixture.store.secret?.();
    await fixture.store.insert(newSession());
    const files = (await readdir(fixture.folder)).sort();
    expect(files).toEqual(["", "-shm", "-wal", ".secret"].map((end) => `sessions.db${end}`));
    const modes = files.map(async (file) => (await stat(join(fixture.folder, file))).mode & 0o777);
    expect(await Promise.all(modes)).toEqual([0o600, 0o600, 0o600, 0o600]);
  });

  it("uses a write-ahead log and syncs at every commit", async () => {
    await using fixture = await openedSqlite();
    const database = openSqlite(DatabaseSync, fixture.file);
    expect(database.prepare("pragma journal_mode").get()).toEqual({ journal_mode: "wal" });
    expect(database.prepare("pragma synchronous").get()).toEqual({ synchronous: 2 });
    database.close();
  });

  it.each([1, 2, 3, 5, 6, 7])(
    "migrates the tables of version %i with sessions in them",
    async (version) => {
      await using fresh = await openedSqlite();
      const fixture = await createSqlite();
      const database = new DatabaseSync(fixture.file);
      database.exec(olderTables("sqlite", version));
      await fixture.store.open(fixture);
      await expectInUse(fixture.store);
      expect(await fixture.store.lease("work", "a", 1000)).toBe(true);
      expect(schemaOf(database)).toEqual(schemaOf(new DatabaseSync(fresh.file)));
      database.close();
      await fixture.close();
    },
  );

  it("continues the numbers of the change log after a migration, even if the log is empty", async () => {
    const fixture = await createSqlite();
    const database = new DatabaseSync(fixture.file);
    database.exec(olderTables("sqlite", 2));
    database.exec("update sqlite_sequence set seq = 41 where name = 'rpcsession_changes'");
    database.exec("delete from rpcsession_changes");
    database.close();
    await fixture.store.open(fixture);
    await fixture.store.revoke("s1", "revoked");
    const { entries } = await fixture.store.changes("41", 0);
    expect(entries.map(({ session }) => session)).toEqual(["s1"]);
    await fixture.close();
  });

  it("refuses the tables of a newer version, and opens again after a downgrade", async () => {
    await using fixture = await openedSqlite();
    await fixture.store.insert(newSession());
    const database = new DatabaseSync(fixture.file);
    database.exec("insert into rpcsession_migrations values (99, 0)");
    const store = fixture.another();
    await expect(store.open(fixture)).rejects.toThrow(/newer rpc-session \(schema 99/);
    await expect(store.load("s1")).rejects.toThrow("not open");
    database.exec("delete from rpcsession_migrations where version = 99");
    database.close();
    await store.open(fixture);
    expect((await store.load("s1")).record?.id).toBe("s1");
    await store.close();
  });

  it("ends all sessions of an owner who has more sessions than one batch", async () => {
    await using fixture = await openedSqlite();
    const { store, file } = fixture;
    await store.insert(newSession({ id: "pattern", tenantId: "one" }));
    copyRow(file);
    const owner = { userId: null, tenantId: "one" };
    const { revoked } = await store.revokeAll({ ...owner, except: "alice-777" }, "revoked");
    expect(new Set(revoked).size).toBe(39_999);
    const { entries } = await store.changes(undefined, 1000);
    expect(entries.map(({ session }) => session).sort()).toEqual([...revoked].sort());
    const { records } = await store.list(owner, { cursor: undefined, limit: 10 });
    expect(records.map(({ id }) => id)).toEqual(["alice-777"]);
  });

  it("the first limit ends more sessions of a user than one statement can name", async () => {
    await using fixture = await openedSqlite();
    const { store, file } = fixture;
    await store.insert(newSession({ id: "pattern", tenantId: "one" }));
    copyRow(file);
    const limit = { max: 2, overflow: "evict" } as const;
    const inserted = await store.insert(newSession({ id: "new", tenantId: "one", limit }));
    expect(new Set("evicted" in inserted ? inserted.evicted : []).size).toBe(39_999);
    const owner = { userId: "alice", tenantId: "one" };
    const { records } = await store.list(owner, { cursor: undefined, limit: 10 });
    expect(records.map(({ id }) => id)).toContain("new");
    expect(records).toHaveLength(2);
  });

  it("settles a generation from when an older server minted it, whatever the row says of the former one", async () => {
    await using fixture = await openedSqlite();
    const { store, clock, file } = fixture;
    await store.insert(newSession());
    await clock.advance(50);
    await store.refresh({ kind: "resend", id: "s1", generation: 0, idle: 1_000, prolonged: 50 });
    await clock.advance(50);
    const rotatedAt = clock.now();
    // An older server advances: it knows of no sent_at.
    const database = new DatabaseSync(file);
    database.exec(`update rpcsession_sessions set generation = 1, rotated_at = ${rotatedAt}`);
    database.close();
    const { record } = await store.load("s1");
    expect(record).toMatchObject({ generation: 1, sentAt: rotatedAt, prolonged: 0 });
    await clock.advance(99);
    expect(await confirmOne(store, "s1", 1, 100)).toBe(false);
    await clock.advance(1);
    expect(await confirmOne(store, "s1", 1, 100)).toBe(true);
  });

  it("feat:A14 keeps external ids while an older server writes to the same file", async () => {
    await using fixture = await openedSqlite();
    const database = new DatabaseSync(fixture.file);
    expect.hasAssertions();
    await expectBesideOlder(fixture.store, (sql) => database.exec(sql));
    database.close();
  });

  it("finds sessions by external id through an index", async () => {
    await using fixture = await openedSqlite();
    const database = new DatabaseSync(fixture.file);
    for (const column of ["external_sid", "external_sub"]) {
      const [step] = database
        .prepare(
          `explain query plan select id from rpcsession_sessions where revoked_at is null and ${column} = ? and external_issuer = ? order by created_at, id`,
        )
        .all("a", "b");
      expect(step?.detail).toContain(`USING INDEX rpcsession_sessions_${column}`);
    }
    database.close();
  });

  it("prefixes all of its tables and indexes, so that others can share the file", async () => {
    await using fixture = await openedSqlite();
    const database = new DatabaseSync(fixture.file);
    const names = database.prepare("select name from sqlite_schema where sql is not null").all();
    database.close();
    for (const { name } of names) {
      expect(name).toMatch(/^(rpcsession_|sqlite_sequence)/);
    }
  });
});

function schemaOf(database: DatabaseSync): unknown[] {
  const rows = database.prepare("select type, name, sql from sqlite_schema order by name").all();
  // SQLite keeps the text of a statement with its line breaks.
  return rows.map(({ sql, ...row }) => ({ ...row, sql: String(sql).replace(/\s+/g, " ") }));
}

describe("sqliteStore(file) and node:sqlite", () => {
  it("throws if the runtime has no node:sqlite", () => {
    const load = vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never);
    expect(() => sqliteStore("sessions.db")).toThrow("Node.js 22.13 or newer");
    load.mockRestore();
  });

  it("suppresses the experimental warning of older versions, and no other warning", () => {
    const warn = vi.spyOn(process, "emitWarning").mockReturnValue(undefined);
    const before = Object.getOwnPropertyDescriptor(process, "emitWarning");
    const load = vi.spyOn(process, "getBuiltinModule").mockImplementation(() => {
      process.emitWarning("SQLite is an experimental feature", "ExperimentalWarning");
      process.emitWarning("another one", "DeprecationWarning");
      return { DatabaseSync } as never;
    });
    sqliteStore("sessions.db");
    expect(warn.mock.calls).toEqual([["another one", "DeprecationWarning"]]);
    expect(Object.getOwnPropertyDescriptor(process, "emitWarning")).toEqual(before);
    load.mockRestore();
    warn.mockRestore();
  });
});

/** Adds 39,999 copies of the only session. */
function copyRow(file: string): void {
  const database = new DatabaseSync(file);
  database.exec(
    "create temp table copies as select * from rpcsession_sessions; insert into rpcsession_sessions (id, user_id, tenant_id, transport, salt, secret_id, generation, confirmed_at, rotated_at, created_at, auth_time, idle_expires_at, expires_at, claims, claims_version, data, version, device, last_seen_at, revoked_at, ended_by, access_life, idle_life) select 'alice-' || value, user_id, tenant_id, transport, salt, secret_id, generation, confirmed_at, rotated_at, created_at, auth_time, idle_expires_at, expires_at, claims, claims_version, data, version, device, last_seen_at, revoked_at, ended_by, access_life, idle_life from copies, (with recursive numbers(value) as (select 1 union all select value + 1 from numbers where value < 39999) select value from numbers)",
  );
  database.close();
}
