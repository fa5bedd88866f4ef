import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, it, vi } from "vitest";
import type { SessionStore } from "../../src/engine/store.ts";
import { type PostgresPool, postgresStore } from "../../src/stores/postgres/index.ts";
import { postgresMigrations } from "../../src/stores/postgres/migrations.ts";
import { confirmOne, evictAbove, newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { expectBesideOlder, expectInUse, olderTables } from "./older-schema.ts";
import { createPool, createSchema, openedPostgres, tablesOf } from "./postgres-fixture.ts";
import { stillClock } from "./still-clock.ts";

describePostgres("opening postgresStore(database)", (server) => {
  it("creates one schema and one signing key when 20 processes open an empty database at once", async () => {
    await using schema = await createSchema(server());
    const servers = Array.from({ length: 20 }, () => startProcess(schema.url));
    await Promise.all(servers.map(({ line }) => line()));
    for (const { go } of servers) {
      go();
    }
    const keys = await Promise.all(servers.map(({ line }) => line()));
    expect(keys[0]).toMatch(/^0:[\w-]{43}$/);
    expect(new Set(keys).size).toBe(1);
    expect(await countRows(schema, "rpcsession_steps")).toBe(postgresMigrations.length);
    expect(await tablesOf(schema)).toEqual(await freshTables());
  });

  it("opens when 20 stores open an empty database at once, ten times in a row", async () => {
    for (let round = 0; round < 10; round++) {
      await using schema = await createSchema(server());
      const stores = Array.from({ length: 20 }, () =>
        postgresStore(schema.url, { connections: 1 }),
      );
      await Promise.all(stores.map((store) => store.open({ clock: stillClock() })));
      await Promise.all(stores.map((store) => store.close()));
      expect(await countRows(schema, "rpcsession_steps")).toBe(postgresMigrations.length);
    }
  });

  it.each([1, 2, 3, 5, 6, 7])(
    "migrates the tables of version %i with sessions in them",
    async (version) => {
      await using schema = await createSchema(server());
      await schema.admin.query(olderTables("postgres", version));
      const store = postgresStore(schema.url);
      await store.open({ clock: stillClock() });
      await expectInUse(store);
      expect(await store.lease("work", "a", 1000)).toBe(true);
      expect(await tablesOf(schema)).toEqual(await freshTables());
      await store.close();
    },
  );

  it("feat:A14 keeps external ids while an older server writes to the same tables", async () => {
    await using fixture = await openedPostgres(server());
    expect.hasAssertions();
    await expectBesideOlder(fixture.store, (sql) => fixture.admin.query(sql));
  });

  it("finds sessions by external id through an index", async () => {
    await using fixture = await openedPostgres(server());
    for (const column of ["external_sid", "external_sub"]) {
      await fixture.admin.query("set enable_seqscan = off");
      const plan = await fixture.admin.query(
        `explain (format json) select id from rpcsession_sessions where revoked_at is null and ${column} = 'a' and external_issuer = 'b' order by created_at, id`,
      );
      expect(JSON.stringify(plan.rows)).toContain(`rpcsession_sessions_${column}`);
    }
  });

  it("refuses the tables of a newer version, and opens again after a downgrade", async () => {
    await using fixture = await openedPostgres(server());
    const { admin, clock, url } = fixture;
    await admin.query("insert into rpcsession_migrations values (99, 0)");
    const store = postgresStore(url);
    await expect(store.open({ clock })).rejects.toThrow(
      /^postgresStore: .*newer rpc-session \(schema 99, this version supports up to \d+\)/,
    );
    await expect(store.load("s1")).rejects.toThrow("postgresStore: the store is not open");
    await admin.query("delete from rpcsession_migrations where version = 99");
    await store.open({ clock });
    expect((await store.load("s1")).record).toBeUndefined();
    await store.close();
  });

  it("opens existing tables without the right to create tables", async () => {
    await using fixture = await openedPostgres(server());
    const { admin, name, url, clock } = fixture;
    await admin.query(`create role app login;
      grant usage on schema ${name} to app;
      grant select, insert, update, delete on all tables in schema ${name} to app;
      grant usage on all sequences in schema ${name} to app`);
    const store = postgresStore(url.replace("postgres://postgres@", "postgres://app@"));
    await store.open({ clock });
    await everyWrite(store);
    expect((await store.load("s2")).record?.endedBy).toBe("evicted");
    expect((await store.load("s4")).record?.endedBy).toBe("revoked");
    await store.close();
  });

  it("creates nothing in the schema without its prefix", async () => {
    await using fixture = await openedPostgres(server());
    const { rows } = await fixture.admin.query(
      "select relname from pg_class where relnamespace = $1::regnamespace",
      [fixture.name],
    );
    for (const { relname } of rows as { readonly relname: string }[]) {
      expect(relname).toMatch(/^rpcsession_/);
    }
  });

  it("rejects while the database cannot be reached, and opens once it can", async () => {
    await using schema = await createSchema(server());
    await using pool = createPool({ connectionString: schema.url });
    let reachable = false;
    const store = postgresStore({
      connect: () => (reachable ? pool.connect() : Promise.reject(new Error("out of reach"))),
    });
    await expect(store.open({ clock: stillClock() })).rejects.toThrow("out of reach");
    reachable = true;
    await store.open({ clock: stillClock() });
    await everyWrite(store);
    await store.close();
  });

  it("says what to install if the package pg is missing", async () => {
    vi.doMock("pg", () => {
      throw new Error("Cannot find package 'pg'");
    });
    const store = postgresStore("postgres://app:hidden@localhost/db");
    await expect(store.open({ clock: stillClock() })).rejects.toThrow(
      /^postgresStore: to connect to a URL, install the package pg \(npm install pg\); or pass a pool$/,
    );
    vi.doUnmock("pg");
  });

  async function freshTables() {
    await using fixture = await openedPostgres(server());
    return await tablesOf(fixture);
  }
});

it.each(["", "sessions.db", "mysql://app:hidden@localhost/db", "localhost", "postgres:hidden"])(
  "postgresStore(%j) throws without repeating the URL",
  (url) => {
    expect(() => postgresStore(url)).toThrow(
      new TypeError('postgresStore: the URL must begin with "postgres://"'),
    );
  },
);

it.each(["hid#den", "hid/den", "hid?den"])(
  "postgresStore(url) throws without repeating a URL that is invalid because of its password %s",
  (password) => {
    const open = () => postgresStore(`postgres://app:${password}@db/app`);
    expect(open).toThrow(TypeError);
    expect(open).toThrow(/^postgresStore: the URL is not valid; .* %2F, %23, %3F and %40$/);
    expect(open).not.toThrow(/hid|den/);
  },
);

it.each([
  "postgres://app:hid%23den@db/app",
  "postgres://app:hid%den@db:5432/app",
  "postgres://app@/app?host=/var/run/postgresql",
  "postgres:///app",
])("postgresStore(%j) is taken", (url) => {
  expect(postgresStore(url)).toHaveProperty("name", "postgresStore");
});

it.each([undefined, null, {}, 5])("postgresStore(%j) throws a TypeError", (pool) => {
  expect(() => postgresStore(pool as unknown as PostgresPool)).toThrow(TypeError);
});

it.each([0, 1.5, 1001, Number.NaN])(
  "postgresStore(url, { connections: %d }) throws a TypeError",
  (n) => {
    expect(() => postgresStore("postgres://localhost", { connections: n })).toThrow(TypeError);
  },
);

it("postgresStore has no method secret", () => {
  expect(Object.keys(postgresStore("postgres://localhost"))).not.toContain("secret");
});

function startProcess(url: string) {
  const script = join(import.meta.dirname, "postgres-process.ts");
  const child = spawn(process.execPath, ["--conditions=@rpc-session/source", script, url], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    line: async () => (await lines.next()).value as string | undefined,
    go: () => child.stdin.write("go\n"),
  };
}

async function everyWrite(store: SessionStore): Promise<void> {
  await store.insert(newSession());
  await store.insert(newSession({ id: "s2", replaces: "s1" }));
  await confirmOne(store, "s2", 0, 0);
  await store.update({ id: "s2", version: 0, claims: {} });
  await store.insert(newSession({ id: "s3", limit: evictAbove(1) }));
  await store.insert(newSession({ id: "s4", requires: "s3" }));
  await store.revokeAll({ userId: "alice", tenantId: null, except: null }, "revoked");
  await store.revoke("s2", "revoked");
  await store.addSigningKey({ slot: 0, kid: "k", alg: "ES256", publicJwk: "", privateJwk: "" });
  await store.removeSigningKeysBelow(1);
}

async function countRows(
  { admin }: Awaited<ReturnType<typeof createSchema>>,
  table: string,
): Promise<number> {
  const { rows } = await admin.query(`select count(*)::int as n from ${table}`);
  return (rows[0] as { readonly n: number }).n;
}
