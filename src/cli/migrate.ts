import { systemClock } from "../base/clock.ts";
import { migrationSql } from "../stores/sql/migrate.ts";
import type { Answer, Command } from "./command.ts";
import { kindOf, kinds, openable } from "./database.ts";

/** `rpc-session migrate` */
export const migrateCommand: Command = {
  name: "migrate",
  forms: ["<database>", "--print <database | postgres | sqlite>"],
  help: `Creates the tables of a session store or brings them up to date. Servers do so when they start. Run
this first if your servers must not create tables. It is safe to run it repeatedly and concurrently.

  <database>   postgres://user@host/name (set PGPASSWORD to keep a password out of the process list),
               or the path of a SQLite file, which is created if it does not exist
  --print      print the SQL that creates the tables in an empty database; change nothing
  -h, --help   print this help
`,
  options: { print: { type: "boolean", default: false } },
  run: async ({ database, options }) =>
    options.print ? printMigrations(database) : await migrateDatabase(database),
};

/** Brings the tables of a database up to date. */
async function migrateDatabase(database: string): Promise<Answer> {
  const store = openable(database);
  await store.open({ clock: systemClock });
  await store.close();
  return { text: "The tables are up to date.\n", json: {} };
}

/** Returns the SQL that creates the tables in an empty database, without opening one. */
function printMigrations(database: string): Answer {
  const { dialect } = kinds.get(database) ?? kindOf(database);
  return { text: migrationSql(dialect), json: {} };
}
