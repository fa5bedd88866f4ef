import type { SqlDialect } from "../sql/database.ts";
import { nothing, sql } from "../sql/statement.ts";
import { readChanges } from "./changes.ts";
import { migrations } from "./migrations.ts";

/** SQLite, with one writer at a time. Each member's reason is at {@link SqlDialect}. */
export const sqliteDialect: SqlDialect = {
  placeholder: () => "?",
  begin: "begin immediate",
  idByBytes: sql`id`,
  forUpdate: nothing,
  forUpdateSkipLocked: nothing,
  stringsOf: (jsonArray) => sql`json_each(cast(${jsonArray} as text)) as one`,
  notifyOnCommit: nothing,
  ownerLock: undefined,
  readChanges,
  migrationsTable: sql`select 1 from sqlite_master where name = 'rpcsession_migrations'`,
  migrationLock: undefined,
  migrations,
  clockForPrint: "unixepoch() * 1000",
};
