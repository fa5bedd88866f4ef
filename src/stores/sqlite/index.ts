import { closeSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Kysely, SqliteDialect, sql } from "kysely";
import type { SessionStore } from "../../engine/store.ts";
import { readNumberedChanges } from "../sql/changes.ts";
import type { SqlDatabase, SqlSchema } from "../sql/schema.ts";
import { sqlStore } from "../sql/store.ts";
import { forKysely, loadSqlite, openSqlite, untilFree } from "./driver.ts";
import { watchFile } from "./push.ts";
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
  return sqlStore({
    name: "sqliteStore",
    async connect({ clock }) {
      createFile(path);
      const database = await untilFree(clock, () => openSqlite(Database, path));
      return {
        db: new Kysely<SqlSchema>({
          dialect: new SqliteDialect({ database: forKysely(database) }),
        }),
        // The process's clock is the store's: a bound value, taken as the statement is made.
        now: () => sql<number>`cast(${clock.now()} as bigint)`,
        dialect: "sqlite",
        attempt: (work) => untilFree(clock, work),
        listen: (wake) => watchFile({ clock, wake }, () => new Database(path)),
      };
    },
    readChanges: readNumberedChanges,
    async secret(database) {
      // In this order: rows that are there now were made under a secret that is there now.
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
async function hasRows({ db }: SqlDatabase): Promise<boolean> {
  const rows = await db
    .selectFrom("rpcsession_sessions")
    .select("id")
    .unionAll(db.selectFrom("rpcsession_signing_keys").select("kid as id"))
    .limit(1)
    .execute();
  return rows.length > 0;
}
