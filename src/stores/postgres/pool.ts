import type { PostgresDialectConfig } from "kysely";
import type { Pool, PoolClient } from "pg";
import type { NotifiedClient } from "./push.ts";

/** What a store needs of a pool of connections. `pg.Pool` fits, and what has its shape. */
export interface PostgresPool {
  connect(): Promise<PostgresPoolClient>;
}

/** A connection taken out of a {@link PostgresPool}. */
export interface PostgresPoolClient {
  query(text: string, values: unknown[]): Promise<PostgresResult>;
  /** Gives the connection back; with true, it is closed instead of used again. */
  release(destroy?: boolean): void;
  on?(event: "error", listener: (error: Error) => void): unknown;
  off?(event: "error", listener: (error: Error) => void): unknown;
}

/** What a statement gives. */
export interface PostgresResult {
  readonly command: string;
  readonly rowCount: number | null;
  readonly rows: unknown[];
}

/**
 * A pool that prepares what it runs, once for each connection: to parse and to plan a statement costs
 * the server more than to run it. Only for connections that lead to the server itself, where a
 * prepared statement is still there the next time.
 */
export function preparing(pool: Pool): PostgresPool {
  const names = createStatementNames();
  return { connect: async () => preparingClient(await pool.connect(), names) };
}

/**
 * Whether a prepared statement was refused because a migration, of another server perhaps, has
 * changed the columns under it: nothing was run.
 */
export function isStalePlan(error: unknown): boolean {
  const { code, routine } = (error ?? {}) as { code?: unknown; routine?: unknown };
  return code === "0A000" && routine === "RevalidateCachedQuery";
}

/** Names of prepared statements, by their text. */
interface StatementNames {
  /** Undefined for what is not worth a name: too many have one, or there is nothing to plan. */
  of(text: string, values: readonly unknown[]): string | undefined;
  /** Gives every statement another name from now on, so that all connections prepare it anew. */
  renew(): void;
}

/** Statements that are prepared at most; those of the store are fewer, whatever it does. */
const preparedMax = 100;

function createStatementNames(): StatementNames {
  const names = new Map<string, string>();
  let given = 0;
  return {
    of(text, values) {
      if (values.length > 0 && names.size < preparedMax && !names.has(text)) {
        names.set(text, `rpcsession_${given++}`);
      }
      return names.get(text);
    },
    renew: () => names.clear(),
  };
}

function preparingClient(client: PoolClient, names: StatementNames): PostgresPoolClient {
  return {
    async query(text, values) {
      const name = names.of(text, values);
      if (name === undefined) {
        return client.query(text, values);
      }
      try {
        return await client.query({ name, text, values });
      } catch (error) {
        if (isStalePlan(error)) {
          names.renew();
        }
        throw error;
      }
    },
    release: (destroy) => client.release(destroy),
    on: (event, listener) => client.on(event, listener),
    off: (event, listener) => client.off(event, listener),
  };
}

/** A pool, and how it is closed by who opened it. */
export interface OpenPool {
  readonly pool: PostgresPool;
  readonly end: () => Promise<void>;
  /** Makes a client beside the pool, not connected yet; absent where the pool does not tell how. */
  readonly newClient?: () => Promise<NotifiedClient>;
}

/** Opens a pool of at most `max` connections by the package `pg`. */
export async function openPool(url: string, max: number): Promise<OpenPool> {
  const { Client, Pool } = await loadDriver();
  const options = { application_name: "rpc-session", ...limits, connectionString: url };
  const pool = new Pool({ ...options, max, allowExitOnIdle: true });
  // Without a listener, a connection that breaks while nobody uses it would end the process. The
  // pool has dropped it by then, and the next call opens another one.
  pool.on("error", () => {});
  // Nor does the pool listen from the moment it hands out a new connection: a server that lets us in
  // and says in the same packet that it goes down would be heard by nobody.
  pool.on("connect", (client) => client.on("error", () => {}));
  const prepared = preparing(pool);
  return { pool: prepared, end: () => pool.end(), newClient: async () => new Client(options) };
}

/** A pool of somebody else's, which is never closed here. */
export function borrowPool(pool: PostgresPool): OpenPool {
  const end = async (): Promise<void> => {};
  // pg.Pool makes its own connections in this way. One of them, taken out for good, might be its
  // last, and would keep its owner from ending it.
  const { Client, options } = pool as Partial<ClientFactory>;
  return typeof Client === "function" && options !== undefined
    ? { pool, end, newClient: async () => new Client(options) }
    : { pool, end };
}

/** What a pg.Pool has beside what is asked of a pool. */
interface ClientFactory {
  readonly Client: new (options: object) => NotifiedClient;
  readonly options: object;
}

/** What Kysely's dialect needs of a pool. */
export function forKysely({ pool, end }: OpenPool): KyselyPool {
  return { options: {}, end, connect: async () => lend(await pool.connect()) };
}

type KyselyPool = Exclude<PostgresDialectConfig["pool"], (...args: never[]) => unknown>;
type KyselyClient = Awaited<ReturnType<KyselyPool["connect"]>>;

// A statement of ours takes milliseconds: one that takes this long is stuck. The server ends it
// first; the second limit is for a server that does not answer at all.
const limits = {
  connectionTimeoutMillis: 5_000,
  statement_timeout: 5_000,
  idle_in_transaction_session_timeout: 5_000,
  query_timeout: 10_000,
  keepAlive: true,
};

function lend(client: PostgresPoolClient): KyselyClient {
  let broken = false;
  // The pool listens only while it has the connection itself, and an error without any listener
  // would end the process. The statement that is under way rejects with it, too.
  const onError = (): void => {
    broken = true;
  };
  client.on?.("error", onError);
  const query = async (text: string, values: readonly unknown[]): Promise<PostgresResult> => {
    try {
      return await client.query(text, [...values]);
    } catch (error) {
      broken ||= !isHarmless(error);
      throw error;
    }
  };
  return {
    query: query as KyselyClient["query"],
    release(destroy) {
      client.release(destroy === true || broken);
      client.off?.("error", onError);
    },
  };
}

/**
 * Whether the connection is good after an error: a value or a statement that was refused, a conflict,
 * a statement that took too long. After any other one, or none of the server's own, it may be in the
 * middle of an answer, about to close, or lead to a server that is no longer the primary.
 */
function isHarmless(error: unknown): boolean {
  const { code, severity } = (error ?? {}) as { code?: unknown; severity?: unknown };
  return typeof severity === "string" && /^(?:2[23]|4[02]|57014)/.test(String(code));
}

async function loadDriver(): Promise<Pick<typeof import("pg"), "Client" | "Pool">> {
  try {
    return (await import("pg")).default;
  } catch (cause) {
    throw new Error(
      "postgresStore: to connect to a URL, install the package pg (npm install pg); or give a pool",
      { cause },
    );
  }
}
