import type { DatabaseSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import { retry } from "../common.ts";

/**
 * The class of `node:sqlite`, loaded here and not by an import, so that this package can be
 * imported where it is missing.
 *
 * @throws Error when this runtime has no `node:sqlite`
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

/** Opens a database file so that what it acknowledged survives a loss of power. */
export function openSqlite(Database: typeof DatabaseSync, file: string): DatabaseSync {
  const database = new Database(file);
  try {
    // First, since the change to WAL already waits for others.
    database.exec(`pragma busy_timeout = ${blockingMs}`);
    const mode = database.prepare("pragma journal_mode = wal").get();
    if (mode?.journal_mode !== "wal") {
      throw new Error(`the file system of ${file} does not support SQLite's WAL mode`);
    }
    database.exec("pragma synchronous = full");
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/**
 * Does a unit of work, and again after growing pauses while another process holds the write lock.
 * The work must do all or nothing. After about two seconds the error of SQLite is let through.
 */
export function untilFree<T>(clock: Clock, work: () => Promise<T> | T): Promise<T> {
  return retry({ clock, pauses, isTransient: isBusy }, work);
}

type SqliteModule = typeof import("node:sqlite");

// SQLite blocks the thread, and with it every other call, for as long as this: enough for a write of
// another process that is under way. For longer ones the pauses wait, without blocking.
const blockingMs = 20;
const pauses = [5, 10, 20, 40, 80, 160, 320, 640, 640];
const sqliteBusy = 5;

/** The result codes SQLITE_BUSY, and the extended ones that contain it, such as 517. */
function isBusy(error: unknown): boolean {
  const code = (error as { errcode?: unknown } | undefined)?.errcode;
  return typeof code === "number" && (code & 0xff) === sqliteBusy;
}

/** Node 22.13 to 24.14 call node:sqlite experimental when it is loaded: not news to our users. */
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
    // Synchronous, so nobody else meets the replacement.
    return load();
  } finally {
    Object.defineProperty(process, "emitWarning", emitWarning);
  }
}
