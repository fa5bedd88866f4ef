import type { PoolClient } from "pg";
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
  readonly end: () => Promise<void>;
  /** Makes a client outside of the pool, not connected yet; absent if the pool does not reveal how. */
  readonly newClient?: () => Promise<NotifiedClient>;
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
  const names = new StatementNames();
  return {
    pool: { connect: async () => new PreparingClient(await pool.connect(), names) },
    end: () => pool.end(),
    newClient: async () => new Client(options),
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
    ? { pool, end, newClient: async () => new Client(options) }
    : { pool, end };
}

/** The members of `pg.Pool` that the store does not require from a pool. */
interface ClientFactory {
  readonly Client: new (options: object) => NotifiedClient;
  readonly options: object;
}

/**
 * A client that prepares its statements, each once per connection: to parse and plan a statement costs
 * the server more than to run it. Only for connections that lead straight to the server. Behind a
 * pooler, a prepared statement may be gone the next time.
 */
class PreparingClient implements PostgresPoolClient {
  readonly #client: PoolClient;
  readonly #names: StatementNames;

  constructor(client: PoolClient, names: StatementNames) {
    this.#client = client;
    this.#names = names;
  }

  async query(text: string, values: unknown[]): Promise<PostgresResult> {
    const name = this.#names.of(text, values);
    if (name === undefined) {
      return this.#client.query(text, values);
    }
    try {
      return await this.#client.query({ name, text, values });
    } catch (error) {
      if (isStalePlan(error)) {
        this.#names.renew();
      }
      throw error;
    }
  }

  release(destroy?: boolean): void {
    this.#client.release(destroy);
  }

  on(event: "error", listener: (error: Error) => void): void {
    this.#client.on(event, listener);
  }

  off(event: "error", listener: (error: Error) => void): void {
    this.#client.off(event, listener);
  }
}

/** At most this many statements are prepared; the store has fewer, whatever it does. */
const preparedMax = 100;

/** The names of the prepared statements of a pool, by their text. */
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

/**
 * Whether the server refused a prepared statement because a migration, perhaps of another server,
 * changed the columns under it. Nothing was run.
 */
export function isStalePlan(error: unknown): boolean {
  const { code, routine } = (error ?? {}) as { code?: unknown; routine?: unknown };
  return code === "0A000" && routine === "RevalidateCachedQuery";
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
