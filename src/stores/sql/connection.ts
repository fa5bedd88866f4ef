import type { Changes, SessionStore, StoreContext } from "../../engine/store.ts";
import type { Push } from "../push.ts";
import type { ChangesRead } from "./changes.ts";
import { migrate } from "./migrations.ts";
import type { SqlDatabase } from "./schema.ts";

/** What a {@link sqlStore} is built on. */
export interface SqlBackend {
  /** The store's name, for messages. */
  readonly name: string;
  /** Connects. Called once, and again after it rejected or the store was closed. */
  connect(context: StoreContext): Promise<SqlDatabase>;
  /** Reads the change log, in the way that fits how the database orders its commits. */
  readonly readChanges: (database: SqlDatabase, read: ChangesRead) => Promise<Changes>;
  /** The secret kept beside the sessions, by stores that have a place for it. */
  readonly secret?: (database: SqlDatabase) => Promise<Uint8Array>;
}

/** A database that is open, or not. */
export interface Connection extends Pick<SessionStore, "open" | "close"> {
  /** Hears of what other processes append, from now on until the store is closed. */
  listen(): Promise<void>;
  /** Whether it does at this moment; undefined where they cannot be heard. */
  pushed(): boolean | undefined;
  /** Does a unit of work on the open database. */
  use<T>(work: (database: SqlDatabase) => Promise<T>): Promise<T>;
}

/** @param wake called when other processes may have appended to the change log */
export function connection(backend: SqlBackend, wake: () => void): Connection {
  return new SharedConnection(backend, wake);
}

class SharedConnection implements Connection {
  readonly #backend: SqlBackend;
  readonly #wake: () => void;
  #opening: Promise<SqlDatabase> | undefined;
  #push: Push | undefined;
  #holders = 0;

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
      // Only its own failure: by now another call may have begun to open it again.
      if (this.#opening === mine) {
        this.#opening = undefined;
      }
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#holders = Math.max(0, this.#holders - 1);
    if (this.#holders > 0) {
      return;
    }
    const open = this.#opening;
    this.#opening = undefined;
    this.#push?.close();
    this.#push = undefined;
    const database = await open?.catch(() => undefined);
    await database?.db.destroy();
  }

  async use<T>(work: (database: SqlDatabase) => Promise<T>): Promise<T> {
    if (this.#opening === undefined) {
      throw new Error(`${this.#backend.name}: the store is not open`);
    }
    const database = await this.#opening;
    return database.attempt(() => work(database));
  }

  async listen(): Promise<void> {
    const open = this.#opening;
    const database = await open?.catch(() => undefined);
    // It may have been closed meanwhile.
    if (open === this.#opening) {
      this.#push ??= database?.listen?.(this.#wake);
    }
  }

  pushed(): boolean | undefined {
    return this.#push?.connected();
  }
}

async function openDatabase(backend: SqlBackend, context: StoreContext): Promise<SqlDatabase> {
  const database = await backend.connect(context);
  try {
    await database.attempt(() => migrate(backend.name, database));
    return database;
  } catch (error) {
    await database.db.destroy();
    throw error;
  }
}
