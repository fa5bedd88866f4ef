import { closeSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { withoutCredentials } from "../../base/checks.ts";
import type { SessionStore } from "../../engine/store.ts";
import { retry } from "../common.ts";
import type { SqlDatabase } from "../sql/database.ts";
import { SqlStore } from "../sql/store.ts";
import { SqliteConnections } from "./connections.ts";
import { sqliteDialect } from "./dialect.ts";
import { loadSqlite, openSqlite, untilFree, watchForLoss } from "./driver.ts";
import { keepSecret } from "./secret.ts";

/**
 * Keeps sessions in a SQLite file with `node:sqlite`, for one server with a disk of its own.
 *
 * - **Durability.** An acknowledged change survives a power failure (WAL, `synchronous = full`).
 * - **Backups.** Use `vacuum into 'copy.db'`, while servers run. A copy of the file alone lacks what is
 *   still in the write-ahead log.
 * - **Deleted file.** If the file is deleted or replaced while it is open, every call rejects until it is
 *   back or the server is restarted. That is an outage; it signs nobody out.
 * - **Secret.** `<file>.secret` holds the secret that the sessions depend on. Back up both files, and
 *   keep the copies apart: without the secret the store refuses to open, and somebody who has both can
 *   forge sessions. Both files are created with mode 0600; an existing file keeps its mode.
 * - **Processes.** Several processes may share the file. A write waits up to about two seconds for
 *   another process, then rejects. The store polls the file, so revocations by other processes take
 *   effect within about 100 ms.
 * - **Clock.** All times come from the clock of the first engine that opens the store.
 * - **Cleaning.** Sessions are removed 24 h to 28 h after their end, entries of the change log
 *   after 2 h.
 *
 * @example sqliteStore("sessions.db")
 * @param file the path of the file; its folder must exist
 * @throws TypeError when `file` is not a path: `""`, `":memory:"` or a `file:` URL
 * @throws Error when the runtime has no `node:sqlite`, which needs Node.js 22.13 or newer
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
      const database = await retry(untilFree(clock), openSqlite, Database, path);
      const openAnother = () => new Database(path);
      return new SqliteConnections({ database, clock, openAnother, check: watchForLoss(path) });
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
      `sqliteStore: ${JSON.stringify(file)} is not the path of a file; use a path such as "sessions.db", or memoryStore() to keep sessions in memory`,
    );
  }
}

/** Creates an empty file, which is an empty database. SQLite would create it readable for others. */
function createFile(path: string): void {
  try {
    // "wx" never opens an existing file: closing it would drop the locks that SQLite holds on it for
    // other stores of this process.
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") {
      // The path may be the URL of another database, with its password.
      const folder = withoutCredentials(dirname(path));
      throw new Error(`sqliteStore: the folder ${folder} does not exist; create it first`);
    }
    if (code !== "EEXIST") {
      throw new Error(`sqliteStore: cannot create ${path}; see the cause`, { cause: error });
    }
  }
}

/** Whether the database holds anything that was made under the secret. */
async function hasRows(database: SqlDatabase): Promise<boolean> {
  const row = await database.row`select id from rpcsession_sessions
      union all select kid as id from rpcsession_signing_keys
      limit 1`;
  return row !== undefined;
}
