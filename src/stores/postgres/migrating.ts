import type { MakeIndex, SqlDatabase, SqlDialect } from "../sql/database.ts";
import { sql } from "../sql/statement.ts";

/** How PostgreSQL takes a step of its tables. Each member's reason is at {@link SqlDialect}. */
export const migrating: Pick<
  SqlDialect,
  "shortLocks" | "isLockTimeout" | "lockHolders" | "makeIndex" | "dropIndex"
> = {
  // Less than a call waits: 5 s.
  shortLocks: "set local lock_timeout = '2s'",
  isLockTimeout: (error) => (error as { code?: unknown } | undefined)?.code === "55P03",
  // The oldest ones that are in a transaction.
  lockHolders: sql`select string_agg(holder, ', ') as holders from (
      select 'process ' || pid || coalesce(' of ' || nullif(application_name, ''), '') as holder
      from pg_stat_activity
      where pid <> pg_backend_pid() and pid in (
        select pid from pg_locks
        where granted and relation in (
          select oid from pg_class where relname like 'rpcsession%'
        )
      )
      order by xact_start limit 3
    ) as oldest`,
  makeIndex,
  dropIndex: (name) => `drop index concurrently if exists ${name}`,
};

/** Makes an index while others write. It waits for transactions that began before, and blocks none. */
async function makeIndex(database: SqlDatabase, { index, on }: MakeIndex): Promise<void> {
  // 1. A crash in the middle leaves an index that PostgreSQL maintains but never uses: begin again.
  const found = await database.row<{ readonly valid: boolean }>`select indisvalid as valid
      from pg_index where indexrelid = to_regclass(${index})`;
  if (found?.valid) {
    return;
  }
  if (found !== undefined) {
    await database.run(`drop index concurrently if exists ${index}`);
  }
  // 2. An empty table needs no time, and so need not wait for foreign transactions, such as a dump.
  const [table] = on.split(" ");
  const rows = await database.run(`select 1 from ${table} limit 1`);
  const how = rows.length === 0 ? "create index" : "create index concurrently";
  await database.run(`${how} ${index} on ${on}`);
}
