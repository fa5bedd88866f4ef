import { systemClock } from "../base/clock.ts";
import type { SessionStore } from "../engine/store.ts";
import { postgresStore } from "../stores/postgres/postgres.ts";
import { migrationSql } from "../stores/sql/sql-print.ts";
import type { SqlDialect } from "../stores/sql/sql-schema.ts";
import { sqliteStore } from "../stores/sqlite/sqlite.ts";
import { UsageError } from "./usage.ts";

/**
 * Brings the tables of a database up to date.
 *
 * @param database a URL of PostgreSQL or the path of a SQLite file
 * @returns what to tell the user
 * @throws UsageError when it is neither
 * @throws Error when the database could not be reached, or its tables are newer than this package
 */
export async function migrateDatabase(database: string): Promise<string> {
  const store = storeOf(database);
  await store.open({ clock: systemClock });
  await store.close();
  return "The tables are up to date.\n";
}

/**
 * The SQL that makes the tables in an empty database.
 *
 * @param database as for {@link migrateDatabase}, which is not opened, or "postgres" or "sqlite"
 */
export async function printMigrations(database: string): Promise<string> {
  if (database === "postgres" || database === "sqlite") {
    return migrationSql(database);
  }
  return migrationSql(dialectOf(database));
}

function dialectOf(database: string): SqlDialect {
  if (/^postgres(ql)?:/.test(database)) {
    return "postgres";
  }
  // The name alone, since the rest may hold a password. A single letter is a drive of Windows.
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(database)?.[1];
  if (scheme !== undefined) {
    throw new UsageError(`"${scheme}:" names no database that has tables of ours`);
  }
  return "sqlite";
}

function storeOf(database: string): SessionStore {
  try {
    return dialectOf(database) === "postgres" ? postgresStore(database) : sqliteStore(database);
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}
