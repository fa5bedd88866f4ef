import {
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import { createMigrationTable, migrations } from "./migrations.ts";
import type { SqlDialect, SqlSchema } from "./schema.ts";

/**
 * The SQL that brings an empty database to the newest version, for those who run such things
 * themselves. Each step is a transaction that records itself first, so one that was taken already
 * fails as a whole and changes nothing.
 */
export async function migrationSql(dialect: SqlDialect): Promise<string> {
  const lines = statements(await record(dialect, createMigrationTable));
  for (const [index, migration] of migrations.entries()) {
    const version = index + 1;
    lines.push(
      `\n-- version ${version}`,
      "begin;",
      `insert into rpcsession_migrations (version, applied_at) values (${version}, ${clocks[dialect]});`,
      ...statements(await record(dialect, (db) => migration(db, dialect))),
      "commit;",
    );
  }
  return `${lines.join("\n")}\n`;
}

const clocks: Readonly<Record<SqlDialect, string>> = {
  sqlite: "unixepoch() * 1000",
  postgres: "floor(extract(epoch from now()) * 1000)::bigint",
};

/** Runs a step on a database that only notes what it is told. */
async function record(
  dialect: SqlDialect,
  step: (db: Kysely<SqlSchema>) => Promise<void>,
): Promise<readonly string[]> {
  const noted: string[] = [];
  const db = new Kysely<SqlSchema>({
    dialect: compilers[dialect],
    log({ query }) {
      if (query.parameters.length > 0) {
        throw new Error(`the migration is no plain SQL: ${query.sql}`);
      }
      noted.push(query.sql);
    },
  });
  await step(db);
  await db.destroy();
  return noted;
}

const compilers = {
  sqlite: {
    createAdapter: () => new SqliteAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db: Kysely<unknown>) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  },
  postgres: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db: Kysely<unknown>) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
};

function statements(queries: readonly string[]): string[] {
  return queries.map((query) => `${query};`);
}
