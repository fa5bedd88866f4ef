import type { MigrationConnection } from "./migration-connections.ts";
import type { NotifiedClient } from "./push.ts";

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
  /** Absent for a pool that is the caller's. */
  readonly own?: OwnPool;
  readonly end: () => Promise<void>;
  /**
   * Makes a client outside of the pool, not connected yet; absent if the pool does not reveal how.
   * @param overrides options that differ from those of the pool
   */
  readonly newClient?: (overrides?: object) => Promise<NotifiedClient>;
}

/** What the store does with the connections of its own pool. */
interface OwnPool {
  readonly names: StatementNames;
  /** Undefined: it prepares statements, except through a pooler. */
  readonly prepare: boolean | undefined;
}

/** Options of {@link openPool}. */
interface PoolOptions {
  /** The maximum number of connections. */
  readonly max: number;
  readonly prepare?: boolean | undefined;
  /** Another URL, for the connection that listens. */
  readonly listen?: string | undefined;
}

/** Opens a pool with the package `pg`. */
export async function openPool(
  url: string,
  { max, prepare, listen = url }: PoolOptions,
): Promise<OpenPool> {
  const { Pool } = await loadDriver();
  const pool = new Pool({ ...options, connectionString: url, max, allowExitOnIdle: true });
  // Without a listener, an idle connection that breaks would end the process. The pool has dropped
  // that connection already, and the next call opens another one.
  pool.on("error", () => {});
  // The pool does not listen from the moment it hands out a new connection. A server that accepts the
  // connection and announces its shutdown in the same packet would go unheard.
  pool.on("connect", (client) => client.on("error", () => {}));
  return {
    pool,
    own: { names: new StatementNames(), prepare },
    end: () => pool.end(),
    newClient: (overrides) => clientOf(listen, overrides),
  };
}

async function clientOf(connectionString: string, overrides?: object): Promise<NotifiedClient> {
  const { Client } = await loadDriver();
  return new Client({ ...options, connectionString, ...overrides });
}

// None of these is a startup parameter that a pooler may refuse.
const options = {
  application_name: "rpc-session",
  connectionTimeoutMillis: 5_000,
  // For a server that does not answer at all. A server that answers ends a statement first.
  query_timeout: 10_000,
  keepAlive: true,
};

/**
 * Uses a pool that belongs to the caller, and never closes it.
 *
 * @param listen another URL, for the connection that listens
 */
export function borrowPool(pool: PostgresPool, listen?: string): OpenPool {
  const end = async (): Promise<void> => {};
  if (listen !== undefined) {
    return { pool, end, newClient: (overrides) => clientOf(listen, overrides) };
  }
  // pg.Pool makes its own connections in this way. A connection taken out of it for good might be its
  // last one, and would keep its owner from ending it.
  const { Client, options: given } = pool as Partial<ClientFactory>;
  return typeof Client === "function" && given !== undefined
    ? { pool, end, newClient: async (overrides) => new Client({ ...given, ...overrides }) }
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
export async function connectWithoutLimits({
  pool,
  newClient,
}: OpenPool): Promise<MigrationConnection> {
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
  try {
    await client.connect();
    // The pool may set its search path on each connection: the tables belong where calls find them.
    await client.query("select set_config('search_path', $1, false) where pg_backend_pid() = $2", [
      await searchPathOf(pool),
      client.processID ?? 0,
    ]);
  } catch (error) {
    client.end().catch(() => {});
    throw error;
  }
  return {
    ...(client.processID == null ? {} : { processID: client.processID }),
    query: async (text, values) => (await client.query(text, values)).rows,
    release: () => void client.end().catch(() => {}),
  };
}

async function searchPathOf(pool: PostgresPool): Promise<string> {
  const client = await pool.connect();
  let failed = true;
  try {
    const { rows } = await client.query("select current_setting('search_path') as path", []);
    failed = false;
    return (rows[0] as { readonly path: string }).path;
  } finally {
    client.release(failed);
  }
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
export class StatementNames {
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
