import type { Clock } from "../../base/clock.ts";
import { retry } from "../common.ts";
import { type Push, PushConnection } from "../push.ts";
import type { SqlBackend, SqlConnection, SqlConnections } from "../sql/database.ts";
import { type Sql, sql } from "../sql/statement.ts";
import { postgresDialect } from "./dialect.ts";
import { isStalePlan, type OpenPool, type PostgresPool, type PostgresPoolClient } from "./pool.ts";
import { listenWith } from "./push.ts";

/**
 * A PostgreSQL database, and how to reach it.
 *
 * @param open opens a pool, or returns one that is open
 * @param now the store's clock as SQL; tests pass one that stands still
 */
export function postgresBackend(
  open: () => Promise<OpenPool>,
  now: () => Sql = databaseTime,
): SqlBackend {
  return {
    name: "postgresStore",
    dialect: postgresDialect,
    connect: async ({ clock }) => new PostgresConnections(await open(), clock, now),
  };
}

/** The connections of a pool, as the SQL store uses them. */
class PostgresConnections implements SqlConnections {
  readonly now: () => Sql;
  /** Absent if the pool does not reveal how to connect outside of it. */
  readonly listen?: (wake: () => void) => Push;
  readonly #pool: PostgresPool;
  readonly #end: () => Promise<void>;
  readonly #clock: Clock;

  constructor({ pool, end, newClient }: OpenPool, clock: Clock, now: () => Sql) {
    this.now = now;
    this.#pool = pool;
    this.#end = end;
    this.#clock = clock;
    if (newClient !== undefined) {
      this.listen = (wake) => new PushConnection({ clock, wake, open: listenWith(newClient) });
    }
  }

  async lend<T>(work: (connection: SqlConnection) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    const lent = new LentClient(client);
    try {
      return await work(lent);
    } finally {
      lent.release();
    }
  }

  /** Repeats work up to five times: after a conflict, and after a migration changed a prepared statement. */
  attempt<T>(work: () => Promise<T>): Promise<T> {
    const isTransient = (error: unknown): boolean => isConflict(error) || isStalePlan(error);
    return retry({ clock: this.#clock, pauses, isTransient }, work);
  }

  close(): Promise<void> {
    return this.#end();
  }
}

/** Milliseconds before each further attempt. */
const pauses = [5, 10, 20, 40, 80];

/**
 * The server's clock when it received the statement. It is the same everywhere in the statement, so a
 * record agrees with the time returned with it. `now()` would be the begin of the transaction, and
 * `clock_timestamp()` would differ from place to place.
 */
function databaseTime(): Sql {
  return sql`floor(extract(epoch from statement_timestamp()) * 1000)::bigint`;
}

/** A client taken out of the pool. It is not used again after an error that may have broken it. */
class LentClient implements SqlConnection {
  readonly #client: PostgresPoolClient;
  #broken = false;
  // The pool listens only while it has the connection itself, and an error without any listener
  // would end the process. The running statement rejects with the same error.
  readonly #onError = (): void => {
    this.#broken = true;
  };

  constructor(client: PostgresPoolClient) {
    this.#client = client;
    client.on?.("error", this.#onError);
  }

  async query(text: string, values: unknown[]): Promise<readonly unknown[]> {
    try {
      return (await this.#client.query(text, values)).rows;
    } catch (error) {
      // A connection that cannot roll back may still be within its transaction.
      this.#broken ||= text === "rollback" || !isHarmless(error);
      throw error;
    }
  }

  release(): void {
    this.#client.release(this.#broken);
    this.#client.off?.("error", this.#onError);
  }
}

/**
 * Whether the connection can still be used after an error: the server refused a value or a statement,
 * reported a conflict, or ended a statement that took too long. After any other error the connection
 * may be in the middle of an answer, about to close, or lead to a server that is no longer the primary.
 */
function isHarmless(error: unknown): boolean {
  const { code, severity } = (error ?? {}) as { code?: unknown; severity?: unknown };
  return typeof severity === "string" && /^(?:2[23]|4[02]|57014)/.test(String(code));
}

/** A serialization failure or a deadlock: the transaction was rolled back in favour of others. */
function isConflict(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: unknown };
  return code === "40001" || code === "40P01";
}
