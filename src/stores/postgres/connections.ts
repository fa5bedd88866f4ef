import type { PoolClient } from "pg";
import type { Clock } from "../../base/clock.ts";
import type { Retries } from "../common.ts";
import { type Push, PushConnection } from "../push.ts";
import {
  type BorrowedConnection,
  type SqlBackend,
  type SqlConnections,
  sql,
} from "../sql/database.ts";
import { postgresDialect } from "./dialect.ts";
import { migrating } from "./migrating.ts";
import { connectForMigration } from "./migration-connections.ts";
import { listenWith, type NotifiedClient } from "./push.ts";

/**
 * A PostgreSQL database, and how to reach it.
 *
 * @param open opens a pool, or returns one that is open
 * @param now the store's clock as SQL; tests pass one that stands still
 */
export function postgresBackend(
  open: () => Promise<OpenPool>,
  now: SqlConnections["now"] = databaseTime,
): SqlBackend {
  return {
    name: "postgresStore",
    dialect: postgresDialect,
    connect: async ({ clock }) => new PostgresConnections(await open(), clock, now),
  };
}

/** The connections of a pool, as the SQL store uses them. */
class PostgresConnections implements SqlConnections {
  readonly now: SqlConnections["now"];
  /** After a conflict, and after a migration changed a prepared statement. */
  readonly retries: Retries;
  /** Absent if the pool does not reveal how to connect outside of it. */
  readonly listen?: (wake: () => void) => Push;
  readonly #pool: OpenPool;

  constructor(pool: OpenPool, clock: Clock, now: SqlConnections["now"]) {
    this.now = now;
    this.retries = {
      clock,
      pauses,
      isTransient: (error) => isConflict(error) || isStalePlan(error),
    };
    this.#pool = pool;
    const { newClient } = pool;
    if (newClient !== undefined) {
      this.listen = (wake) => new PushConnection({ clock, wake, open: listenWith(newClient) });
    }
  }

  async query(text: string, values: unknown[]): Promise<readonly unknown[]> {
    const client = await this.borrow();
    try {
      return await client.query(text, values);
    } finally {
      client.release();
    }
  }

  async borrow(): Promise<BorrowedClient> {
    const { pool, names } = this.#pool;
    return new BorrowedClient(await pool.connect(), names);
  }

  forMigration(): Promise<SqlConnections> {
    return connectForMigration(
      () => connectWithoutLimits(this.#pool),
      this,
      migrating.isLockTimeout,
    );
  }

  close(): Promise<void> {
    return this.#pool.end();
  }
}

/** Milliseconds before each further attempt. */
const pauses = [5, 10, 20, 40, 80];

/**
 * The server's clock when it received the statement. It is the same everywhere in the statement, so a
 * record agrees with the time returned with it. `now()` would be the begin of the transaction, and
 * `clock_timestamp()` would differ from place to place.
 */
const databaseTime = sql`floor(extract(epoch from statement_timestamp()) * 1000)::bigint`;

/** A client taken out of the pool. It is not used again after an error that may have broken it. */
class BorrowedClient implements BorrowedConnection {
  readonly #client: PostgresPoolClient;
  readonly #names: StatementNames | undefined;
  #broken = false;
  // The pool listens only while it has the connection itself, and an error without any listener
  // would end the process. The running statement rejects with the same error.
  readonly #onError = (): void => {
    this.#broken = true;
  };

