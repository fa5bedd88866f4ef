import { statSync } from "node:fs";
import type { DatabaseSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import type { Retries } from "../common.ts";

/**
 * Loads the class of `node:sqlite`. It is not imported, so that this package can be imported in
 * runtimes without it.
 *
 * @throws Error when the runtime has no `node:sqlite`
 */
export function loadSqlite(store: string): typeof DatabaseSync {
  const sqlite = withoutWarning(
    () => globalThis.process?.getBuiltinModule?.("node:sqlite") as SqliteModule | undefined,
  );
  if (sqlite === undefined) {
    throw new Error(`${store}: this runtime has no node:sqlite; use Node.js 22.13 or newer`);
  }
  return sqlite.DatabaseSync;
}

/** Opens a database file so that acknowledged changes survive a power failure. */
export function openSqlite(Database: typeof DatabaseSync, file: string): DatabaseSync {
  const database = new Database(file);
  try {
    // This comes first, because changing to WAL mode already waits for other processes.
    database.exec(`pragma busy_timeout = ${blockingMs}`);
    const mode = database.prepare("pragma journal_mode = wal").get();
    if (mode?.journal_mode !== "wal") {
      throw new Error(
        `sqliteStore: the file system of ${file} does not support SQLite's WAL mode; use a local disk`,
      );
    }
    database.exec("pragma synchronous = full");
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/**
 * Returns a function that throws when the path no longer leads to the file that is there now. Without
 * it, a server would go on writing to a file that was deleted, and lose everything when it stops.
 */
export function watchForLoss(path: string): () => void {
  const opened = identityOf(path);
  return () => {
    if (identityOf(path) !== opened) {
      throw new Error(
        `sqliteStore: ${path} was deleted or replaced while it was open, so changes would be lost; put the file back, or restart the server to use what is there now`,
      );
    }
  };
}

function identityOf(path: string): string | undefined {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? undefined : `${found.dev} ${found.ino}`;
}

/**
 * Repeats a unit of work after growing pauses while another process holds the write lock. After about
 * two seconds it rejects with SQLite's error.
 */
export function untilFree(clock: Clock): Retries {
  return { clock, pauses, isTransient: isBusy };
}

/**
 * The same for a step of a migration, for about twenty seconds: a process that starts at the same time may
 * take one step after another, and on a slow disk each takes long.
 */
export function untilMigrated(clock: Clock): Retries {
  return { ...untilFree(clock), pauses: [...pauses, ...new Array<number>(72).fill(250)] };
}

type SqliteModule = typeof import("node:sqlite");

// SQLite itself blocks the thread, and with it every other call, for this long: enough for a write that
// another process has begun. The pauses wait for longer writes, without blocking.
const blockingMs = 20;
const pauses = [5, 10, 20, 40, 80, 160, 320, 640, 640];
const sqliteBusy = 5;

/** Whether an error is SQLITE_BUSY, or an extended code that contains it, such as 517. */
export function isBusy(error: unknown): boolean {
  const code = (error as { errcode?: unknown } | undefined)?.errcode;
  return typeof code === "number" && (code & 0xff) === sqliteBusy;
}

/** Suppresses the warning of Node 22.13 to 24.14 that node:sqlite is experimental. */
function withoutWarning<T>(load: () => T): T {
  const { process } = globalThis;
  const emitWarning = process && Object.getOwnPropertyDescriptor(process, "emitWarning");
  if (emitWarning === undefined) {
    return load();
  }
  process.emitWarning = (...warning: unknown[]) => {
    if (warning[1] !== "ExperimentalWarning") {
      Reflect.apply(emitWarning.value as () => void, process, warning);
    }
  };
  try {
    // Synchronous, so no other code sees the replacement.
    return load();
  } finally {
    Object.defineProperty(process, "emitWarning", emitWarning);
  }
}
