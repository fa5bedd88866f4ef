import { type ParseArgsConfig, parseArgs } from "node:util";
import { systemClock } from "../base/clock.ts";
import type { SessionStore } from "../engine/store.ts";
import { postgresDialect } from "../stores/postgres/dialect.ts";
import { postgresStore } from "../stores/postgres/index.ts";
import type { SqlDialect } from "../stores/sql/database.ts";
import { migrationSql } from "../stores/sql/migrate.ts";
import { sqliteDialect } from "../stores/sqlite/dialect.ts";
import { sqliteStore } from "../stores/sqlite/index.ts";

const usage = `Usage: rpc-session migrate <database>
       rpc-session migrate --print <database | postgres | sqlite>

Creates the tables of a session store or brings them up to date. Servers do so when they start. Run
this first if your servers must not create tables. It is safe to run it repeatedly and concurrently.

  <database>   postgres://user@host/name (set PGPASSWORD to keep a password out of the process list),
               or the path of a SQLite file, which is created if it does not exist
  --print      print the SQL that creates the tables in an empty database; change nothing
  -h, --help   print this help

Exit code: 0 success, 1 failure, 2 invalid arguments.
`;

/** Reports invalid arguments. The usage is printed below the message. */
class UsageError extends Error {
  override readonly name: string = "UsageError";
}

/** The output of a command, and its exit code. */
export interface Outcome {
  readonly code: 0 | 1 | 2;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs the command line. Never rejects.
 *
 * @param args without the names of the program and its script
 */
export async function run(args: readonly string[]): Promise<Outcome> {
  try {
    return { code: 0, stdout: await command(args), stderr: "" };
  } catch (error) {
    const message = `rpc-session: ${messageOf(error)}\n`;
    return error instanceof UsageError
      ? { code: 2, stdout: "", stderr: `${message}\n${usage}` }
      : { code: 1, stdout: "", stderr: message };
  }
}

async function command(args: readonly string[]): Promise<string> {
  const { values, positionals } = parse(args);
  if (values.help) {
    return usage;
  }
  const [name, database, ...others] = positionals;
  if (name !== "migrate") {
    // Never repeats the argument: it may be a URL with a password.
    throw new UsageError(
      name === undefined ? 'no command given; use "migrate"' : 'unknown command; use "migrate"',
    );
  }
  if (database === undefined || others.length > 0) {
    throw new UsageError(
      `"migrate" takes exactly one database, got ${database === undefined ? 0 : others.length + 1}`,
    );
  }
  return values.print ? printMigrations(database) : migrateDatabase(database);
}

const options = {
  print: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const satisfies ParseArgsConfig["options"];

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

/** Brings the tables of a database up to date. */
async function migrateDatabase(database: string): Promise<string> {
  const store = openable(database);
  await store.open({ clock: systemClock });
  await store.close();
  return "The tables are up to date.\n";
}

/** Returns the SQL that creates the tables in an empty database, without opening one. */
function printMigrations(database: string): string {
  const { dialect } = kinds.get(database) ?? kindOf(database);
  return migrationSql(dialect);
}

interface DatabaseKind {
  readonly dialect: SqlDialect;
  readonly store: (database: string) => SessionStore;
}

const postgres: DatabaseKind = { dialect: postgresDialect, store: (url) => postgresStore(url) };
const sqlite: DatabaseKind = { dialect: sqliteDialect, store: (file) => sqliteStore(file) };

/** The names that `--print` accepts instead of a database. */
const kinds: ReadonlyMap<string, DatabaseKind> = new Map([
  ["postgres", postgres],
  ["sqlite", sqlite],
]);

function kindOf(database: string): DatabaseKind {
  if (/^postgres(ql)?:/.test(database)) {
    return postgres;
  }
  // Repeats only the scheme, because the rest may contain a password. One letter is a Windows drive.
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(database)?.[1];
  if (scheme !== undefined) {
    throw new UsageError(
      `"${scheme}:" is not a database with migrations; use a postgres:// URL or the path of a SQLite file`,
    );
  }
  return sqlite;
}

function openable(database: string): SessionStore {
  try {
    return kindOf(database).store(database);
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}

/** A connection that failed at several addresses has an AggregateError without its own message. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}
