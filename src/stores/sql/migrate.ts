import { type BigInteger, now, type SqlDatabase, type SqlDialect } from "./database.ts";

/**
 * Brings the tables up to date. Where nothing is to be done it only reads, so a server needs no
 * right to create tables that exist already.
 *
 * @throws Error when the tables were made by a newer version of this package
 */
export async function migrate(store: string, database: SqlDatabase): Promise<void> {
  const { migrations } = database.dialect;

  // 1. Which version do the tables have?
  const applied = await appliedVersion(database);
  if (applied > migrations.length) {
    throw new Error(
      `${store}: the tables were made by a newer rpc-session (schema ${applied}, this version supports up to ${migrations.length}); upgrade this server`,
    );
  }

  // 2. Before the first step: create the table that records the steps.
  if (applied === 0) {
    await createMigrationsTable(database);
  }

  // 3. Take the missing steps. Each is a transaction that begins by recording itself: of several
  // servers that start at once exactly one takes it, and the others wait for that one.
  for (const [index, statements] of migrations.entries()) {
    const version = index + 1;
    if (version > applied) {
      await takeStep(database, version, statements);
    }
  }
}

/**
 * Returns the SQL that brings an empty database to the newest version, to be run by hand. Each step
 * is a transaction that records itself first. A step that was taken already fails as a whole and
 * changes nothing.
 */
export function migrationSql({ migrations, clockForPrint }: SqlDialect): string {
  const lines = [`${createTable};`];
  for (const [index, statements] of migrations.entries()) {
    const version = index + 1;
    lines.push(
      `\n-- version ${version}`,
      "begin;",
      `insert into rpcsession_migrations (version, applied_at) values (${version}, ${clockForPrint});`,
      ...statements.map((statement) => `${statement};`),
      "commit;",
    );
  }
  return `${lines.join("\n")}\n`;
}

async function appliedVersion(database: SqlDatabase): Promise<number> {
  if ((await database.row`${database.dialect.migrationsTable}`) === undefined) {
    return 0;
  }
  const row = await database.row<{
    readonly version: BigInteger | null;
  }>`select max(version) as version from rpcsession_migrations`;
  return Number(row?.version ?? 0);
}

async function createMigrationsTable(database: SqlDatabase): Promise<void> {
  const { migrationLock } = database.dialect;
  await database.transaction(async (within) => {
    if (migrationLock !== undefined) {
      await within.rows`select ${migrationLock}`;
    }
    await within.run(createTable);
  });
}

const createTable = `create table if not exists rpcsession_migrations (
    version integer primary key,
    applied_at bigint not null
  )`;

async function takeStep(
  database: SqlDatabase,
  version: number,
  statements: readonly string[],
): Promise<void> {
  await database.transaction(async (within) => {
    const recorded = await within.row`insert into rpcsession_migrations (version, applied_at)
        values (${version}, ${now})
        on conflict (version) do nothing
        returning version`;
    if (recorded === undefined) {
      return;
    }
    for (const statement of statements) {
      await within.run(statement);
    }
  });
}
