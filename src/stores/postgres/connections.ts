import type { PoolClient } from "pg";
import type { Clock } from "../../base/clock.ts";
import { randomId } from "../../base/crypto.ts";
import type { Retries } from "../common.ts";
import { type Push, PushConnection } from "../push.ts";
import type {
  BorrowedConnection,
  SqlBackend,
  SqlConnection,
  SqlConnections,
} from "../sql/database.ts";
import { type Sql, sql } from "../sql/statement.ts";
import { postgresDialect } from "./dialect.ts";
import { migrating } from "./migrating.ts";
import { connectForMigration } from "./migration-connections.ts";
import {
  connectWithoutLimits,
  type OpenPool,
  type PostgresPoolClient,
  type StatementNames,
} from "./pools.ts";
import { Announcer, listenWith } from "./push.ts";

/**
 * A PostgreSQL database, and how to reach it.
 *
 * @param open opens a pool, or returns one that is open
 * @param now the store's clock as SQL; tests pass one that stands still
 */
export function postgresBackend(
  open: () => Promise<OpenPool>,
  now: SqlConnections["now"] = databaseTime,
): SqlBackend {
  return {
    name: "postgresStore",
    dialect: postgresDialect,
    connect: async ({ clock }) => new PostgresConnections(await open(), clock, now),
  };
}

/** The connections of a pool, as the SQL store uses them. */
class PostgresConnections implements SqlConnections {
  readonly now: SqlConnections["now"];
  /** After a conflict, and after a migration changed a prepared statement. */
  readonly retries: Retries;
  /** Absent if the pool does not reveal how to connect outside of it. */
  readonly listen?: (wake: () => void) => Push;
  readonly announce: () => void;
  readonly #pool: OpenPool;
  readonly #announcer: Announcer;
  /** The clients that the pool has lent before, and whether each leads to a process of its own. */
  readonly #known = new WeakMap<PostgresPoolClient, Standing>();

  constructor(pool: OpenPool, clock: Clock, now: SqlConnections["now"]) {
    this.now = now;
    this.retries = {
      clock,
      pauses,
      isTransient: (error) => isConflict(error) || isStalePlan(error),
    };
    this.#pool = pool;
    const ask = (text: string, values: unknown[]) => this.query(text, values);
    const channel = { clock, ask, self: randomId(12) };
    this.#announcer = new Announcer(channel);
    this.announce = () => this.#announcer.announce();
    const { newClient } = pool;
    if (newClient !== undefined) {
      const open = listenWith(newClient, channel);
      this.listen = (wake) => new PushConnection({ clock, wake, open });
    }
  }

  async query(text: string, values: unknown[]): Promise<readonly unknown[]> {
    const { client, rows } = await this.#first(() => text, values, /^\s*select\b/.test(text));
    client.release();
    return rows;
  }

  async begin(statement: string): Promise<BorrowedConnection> {
    const begin = ({ standing }: BorrowedClient): string =>
      standing === "lent" ? `${statement}; ${limitsOfTransaction}` : statement;
    return (await this.#first(begin, [], true)).client;
  }

  async close(): Promise<void> {
    await this.#announcer.close();
    await this.#pool.end();
  }

  /**
   * Runs a statement on any connection, and returns the connection with it. A connection may have died
   * while it was idle, which shows only when it is used. Then a statement that changes nothing is
   * repeated, until a connection is fresh: the others of the pool have often died with it.
   */
  async #first(
    textFor: (client: BorrowedClient) => string,
    values: unknown[],
    changesNothing: boolean,
  ): Promise<{ readonly client: BorrowedClient; readonly rows: readonly unknown[] }> {
    for (let attempt = 0; ; attempt++) {
      const client = await this.#borrow();
      try {
        return { client, rows: await client.query(textFor(client), values) };
      } catch (error) {
        client.release();
        const mayRepeat = attempt === 0 || (client.wasIdle && attempt < maxDead);
        if (!changesNothing || !mayRepeat || !isLost(error)) {
          throw error;
        }
      }
    }
  }

  /** Takes a connection out of the pool. One of the store's own pool gets its limits the first time. */
  async #borrow(): Promise<BorrowedClient> {
    const { pool, own } = this.#pool;
    const client = await pool.connect();
    const known = this.#known.get(client);
    const borrowed = new BorrowedClient(client, own?.names, known !== undefined);
    try {
      borrowed.standing = known ?? (own && (await borrowed.limit())) ?? "foreign";
    } catch (error) {
      borrowed.release();
      throw error;
    }
    borrowed.prepares = own?.prepare ?? borrowed.standing === "direct";
    this.#known.set(client, borrowed.standing);
    return borrowed;
  }

  forMigration(
    isDone: (connection: SqlConnection) => Promise<boolean>,
  ): Promise<SqlConnections | undefined> {
    const { isLockTimeout } = migrating;
    return connectForMigration(() => connectWithoutLimits(this.#pool), this, {
      isLockTimeout,
      isDone,
    });
  }
}

