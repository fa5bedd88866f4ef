import type { Hold, LockKind, SqlDialect } from "../sql/database.ts";
import { type Sql, sql } from "../sql/statement.ts";
import { readChanges } from "./changes.ts";
import { historyOfStatement } from "./histories.ts";
import { migrating } from "./migrating.ts";
import { postgresMigrations } from "./migrations.ts";

/** PostgreSQL 13 or newer. Each member's reason is at {@link SqlDialect}. */
export const postgresDialect: SqlDialect = {
  placeholders: "numbered",
  begin: "start transaction isolation level read committed",
  least: sql`least`,
  jsonArray: sql`json_build_array`,
  idByBytes: sql`id collate "C"`,
  forUpdate: sql`for update`,
  forUpdateSkipLocked: sql`for update skip locked`,
  stringsOf: (jsonArray) =>
    sql`jsonb_array_elements_text(cast(${jsonArray} as jsonb)) as one(value)`,
  forUpdateOfHeld: sql`for update of held`,
  usesOf: (jsonArray) =>
    sql`jsonb_to_recordset(cast(${jsonArray} as jsonb)) as used(session text, generation bigint, age bigint)`,
  advancesOf: (jsonArray) =>
    sql`json_to_recordset(cast(${jsonArray} as json)) as used(place integer, id text, generation bigint,
        secret_id text, root_hash text, transport text, bound_key text, overlap bigint, idle bigint,
        next_secret_id text, kind integer)`,
  ownerLock,
  history: historyOfStatement,
  readChanges,
  tableNamed: (name) => sql`select 1 where to_regclass(${name}) is not null`,
  migrations: postgresMigrations,
  ...migrating,
  clockForPrint: "floor(extract(epoch from now()) * 1000)::bigint",
};

// Arbitrary numbers that no other software should use.
const keySpaces = {
  tenant: sql`1850417267`,
  user: sql`1850417268`,
  externalId: sql`1850417269`,
};

function ownerLock(kind: LockKind, id: string, hold: Hold): Sql {
  const key = sql`${keySpaces[kind]}, hashtext(${id})`;
  return hold === "shared"
    ? sql`pg_advisory_xact_lock_shared(${key})`
    : sql`pg_advisory_xact_lock(${key})`;
}
