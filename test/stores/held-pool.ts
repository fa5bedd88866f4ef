import type { Pool } from "pg";
import type { PostgresPool, PostgresResult } from "../../src/stores/postgres/index.ts";

/** Runs before each statement. The statement is sent when this resolves, and fails if this rejects. */
export type BeforeStatement = (text: string) => Promise<void> | void;

/** A pool that calls `before` before each statement. */
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

/** Holds every commit until `letGo` is called. */
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

/** An error in the form in which `pg` reports the server's. */
export function serverError(code: string): Error {
  return Object.assign(new Error(`server error ${code}`), { code, severity: "ERROR" });
}
