import type { Pool, PoolClient } from "pg";
import type { PostgresPool, PostgresPoolClient } from "./postgres-driver.ts";

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