/**
 * Where a connection leads: `direct` to a process of the server that is nobody else's; `lent` through a
 * pooler; or it is `foreign`, of a pool that is the caller's.
 */
type Standing = "direct" | "lent" | "foreign";

/** Dead connections that one statement meets at most. */
const maxDead = 100;

/** Milliseconds before each further attempt. */
const pauses = [5, 10, 20, 40, 80];

/**
 * The server's clock when it received the statement. It is the same everywhere in the statement, so a
 * record agrees with the time returned with it. `now()` would be the begin of the transaction, and
 * `clock_timestamp()` would differ from place to place. A statement has it up to ten times, and `extract`,
 * which computes with decimals, takes several times as long as `date_part`. Floating point errs by less than
 * a microsecond.
 */
export const databaseTime: Sql = sql`floor(date_part('epoch', statement_timestamp()) * 1000)::bigint`;

// Our statements take milliseconds; one that takes this long is stuck.
const limit = "5s";
const limitsOfSession = `select set_config('statement_timeout', '${limit}', false),
    set_config('idle_in_transaction_session_timeout', '${limit}', false)
    where pg_backend_pid() = $1`;
const limitsOfTransaction = `set local statement_timeout = '${limit}'; set local idle_in_transaction_session_timeout = '${limit}'`;

/** A client of `pg`, with a member that its types leave out. */
interface PoolClientOfPg {
  readonly processID: number | null;
}

/** A client taken out of the pool. It is not used again after an error that may have broken it. */
class BorrowedClient implements BorrowedConnection {
  standing: Standing = "foreign";
  /** Whether statements are prepared under a name. */
  prepares = false;
  /** Whether the pool has lent the connection before. */
  readonly wasIdle: boolean;
  readonly #client: PostgresPoolClient;
  readonly #names: StatementNames | undefined;
  #broken = false;
  // The pool of a caller listens only while it has the connection itself, and an error without any listener
  // would end the process. The running statement rejects with the same error.
  readonly #onError = (): void => {
    this.#broken = true;
  };

  /** @param names the names under which statements may be prepared */
  constructor(client: PostgresPoolClient, names: StatementNames | undefined, wasIdle: boolean) {
    this.#client = client;
    this.#names = names;
    this.wasIdle = wasIdle;
    // The connections of the store's own pool have a listener all the time; see `openPool`.
    if (names === undefined) {
      client.on?.("error", this.#onError);
    }
  }

  /**
   * Limits the statements of this connection, unless a pooler may lend its server process to others:
   * it announces another process than the one that answers.
   */
  async limit(): Promise<Standing> {
    const { processID } = this.#client as Partial<PoolClientOfPg>;
    const rows = await this.query(limitsOfSession, [processID ?? 0]);
    return rows.length > 0 ? "direct" : "lent";
  }

  async query(text: string, values: unknown[]): Promise<readonly unknown[]> {
    const name = this.prepares ? this.#names?.of(text, values) : undefined;
    try {
      const result =
        name === undefined
          ? await this.#client.query(text, values)
          : // Only a pool of `pg` comes with names.
            await (this.#client as PoolClient).query({ name, text, values });
      return result.rows;
    } catch (error) {
      if (isStalePlan(error)) {
        this.#names?.renew();
      }
      // A connection that cannot roll back may still be within its transaction.
      this.#broken ||= text === "rollback" || !isHarmless(error);
      throw error;
    }
  }

  release(): void {
    this.#client.release(this.#broken);
    if (this.#names === undefined) {
      this.#client.off?.("error", this.#onError);
    }
  }
}

/**
 * Whether the connection can still be used after an error: the server refused a value or a statement,
 * reported a conflict, or ended a statement that took too long. After any other error the connection
 * may be in the middle of an answer, about to close, or lead to a server that is no longer the primary.
 */
function isHarmless(error: unknown): boolean {
  const { code, severity } = (error ?? {}) as { code?: unknown; severity?: unknown };
  return typeof severity === "string" && /^(?:2[23]|4[02]|57014)/.test(String(code));
}

/** Whether the connection broke before it answered; not whether an answer took too long. */
function isLost(error: unknown): boolean {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  return (
    /^(?:ECONNRESET|EPIPE|57P0[123]|08)/.test(String(code)) ||
    /^Connection terminated|not queryable$/.test(String(message))
  );
}

/** A serialization failure or a deadlock: the transaction was rolled back in favour of others. */
function isConflict(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: unknown };
  return code === "40001" || code === "40P01";
}

/**
 * Whether the server refused a prepared statement because a migration, perhaps of another server,
 * changed the columns under it. Nothing was run.
 */
function isStalePlan(error: unknown): boolean {
  const { code, routine } = (error ?? {}) as { code?: unknown; routine?: unknown };
  return code === "0A000" && routine === "RevalidateCachedQuery";
}
