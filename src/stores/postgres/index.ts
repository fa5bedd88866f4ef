import type { SessionStore } from "../../engine/store.ts";
import { SqlStore } from "../sql/store.ts";
import { postgresBackend } from "./connections.ts";
import { borrowPool, openPool, type PostgresPool } from "./pool.ts";

export type { PostgresPool, PostgresPoolClient, PostgresResult } from "./pool.ts";

/** Options of {@link postgresStore}. */
export interface PostgresOptions {
  /**
   * How many connections are opened at most; 1 to 1000, default 10. For a URL only: a pool has its
   * own limit.
   */
  readonly connections?: number;
}

/**
 * Sessions in PostgreSQL 13 or newer: for any number of servers over one database.
 *
 * - It keeps no secret: `createSessions` needs the option `secret`, the same on every server. Who
 *   has the database alone can forge nothing.
 * - Its clock is the database's. The clocks of the servers decide nothing.
 * - The tables are named `rpcsession_…` and lie in the first schema of the search path. They are
 *   made when the store is first opened, by one of the servers that start; with
 *   `npx rpc-session migrate` done before, a server needs only the right to read and write them.
 * - A URL must lead to the primary: what a replica answers may be old. It may lead to PgBouncer by
 *   a pool of yours only, in any mode: no state is kept in a connection between transactions. On
 *   connections to a URL statements are prepared, which saves the server half of its work.
 * - Of the connections to a URL, each attempt to connect ends after 5 s, each statement after 5 s,
 *   and one that the server does not answer at all after 10 s. They are closed by `close()`.
 * - A pool is never closed, and keeps its own limits. `pg` sets none: give it at least
 *   `connectionTimeoutMillis`, `statement_timeout` and `query_timeout`, and listeners for `error` on
 *   it and on its clients (`pool.on("connect", (client) => client.on("error", log))`), without which
 *   the loss of a connection may end the process.
 * - A transaction that the database gives up for the sake of others is done again, five times.
 * - To end all sessions of a user or a tenant takes about 2 s for each 100,000; meanwhile the same
 *   owner's sign-ins wait, which makes sure that none is left over. Transactions ask for the isolation
 *   they need (`read committed`), whatever the default of the database.
 * - What one server revokes the others know within milliseconds, by NOTIFY in the same transaction.
 *   Each server listens on one connection beside its pool, which is made as the pool makes its own;
 *   a connection that falls silent is replaced within 10 s. Meanwhile, and behind a pooler that lends
 *   connections to one transaction at a time, or with a pool that is no `pg.Pool`, they know at their
 *   next read of the change log, every half of `maxStaleness`.
 * - A transaction that writes and stays open, in any database of the server, makes reads of the
 *   change log go through the entries since its begin again and again; nothing is missed.
 * - Sessions are dropped 24 h after their end, entries of the change log after 2 h: in batches, by
 *   one server at a time, without waiting for locks.
 *
 * @param database a URL (`"postgres://user@host/database"`, for which the package `pg` must be
 *   installed; parameters such as `?sslmode=verify-full` are `pg`'s), or a pool
 * @throws TypeError when it is neither, or an option is out of bounds
 */
export function postgresStore(
  database: PostgresPool | string,
  options: PostgresOptions = {},
): SessionStore {
  const { connections = 10 } = options;
  if (!Number.isInteger(connections) || connections < 1 || connections > 1000) {
    throw new TypeError(`postgresStore: connections: ${connections} is no number from 1 to 1000`);
  }
  if (typeof database === "string") {
    checkUrl(database);
    return new SqlStore(postgresBackend(() => openPool(database, connections)));
  }
  if (typeof database?.connect !== "function") {
    throw new TypeError(
      "postgresStore: give a URL or a pool of connections, such as new pg.Pool()",
    );
  }
  return new SqlStore(postgresBackend(async () => borrowPool(database)));
}

function checkUrl(url: string): void {
  // Never in the message: it may hold a password.
  if (!/^postgres(ql)?:\/\//.test(url)) {
    throw new TypeError('postgresStore: the URL does not begin with "postgres://"');
  }
  // Without a host it is a socket's, or this machine, as pg reads it.
  if (!URL.canParse(url.replace("@/", "@localhost/"))) {
    throw new TypeError(
      'postgresStore: the URL cannot be read; write "/", "#", "?" and "@" of a password as %2F, %23, %3F and %40',
    );
  }
}
