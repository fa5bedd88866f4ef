import { systemClock } from "../base/clock.ts";
import { type Answer, type Command, UsageError } from "./command.ts";
import { databaseOf, dialectOf, kindOf, openable } from "./database.ts";

/** `rpc-session migrate` */
export const migrateCommand: Command = {
  name: "migrate",
  summary: "create the tables of a store, or bring them up to date",
  forms: ["<database>", "--print <database | postgres | sqlite>"],
  about:
    "Creates the tables of a session store or brings them up to date. Servers do so when they start. Run this first if your servers must not create tables. It is safe to run it repeatedly and concurrently.",
  arguments: [
    [
      "[database]",
      "postgres://user@host/name (set PGPASSWORD to keep a password out of the process list), or the path of a SQLite file, which is created if it does not exist. Default: the environment variable RPC_SESSION_DATABASE",
    ],
  ],
  options: [
    {
      flags: "--print",
      meaning: "print the SQL that creates the tables in an empty database; change nothing",
    },
  ],
  examples: [
    ["Create the tables before the servers start", "rpc-session migrate postgres://app@db/app"],
    [
      "Review the SQL, or give it to a migration tool",
      "rpc-session migrate --print postgres > sessions.sql",
    ],
  ],
  run: async ({ args, env, options }) => {
    const database = args[0] ?? databaseOf(env);
    if (database === undefined || args.length > 1) {
      throw new UsageError(`"migrate" takes exactly one database, got ${args.length}`);
    }
    return options.print ? printMigrations(database) : migrateDatabase(database);
  },
};

/** Brings the tables of a database up to date. */
async function migrateDatabase(database: string): Promise<Answer> {
  const store = await openable(database);
  await store.open({ clock: systemClock });
  await store.close();
  return { text: "The tables are up to date.\n", json: { upToDate: true } };
}

/** Returns the SQL that creates the tables in an empty database, without opening one. */
async function printMigrations(database: string): Promise<Answer> {
  const isName = database === "postgres" || database === "sqlite";
  const dialect = await dialectOf(isName ? database : kindOf(database));
  const { migrationSql } = await import("../stores/sql/migration/migrate.ts");
  const sql = migrationSql(dialect);
  return { text: sql, json: { sql } };
}
