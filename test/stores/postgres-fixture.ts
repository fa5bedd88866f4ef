import { Client, Pool, type PoolConfig } from "pg";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresBackend } from "../../src/stores/postgres/connections.ts";
import { postgresDialect } from "../../src/stores/postgres/dialect.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { openPool } from "../../src/stores/postgres/pools.ts";
import { migrationSql } from "../../src/stores/sql/migration/migrate.ts";
import { sql } from "../../src/stores/sql/statement.ts";
import { SqlStore } from "../../src/stores/sql/store.ts";
import type { TestPostgres } from "../servers/postgres.ts";
import { stillClock } from "./still-clock.ts";

let schemas = 0;

/** An empty schema on the server, and a connection to inspect it. */
export async function createSchema(server: TestPostgres) {
  schemas += 1;
  const url = server.url(`s${schemas}`);
  const admin = new Client({ connectionString: url });
  await admin.connect();
  await admin.query(`create schema s${schemas}`);
  return {
    name: `s${schemas}`,
    url,
    admin,
    /** Opens another connection, which the caller closes. */
    async connect() {
      const client = new Client({ connectionString: url });
      await client.connect();
      return client;
    },
    [Symbol.asyncDispose]: () => admin.end(),
  };
}

/**
 * A pool for a test. Its `end` waits until all connections are closed: the one of `pg` resolves while
 * they still close, and a server that stops at that moment raises an error that has no listener.
 */
export function createPool(config: PoolConfig): Pool & AsyncDisposable {
  const pool = new Pool(config);
  const closed: Promise<void>[] = [];
  pool.on("connect", (client) => {
    closed.push(new Promise((resolve) => client.once("end", resolve)));
  });
  const endPool = pool.end.bind(pool) as () => Promise<void>;
  const end = async (): Promise<void> => {
    await endPool();
    await Promise.all(closed);
  };
  return Object.assign(pool, { end, [Symbol.asyncDispose]: end });
}

/** The columns and indexes of the tables in a schema. */
export async function tablesOf({ admin, name }: { readonly admin: Client; readonly name: string }) {
  const columns = await admin.query(
    "select table_name, column_name, data_type, is_nullable, replace(column_default, $1, '') as default from information_schema.columns where table_schema = $1 order by 1, ordinal_position",
    [name],
  );
  const indexes = await admin.query(
    "select replace(indexdef, $1, '') as index from pg_indexes where schemaname = $1 order by 1",
    [name],
  );
  return [...columns.rows, ...indexes.rows];
}

/** An open store with a schema of its own, on the database's clock. */
export async function openedPostgres(server: TestPostgres) {
  const schema = await createSchema(server);
  await makeTables(schema.admin);
  const clock = stillClock();
  const store = postgresStore(schema.url, { connections: 4 });
  await store.open({ clock });
  return {
    ...schema,
    store,
    clock,
    async [Symbol.asyncDispose]() {
      await store.close();
      await schema.admin.end();
    },
  };
}

/**
 * Makes the tables as `npx rpc-session migrate --print` does, which takes a fifth of the time. How a store
 * makes them itself is tested in `postgres-opening.test.ts`.
 */
async function makeTables(admin: Client): Promise<void> {
  await admin.query(migrationSql(postgresDialect));
}

/** A store on a clock that stands still: statements bind its time instead of reading the database's. */
export async function createPostgres(server: TestPostgres) {
  const { url, admin } = await createSchema(server);
  await makeTables(admin);
  const clock = stillClock();
  const another = (): SessionStore =>
    new SqlStore(
      postgresBackend(
        () => openPool(url, { max: 8 }),
        () => sql`cast(${clock.now()} as bigint)`,
      ),
    );
  const store = another();
  return {
    store,
    clock,
    another,
    admin,
    async close() {
      await store.close();
      await admin.end();
    },
  };
}

/** A transaction that locks rows until it is disposed of. */
export async function holding(
  fixture: Pick<Awaited<ReturnType<typeof openedPostgres>>, "connect">,
  rows: string,
) {
  const client = await fixture.connect();
  await client.query(`begin; ${rows} for update`);
  return {
    async left(rowsLeft: string): Promise<number> {
      const { rows: counted } = await client.query(`select count(*)::int as n from ${rowsLeft}`);
      return (counted[0] as { n: number }).n;
    },
    [Symbol.asyncDispose]: () => client.end(),
  };
}
