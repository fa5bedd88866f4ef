import type { SessionStore } from "../../engine/store.ts";
import { SqlStore } from "../sql/store.ts";
import { borrowPool, openPool, type PostgresPool, postgresBackend } from "./connections.ts";

export type { PostgresPool, PostgresPoolClient, PostgresResult } from "./connections.ts";

/** Options of {@link postgresStore}. */
export interface PostgresOptions {
  /**
   * The maximum number of connections, 1 to 1000. Default 10. Applies to a URL only: a pool has its
   * own limit.
   */
  readonly connections?: number;
}

/**
 * Keeps sessions in PostgreSQL 13 or newer, for any number of servers that share one database.
 *
 * **Secret and clock.** The store keeps no secret. `createSessions` needs the option `secret`, with
 * the same value on every server; somebody who only has the database cannot forge sessions. All times
 * come from the database's clock, so the clocks of the servers may differ.
 *
 * **Tables.** They are named `rpcsession_…` and are created in the first schema of the search path
 * when the store is first opened; several servers may start at once. If you run
 * `npx rpc-session migrate` beforehand, a server only needs the right to read and write the tables.
 *
 * **With a URL,** the store opens its own connections, and closes them in `close()`.
 *
 * - The URL must lead to the primary, because a replica may answer with old data. It must not lead to
 *   PgBouncer: statements are prepared, which halves the work of the database.
 * - Connecting and each statement time out after 5 s. If the database does not answer at all, a
 *   statement fails after 10 s.
 *
 * **With a pool,** the store uses your pool and never closes it.
 *
 * - It may lead to PgBouncer in any mode, because no state stays in a connection between transactions.
 * - The pool's own limits apply, and `pg` sets none. Set at least `connectionTimeoutMillis`,
 *   `statement_timeout` and `query_timeout`.
 * - Listen for `error` on the pool and on its clients
 *   (`pool.on("connect", (client) => client.on("error", log))`). Otherwise the loss of a connection
 *   may end the process.
 *
 * **Transactions** use the isolation level `read committed`, whatever the default of the database. On
 * a serialization failure or a deadlock they are repeated up to five times. Revoking all sessions of a
 * user or a tenant takes about 2 s per 100,000 sessions. Sign-ins of the same owner wait meanwhile, so
 * that no session is missed.
 *
 * **Revocations** reach the other servers within milliseconds, by NOTIFY in the same transaction. Each
 * server listens on one connection outside its pool. A connection that stops answering is replaced
 * within 10 s. Until then, a server learns of revocations when it next reads the change log: every half
 * of `maxStaleness`. The same is true behind a pooler in transaction mode, and with a pool that is not
 * a `pg.Pool`. While a transaction that writes stays open, in any database of the server, each read of
 * the change log scans the entries since its begin again; none is missed or returned twice.
 *
 * **Cleaning.** Sessions are removed 24 h to 28 h after their end, entries of the change log after
 * 2 h: in batches, by one server at a time, without waiting for locks.
 *
 * @param database a URL such as `"postgres://user@host/database"`, for which the package `pg` must be
 *   installed (parameters such as `?sslmode=verify-full` are `pg`'s), or a pool such as a `pg.Pool`
 * @throws TypeError when `database` is neither, or an option is out of bounds
 */
export function postgresStore(
  database: PostgresPool | string,
  options: PostgresOptions = {},
): SessionStore {
  const { connections = 10 } = options;
  if (!Number.isInteger(connections) || connections < 1 || connections > 1000) {
    throw new TypeError(
      `postgresStore: connections must be an integer from 1 to 1000, got ${connections}`,
    );
  }
  if (typeof database === "string") {
    checkUrl(database);
    return new SqlStore(postgresBackend(() => openPool(database, connections)));
  }
  if (typeof database?.connect !== "function") {
    throw new TypeError(
      "postgresStore: the database must be a postgres:// URL or a pool such as new pg.Pool()",
    );
  }
  return new SqlStore(postgresBackend(async () => borrowPool(database)));
}

function checkUrl(url: string): void {
  // The URL never appears in a message, because it may hold a password.
  if (!/^postgres(ql)?:\/\//.test(url)) {
    throw new TypeError('postgresStore: the URL must begin with "postgres://"');
  }
  // A URL without a host means a socket, or this machine, as `pg` reads it.
  if (!URL.canParse(url.replace("@/", "@localhost/"))) {
    throw new TypeError(
      'postgresStore: the URL is not valid; in the password, write "/", "#", "?" and "@" as %2F, %23, %3F and %40',
    );
  }
}
