import type { SessionStore, StoreContext } from "../../engine/store.ts";
import type { Push } from "../push.ts";
import { type SqlBackend, type SqlConnections, SqlDatabase } from "./database.ts";
import { migrate } from "./migrate.ts";

/**
 * The database of a store. Several engines may open it: the first one connects, with its clock, and
 * the last one that closes it disconnects. Then it may be opened again.
 */
export class SharedDatabase implements Pick<SessionStore, "open" | "close"> {
  readonly #backend: SqlBackend;
  readonly #wake: () => void;
  #opening: Promise<Open> | undefined;
  #push: Push | undefined;
  #holders = 0;

  /** @param wake called when other processes may have appended to the change log */
  constructor(backend: SqlBackend, wake: () => void) {
    this.#backend = backend;
    this.#wake = wake;
  }

  async open(context: StoreContext): Promise<void> {
    this.#opening ??= openDatabase(this.#backend, context);
    const mine = this.#opening;
    try {
      await mine;
      this.#holders++;
    } catch (error) {
      // Forgets only the attempt that failed: another call may have started a new one meanwhile.
      if (this.#opening === mine) {
        this.#opening = undefined;
      }
      throw error;
    }
  }

  /** Does a unit of work on the open database, and again when the database asks for that. */
  async use<T>(work: (database: SqlDatabase) => Promise<T>): Promise<T> {
    if (this.#opening === undefined) {
      throw new Error(`${this.#backend.name}: the store is not open`);
    }
    const { connections, database } = await this.#opening;
    return connections.attempt(() => work(database));
  }

  /** Listens for what other processes append, until the store is closed. Does nothing a second time. */
  async listen(): Promise<void> {
    const opening = this.#opening;
    const open = await opening?.catch(() => undefined);
    // The store may have been closed meanwhile.
    if (opening === this.#opening) {
      this.#push ??= open?.connections.listen?.(this.#wake);
    }
  }

  /** Whether that works at this moment; undefined where other processes cannot be noticed. */
  pushed(): boolean | undefined {
    return this.#push?.connected();
  }

  async close(): Promise<void> {
    this.#holders = Math.max(0, this.#holders - 1);
    if (this.#holders > 0) {
      return;
    }
    const opening = this.#opening;
    this.#opening = undefined;
    this.#push?.close();
    this.#push = undefined;
    const open = await opening?.catch(() => undefined);
    await open?.connections.close();
  }
}

interface Open {
  readonly connections: SqlConnections;
  readonly database: SqlDatabase;
}

/** Opens a database: the whole story, apart from listening, which begins with the first listener. */
async function openDatabase(backend: SqlBackend, context: StoreContext): Promise<Open> {
  // 1. Connect: PostgreSQL makes or borrows a pool, SQLite opens the file.
  const connections = await backend.connect(context);
  try {
    // 2. Create the tables, bring them to this version, or refuse those of a newer one.
    const database = new SqlDatabase(backend.dialect, connections);
    await connections.attempt(() => migrate(backend.name, database));
    // 3. Statements are prepared by their connections, when they first run.
    return { connections, database };
  } catch (error) {
    await connections.close();
    throw error;
  }
}
