import { Kysely, PostgresDialect, type RawBuilder, sql } from "kysely";
import { readChangesByTransaction } from "./postgres-changes.ts";
import { forKysely, type OpenPool } from "./postgres-pool.ts";
import { isStalePlan } from "./postgres-prepared.ts";
import { listenWith } from "./postgres-push.ts";
import { keepPush } from "../push.ts";
import { retried } from "../retry.ts";
import type { SqlBackend } from "../sql/sql-connection.ts";
import type { SqlSchema } from "../sql/sql-schema.ts";

/**
 * What a PostgreSQL store is built on.
 *
 * @param open opens a pool, or hands out one that is open
 * @param now the store's clock as SQL; tests give one that stands still
 */
export function postgresBackend(
  open: () => Promise<OpenPool>,
  now: () => RawBuilder<number> = databaseTime,
): SqlBackend {
  return {
    name: "postgresStore",
    async connect({ clock }) {
      const opened = await open();
      const { newClient } = opened;
      const pool = forKysely(opened);
      return {
        db: new Kysely<SqlSchema>({ dialect: new PostgresDialect({ pool }) }),
        now,
        dialect: "postgres",
        attempt: (work) => retried({ clock, pauses: pausesMs, again: isForAnotherTry }, work),
        ...(newClient && {
          listen: (wake) => keepPush({ clock, wake, open: listenWith(newClient) }),
        }),
      };
    },
    readChanges: readChangesByTransaction,
  };
}

/**
 * The server's clock when it received the statement: the same wherever it stands in it, so that a
 * record and the time that is answered with it agree. `now()` would be the transaction's begin, and
 * `clock_timestamp()` another one at each place.
 */
function databaseTime(): RawBuilder<number> {
  return sql<number>`floor(extract(epoch from statement_timestamp()) * 1000)::bigint`;
}

const pausesMs = [5, 10, 20, 40, 80];

/** Whether nothing was changed, and the same may succeed now. */
function isForAnotherTry(error: unknown): boolean {
  return isConflict(error) || isStalePlan(error);
}

/** A serialization failure or a deadlock: the transaction was rolled back for the sake of others. */
function isConflict(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return code === "40001" || code === "40P01";
}
