import { closeSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { SessionStore } from "../../engine/store.ts";
import type { SqlDatabase } from "../sql/database.ts";
import { sql } from "../sql/statement.ts";
import { SqlStore } from "../sql/store.ts";
import { SqliteConnections } from "./connections.ts";
import { sqliteDialect } from "./dialect.ts";
import { loadSqlite, openSqlite, untilFree } from "./driver.ts";
import { keepSecret } from "./secret.ts";

/**
 * Sessions in a SQLite file, by `node:sqlite`: for one server with a disk of its own.
 *
 * - A change that was acknowledged survives a loss of power (WAL, `synchronous = full`).
 * - `<file>.secret` holds the secret under which the sessions were made. Back up both, and
 *   keep the copies apart: without it the store refuses to open, and who has both can forge sessions.
 * - Both are created for their owner alone (mode 0600); an existing file keeps its mode.
 * - Several processes may share the file. A write waits about two seconds for another process's,
 *   then rejects. What another process revoked is known here within about 100 ms, by looking whether
 *   the file has changed.
 * - Its clock is that of the first engine that opens it.
 * - Sessions are dropped 24 h after their end, entries of the change log after 2 h.
 *
 * @param file its path; the folder must exist
 * @throws TypeError when `file` names no file: `""`, `":memory:"`, a `file:` URL
 * @throws Error when this runtime has no `node:sqlite` (Node.js 22.13 or newer has)
 */
export function sqliteStore(file: string): SessionStore {
  checkFile(file);
  const path = resolve(file);
  const Database = loadSqlite("sqliteStore");
  return new SqlStore({
    name: "sqliteStore",
    dialect: sqliteDialect,
    async connect({ clock }) {
      createFile(path);
      const database = await untilFree(clock, () => openSqlite(Database, path));
      return new SqliteConnections(database, clock, () => new Database(path));
    },
    async secret(database) {
      // In this order: the secret of every row that exists now also exists now.
      const needed = await hasRows(database);
      return keepSecret(`${path}.secret`, needed);
    },
  });
}

function checkFile(file: string): void {
  if (typeof file !== "string" || file === "" || file === ":memory:" || /^file:/i.test(file)) {
    throw new TypeError(
      `sqliteStore: ${JSON.stringify(file)} is no path of a file; write sqliteStore("sessions.db"), or use memoryStore() to keep nothing`,
    );
  }
}

/** Creates an empty file, which is an empty database, since SQLite would let others read it. */
function createFile(path: string): void {
  try {
    // Never opens a file that exists: closing it would drop the locks that SQLite has on it for
    // other stores of this process.
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") {
      throw new Error(`sqliteStore: the folder ${dirname(path)} does not exist; create it first`);
    }
    if (code !== "EEXIST") {
      throw new Error(`sqliteStore: ${path} cannot be created`, { cause: error });
    }
  }
}

/** Whether the database holds anything that was made under the secret. */
async function hasRows(database: SqlDatabase): Promise<boolean> {
  const row = await database.row(
    sql`select id from rpcsession_sessions
      union all select kid as id from rpcsession_signing_keys
      limit 1`,
  );
  return row !== undefined;
}
