import { type Kysely, sql, type Transaction } from "kysely";
import type { SqlDatabase, SqlDialect, SqlSchema } from "./sql-schema.ts";
import { addOwnersAndClaims, createLeases, createTables } from "./sql-tables.ts";

/** A step from one version of the tables to the next, in a transaction of its own. */
export type Migration = (db: Kysely<SqlSchema>, dialect: SqlDialect) => Promise<void>;

/** The steps, from version 1 on. Append only: a step that was released never changes. */
export const migrations: readonly Migration[] = [createTables, createLeases, addOwnersAndClaims];

/**
 * Brings the tables up to date. Each step is a transaction that begins by recording itself, so of
 * several servers that start at once exactly one takes it, and the others wait for that one. Where
 * nothing is to be done it only reads: a server needs no right to create tables that are there.
 *
 * @throws Error when the tables were made by a newer version of this package
 */
export async function migrate(store: string, database: SqlDatabase): Promise<void> {
  const applied = await appliedVersion(database);
  if (applied > migrations.length) {
    throw new Error(
      `${store}: the tables were made by a newer rpc-session (schema ${applied}, this one knows ${migrations.length}); upgrade this server`,
    );
  }
  if (applied === 0) {
    await database.db.transaction().execute(async (trx) => {
      await lockMigrations(database, trx);
      await createMigrationTable(trx);
    });
  }
  for (const [index, migration] of migrations.entries()) {
    const version = index + 1;
    if (version > applied) {
      await apply(database, version, migration);
    }
  }
}

/** Creates the table that keeps which steps were taken. */
export async function createMigrationTable({ schema }: Kysely<SqlSchema>): Promise<void> {
  await schema
    .createTable("rpcsession_migrations")
    .ifNotExists()
    .addColumn("version", "integer", (column) => column.primaryKey())
    .addColumn("applied_at", "bigint", (column) => column.notNull())
    .execute();
}

async function appliedVersion({ db, dialect }: SqlDatabase): Promise<number> {
  const found =
    dialect === "postgres"
      ? sql`select 1 where to_regclass('rpcsession_migrations') is not null`
      : sql`select 1 from sqlite_master where name = 'rpcsession_migrations'`;
  if ((await found.execute(db)).rows.length === 0) {
    return 0;
  }
  const row = await db
    .selectFrom("rpcsession_migrations")
    .select(({ fn }) => fn.max("version").as("version"))
    .executeTakeFirst();
  return Number(row?.version ?? 0);
}

/**
 * PostgreSQL's `create table if not exists` fails when two run at once, so there one waits for the
 * other. The number means nothing, and is this package's alone.
 */
async function lockMigrations(
  { dialect }: SqlDatabase,
  trx: Transaction<SqlSchema>,
): Promise<void> {
  if (dialect === "postgres") {
    await sql`select pg_advisory_xact_lock(7237113926510472019)`.execute(trx);
  }
}

async function apply(database: SqlDatabase, version: number, step: Migration): Promise<void> {
  await database.db.transaction().execute(async (trx) => {
    const first = await trx
      .insertInto("rpcsession_migrations")
      .values({ version, applied_at: database.now() })
      .onConflict((conflict) => conflict.column("version").doNothing())
      .returning("version")
      .executeTakeFirst();
    if (first !== undefined) {
      await step(trx, database.dialect);
    }
  });
}
