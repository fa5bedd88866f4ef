import { systemClock } from "../../base/clock.ts";
import type { BorrowedConnection, SqlConnection, SqlConnections } from "../sql/database.ts";

/** Milliseconds before a step waits for its lock again. Calls that queued behind it go on meanwhile. */
const pauses = [250, 1_000, 2_000];
/** Milliseconds between two attempts to become the only one that migrates. */
const askEvery = 250;

/** A connection for a migration. */
export interface MigrationConnection extends BorrowedConnection {
  /** The process of the server that it was told; undefined if that is not known. */
  readonly processID?: number;
}

/**
 * Opens two connections for a migration. One holds a lock in a transaction, so that the lock ends with
 * the connection, also behind a pooler. The other one does the work, some of which cannot be done in a
 * transaction.
 *
 * @param connect opens a connection, or takes one out of the pool for good
 * @param connections those for calls: the errors after which a step is repeated
 * @returns undefined if nothing is left to be done
 */
export async function connectForMigration(
  connect: () => Promise<MigrationConnection>,
  { now, retries }: Pick<SqlConnections, "now" | "retries">,
  { isLockTimeout, isDone }: MigrationRules,
): Promise<SqlConnections | undefined> {
  const { isTransient } = retries;
  // Another server holds the lock, whatever clock the sessions of this one have.
  const clock = systemClock;
  const holder = await connect();
  let worker: MigrationConnection | undefined;
  try {
    // 1. Become the only one that migrates, unless somebody else has done the work meanwhile. Ask again
    // and again: a statement that waits for the lock would hold a snapshot, and an index that is made
    // concurrently waits for all older snapshots.
    for (;;) {
      await holder.query("start transaction isolation level read committed", []);
      await holder.query(setLimits({ lockTimeout: "0", local: true }), []);
      if (await isOnly(holder)) {
        break;
      }
      // A transaction would keep its locks on the tables that it reads.
      await holder.query("rollback", []);
      if (await isDone(holder)) {
        holder.release();
        return undefined;
      }
      await new Promise<void>((resolve) => {
        clock.after(askEvery, resolve, true);
      });
    }
    // 2. Connect for the work. To wait for a lock blocks nobody where an index is made concurrently;
    // the transactions of steps set a shorter limit.
    const working = await connect();
    worker = working;
    // Through a pooler, the settings would stay on a connection of others.
    const own =
      working.processID === undefined ? "" : ` where pg_backend_pid() = ${working.processID}`;
    await working.query(`${setLimits({ lockTimeout: "10min", local: false })}${own}`, []);
    return {
      now,
      retries: {
        clock,
        pauses,
        isTransient: (error) => isTransient(error) || isLockTimeout(error),
      },
      query: (text, values) => working.query(text, values),
      begin: async (statement) => {
        await working.query(statement, []);
        return { ...working, release: () => {} };
      },
      close: async () => {
        working.release();
        await holder.query("rollback", []).catch(() => {});
        holder.release();
      },
    };
  } catch (error) {
    worker?.release();
    holder.release();
    throw error;
  }
}

/** What {@link connectForMigration} must know. */
interface MigrationRules {
  readonly isLockTimeout: (error: unknown) => boolean;
  /** Whether somebody else has done the work, as a connection sees it. */
  readonly isDone: (connection: SqlConnection) => Promise<boolean>;
}

async function isOnly(holder: BorrowedConnection): Promise<boolean> {
  // An arbitrary number that no other software should use.
  const [row] = await holder.query(
    "select pg_try_advisory_xact_lock(7237113926510472019) as locked",
    [],
  );
  return (row as { readonly locked: boolean }).locked;
}

interface Limits {
  readonly lockTimeout: string;
  /** Whether they hold until the end of the transaction, instead of the connection. */
  readonly local: boolean;
}

/** No limits but one for locks, whatever the defaults of the role and the database are. */
function setLimits({ lockTimeout, local }: Limits): string {
  const limits = {
    statement_timeout: "0",
    idle_in_transaction_session_timeout: "0",
    lock_timeout: lockTimeout,
  };
  const settings = Object.entries(limits).map(
    ([name, value]) => `set_config('${name}', '${value}', ${local})`,
  );
  return `select ${settings.join(", ")}`;
}
