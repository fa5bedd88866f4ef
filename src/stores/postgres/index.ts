import type { SessionStore } from "../../engine/store.ts";
import { SqlStore } from "../sql/store.ts";
import { postgresBackend } from "./connections.ts";
import { borrowPool, openPool, type PostgresPool } from "./pools.ts";

export type { PostgresPool, PostgresPoolClient, PostgresResult } from "./pools.ts";

/** Options of {@link postgresStore}. */
export interface PostgresOptions {
  /**
   * The maximum number of connections, 1 to 1000. Default 10. Applies to a URL only: a pool has its
   * own limit.
   */
  readonly connections?: number;
  /**
   * Whether statements are prepared, which halves the work of the database. Default: they are, except
   * through a pooler, which is recognised. Applies to a URL only. Pass `false` for a pooler that is not
   * recognised, and `true` for one that keeps prepared statements, such as PgBouncer 1.21 or newer
   * with `max_prepared_statements`, or PgBouncer in session mode.
   */
  readonly prepare?: boolean;
  /**
   * A URL that leads straight to the same database, for the one connection that listens. Through a
   * pooler in transaction mode, revocations are pushed only with it. Default: the
   * way of the other connections.
   */
  readonly listen?: string;
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
 * - The URL must lead to the primary, because a replica may answer with old data. It may lead to
 *   PgBouncer in session or transaction mode; see the options `prepare` and `listen`.
 * - Connecting and each statement time out after 5 s. If the database does not answer at all, a
 *   statement fails after 10 s. Through a pooler, the limit of 5 s holds within transactions only; set
 *   `statement_timeout` for the role.
 *
 * **With a pool,** the store uses your pool and never closes it.
 *
 * - It may lead to PgBouncer in session or transaction mode, because no state stays in a connection
 *   between transactions.
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
 * **Revocations** reach the other servers within milliseconds, by NOTIFY after the commit. Each server
 * sends at most one every 20 ms. A server that is woken again and again reads the change log five times
 * in quick succession, and then every 200 ms. Each server listens on one connection outside its pool. A connection that stops answering is
 * replaced within 10 s. A server that is not notified learns of revocations when it next reads the
 * change log: every half of `maxStaleness`; every 0.5 s if it knows that it is not notified. The latter
 * is the case behind a pooler in transaction mode without `listen`, and with a pool that is not a
 * `pg.Pool`; `health().push` says so.
 *
 * **Lost connections.** A read whose idle connection turns out to be dead is repeated on a fresh one.
 * While a transaction that writes stays open, in any database of the server, each read of
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
  const { connections = 10, prepare, listen } = options;
  if (prepare !== undefined && typeof prepare !== "boolean") {
    throw new TypeError(`postgresStore: prepare must be true or false, got ${typeof prepare}`);
  }
  if (listen !== undefined) {
    checkUrl(listen, "listen");
  }
  if (!Number.isInteger(connections) || connections < 1 || connections > 1000) {
    throw new TypeError(
      `postgresStore: connections must be an integer from 1 to 1000, got ${connections}`,
    );
  }
  if (typeof database === "string") {
    checkUrl(database, "the URL");
    const pool = { max: connections, prepare, listen };
    return new SqlStore(postgresBackend(() => openPool(database, pool)));
  }
  if (typeof database?.connect !== "function") {
    throw new TypeError(
      "postgresStore: the database must be a postgres:// URL or a pool such as new pg.Pool()",
    );
  }
  return new SqlStore(postgresBackend(async () => borrowPool(database, listen)));
}

function checkUrl(url: unknown, option: "the URL" | "listen"): void {
  // The URL never appears in a message, because it may hold a password.
  if (typeof url !== "string" || !/^postgres(ql)?:\/\//.test(url)) {
    throw new TypeError(`postgresStore: ${option} must begin with "postgres://"`);
  }
  // A URL without a host means a socket, or this machine, as `pg` reads it.
  if (!URL.canParse(url.replace("@/", "@localhost/"))) {
    throw new TypeError(
      `postgresStore: ${option} is not valid; in the password, write "/", "#", "?" and "@" as %2F, %23, %3F and %40`,
    );
  }
}
