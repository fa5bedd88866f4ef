import { type ParseArgsConfig, parseArgs } from "node:util";
import { systemClock } from "../base/clock.ts";
import type { SessionStore } from "../engine/store.ts";
import { postgresStore } from "../stores/postgres/index.ts";
import { migrationSql } from "../stores/sql/print.ts";
import type { SqlDialect } from "../stores/sql/schema.ts";
import { sqliteStore } from "../stores/sqlite/index.ts";

/** Arguments that make no sense; the message says what is wrong with them. */
export class UsageError extends Error {
  override readonly name: string = "UsageError";
}

export const usage: string = `Usage: rpc-session migrate <database>
       rpc-session migrate --print <database | postgres | sqlite>

Brings the tables of a session store up to date. Servers do that themselves when they start; run it
before where they may not create tables. It may be run again, and by several at once.

  <database>   postgres://user@host/name (a password in PGPASSWORD is seen by nobody else),
               or the path of a SQLite file, which is created when it is absent
  --print      print the SQL that makes the tables in an empty database, and change nothing
  -h, --help   print this

Exit code: 0 done, 1 failed, 2 wrong arguments.
`;

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

/** What a command has to say, and its exit code. */
export interface Outcome {
  readonly code: 0 | 1 | 2;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line, without the names of program and script. Never rejects. */
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
    // Without its name: what stands in its place may be a URL with a password.
    throw new UsageError(name === undefined ? "no command given" : "unknown command");
  }
  if (database === undefined || others.length > 0) {
    throw new UsageError("migrate takes one database");
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

/** Errors of a connection that was tried at several addresses have their messages within. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}