  /** @param names the names under which statements are prepared; undefined to prepare none */
  constructor(client: PostgresPoolClient, names: StatementNames | undefined) {
    this.#client = client;
    this.#names = names;
    client.on?.("error", this.#onError);
  }

  async query(text: string, values: unknown[]): Promise<readonly unknown[]> {
    const name = this.#names?.of(text, values);
    try {
      const result =
        name === undefined
          ? await this.#client.query(text, values)
          : // Only a pool of `pg` comes with names.
            await (this.#client as PoolClient).query({ name, text, values });
      return result.rows;
    } catch (error) {
      if (isStalePlan(error)) {
        this.#names?.renew();
      }
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

/**
 * Whether the server refused a prepared statement because a migration, perhaps of another server,
 * changed the columns under it. Nothing was run.
 */
function isStalePlan(error: unknown): boolean {
  const { code, routine } = (error ?? {}) as { code?: unknown; routine?: unknown };
  return code === "0A000" && routine === "RevalidateCachedQuery";
}

/** A pool of connections, as far as the store needs one. `pg.Pool` fits. */
export interface PostgresPool {
  /** Takes a connection out of the pool, or opens one. */
  connect(): Promise<PostgresPoolClient>;
}

/** A connection taken out of a {@link PostgresPool}. */
export interface PostgresPoolClient {
  /** Runs one statement; `values` are bound to `$1`, `$2` and so on. */
  query(text: string, values: unknown[]): Promise<PostgresResult>;
  /** Returns the connection to the pool; with `true`, the pool closes it instead of using it again. */
  release(destroy?: boolean): void;
  /** Adds a listener for errors of the connection outside of a statement. */
  on?(event: "error", listener: (error: Error) => void): unknown;
  /** Removes a listener again. */
  off?(event: "error", listener: (error: Error) => void): unknown;
}

/** The result of a statement. */
export interface PostgresResult {
  /** The kind of statement, such as "SELECT". Not used by the store. */
  readonly command: string;
  /** How many rows the statement returned or changed. Not used by the store. */
  readonly rowCount: number | null;
  /** The rows, as objects by column name. */
  readonly rows: unknown[];
}

/** A pool, and what depends on who opened it. */
export interface OpenPool {
  readonly pool: PostgresPool;
  /**
   * The names of its prepared statements; absent if it prepares none. Only for connections that lead
   * straight to the server: behind a pooler, a prepared statement may be gone the next time.
   */
  readonly names?: StatementNames;
  readonly end: () => Promise<void>;
  /**
   * Makes a client outside of the pool, not connected yet; absent if the pool does not reveal how.
   * @param overrides options that differ from those of the pool
   */
  readonly newClient?: (overrides?: object) => Promise<NotifiedClient>;
}

/** Opens a pool of at most `max` connections with the package `pg`. */
export async function openPool(url: string, max: number): Promise<OpenPool> {
  const { Client, Pool } = await loadDriver();
  const options = { application_name: "rpc-session", ...limits, connectionString: url };
  const pool = new Pool({ ...options, max, allowExitOnIdle: true });
  // Without a listener, an idle connection that breaks would end the process. The pool has dropped
  // that connection already, and the next call opens another one.
  pool.on("error", () => {});
  // The pool does not listen from the moment it hands out a new connection. A server that accepts the
  // connection and announces its shutdown in the same packet would go unheard.
  pool.on("connect", (client) => client.on("error", () => {}));
  return {
    pool,
    names: new StatementNames(),
    end: () => pool.end(),
    newClient: async (overrides) => new Client({ ...options, ...overrides }),
  };
}

// Our statements take milliseconds; one that takes this long is stuck. The server ends it first; the
// second limit is for a server that does not answer at all.
const limits = {
  connectionTimeoutMillis: 5_000,
  statement_timeout: 5_000,
  idle_in_transaction_session_timeout: 5_000,
  query_timeout: 10_000,
  keepAlive: true,
};

/** Uses a pool that belongs to the caller, and never closes it. */
export function borrowPool(pool: PostgresPool): OpenPool {
  const end = async (): Promise<void> => {};
  // pg.Pool makes its own connections in this way. A connection taken out of it for good might be its
  // last one, and would keep its owner from ending it.
  const { Client, options } = pool as Partial<ClientFactory>;
  return typeof Client === "function" && options !== undefined
    ? { pool, end, newClient: async (overrides) => new Client({ ...options, ...overrides }) }
    : { pool, end };
}

/** The members of `pg.Pool` that the store does not require from a pool. */
interface ClientFactory {
  readonly Client: new (options: object) => NotifiedClient;
  readonly options: object;
}

/**
 * Connects without the limits that are meant for calls. Outside of the pool, if it reveals how: a pool
 * may have a single connection.
 */
async function connectWithoutLimits({ pool, newClient }: OpenPool): Promise<BorrowedConnection> {
  if (newClient === undefined) {
    const client = await pool.connect();
    // The running statement rejects with the same error.
    client.on?.("error", () => {});
    return {
      query: async (text, values) => (await client.query(text, values)).rows,
      // It has no limits any more, so the pool must not lend it again.
      release: () => client.release(true),
    };
  }
  const client = await newClient({
    ...{ application_name: "rpc-session migrate", query_timeout: 0 },
    ...{ statement_timeout: 0, idle_in_transaction_session_timeout: 0 },
  });
  client.on("error", () => {});
  await client.connect();
  return {
    query: async (text, values) => (await client.query(text, values)).rows,
    release: () => void client.end().catch(() => {}),
  };
}

async function loadDriver(): Promise<Pick<typeof import("pg"), "Client" | "Pool">> {
  try {
    return (await import("pg")).default;
  } catch (cause) {
    throw new Error(
      "postgresStore: to connect to a URL, install the package pg (npm install pg); or pass a pool",
      { cause },
    );
  }
}

/** At most this many statements are prepared; the store has fewer, whatever it does. */
const preparedMax = 100;

/**
 * The names of the prepared statements of a pool, by their text. Each connection prepares a statement
 * once: to parse and plan it costs the server more than to run it.
 */
class StatementNames {
  readonly #names = new Map<string, string>();
  #given = 0;

  /** Returns undefined if a name is not worth it: nothing to plan, or too many statements have one. */
  of(text: string, values: readonly unknown[]): string | undefined {
    const names = this.#names;
    if (values.length > 0 && names.size < preparedMax && !names.has(text)) {
      names.set(text, `rpcsession_${this.#given++}`);
    }
    return names.get(text);
  }

  /** Gives every statement another name from now on, so that all connections prepare it again. */
  renew(): void {
    this.#names.clear();
  }
}
