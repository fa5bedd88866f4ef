import type { Pool } from "pg";
import type { PostgresPool, PostgresResult } from "../../src/stores/postgres/index.ts";

/** Decides what becomes of a statement: it is sent when this resolves, and fails when it rejects. */
export type BeforeStatement = (text: string) => Promise<void> | void;

/** A pool that is asked before each statement. */
export function watchedPool(pool: Pool, before: BeforeStatement): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      return {
        async query(text, values): Promise<PostgresResult> {
          await before(text);
          return client.query(text, values);
        },
        release: (destroy) => client.release(destroy),
        on: (event, listener) => client.on(event, listener),
        off: (event, listener) => client.off(event, listener),
      };
    },
  };
}

/** Holds every commit until it is let go. */
export function heldCommits() {
  let arrive = (): void => {};
  let letGo = (): void => {};
  const arrived = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  const go = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const before: BeforeStatement = async (text) => {
    if (text === "commit") {
      arrive();
      await go;
    }
  };
  return { before, arrived, letGo };
}

/** An error as the server gives it. */
export function serverError(code: string): Error {
  return Object.assign(new Error(`the server says ${code}`), { code, severity: "ERROR" });
}
