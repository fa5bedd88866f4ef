import type { Changes, StoreContext } from "../../engine/store.ts";
import type { Push } from "../push.ts";
import { type Sql, type SqlValue, sql } from "./statement.ts";

/**
 * Everything in which the SQL of one database differs from that of another. There is one object per
 * database; the statements of this room ask it and never ask which database it is.
 */
export interface SqlDialect {
  /** PostgreSQL numbers its placeholders (`$1`), SQLite does not (`?`). */
  readonly placeholder: (position: number) => string;

  /**
   * Begins a transaction in which a statement that waited for a lock sees what was committed under
   * that lock. PostgreSQL must ask for this isolation level (`read committed`), because the default
   * is configurable. SQLite takes its only write lock here, because it refuses for good a transaction
   * that reads first and wants to write after another connection wrote.
   */
  readonly begin: string;

  /** The column `id` in the order of its bytes. PostgreSQL would sort by the rules of a language. */
  readonly idByBytes: Sql;

  /** Ends a select that locks its rows. SQLite has one writer at a time and needs no row locks. */
  readonly forUpdate: Sql;

  /** The same, but skips rows that another transaction has locked, so that cleaning waits for nobody. */
  readonly forUpdateSkipLocked: Sql;

  /** A table `one` with a column `value`: the strings of a JSON array. Each database has its own function. */
  readonly stringsOf: (jsonArray: string) => Sql;

  /**
   * Ends an insert into the change log: notifies the other servers when the transaction commits.
   * Empty in SQLite, where other processes poll the file.
   */
  readonly notifyOnCommit: Sql;

  /**
   * An expression that waits for a lock on an owner and holds it until the transaction ends; see
   * `owner-locks.ts`. Undefined where there is one writer at a time.
   */
  readonly ownerLock: ((kind: "tenant" | "user", id: string, hold: Hold) => Sql) | undefined;

  /**
   * Reads the change log from a cursor on; see `SessionStore.changes`. What a cursor must hold
   * depends on the order in which the database commits.
   */
  readonly readChanges: (database: SqlDatabase, read: ChangesRead) => Promise<Changes>;

  /** Returns a row if the table `rpcsession_migrations` exists. Each database has its own catalogue. */
  readonly migrationsTable: Sql;

  /**
   * Held while that table is created, because PostgreSQL's `create table if not exists` fails when
   * two run at once. Undefined where transactions run one at a time anyway.
   */
  readonly migrationLock: Sql | undefined;

  /**
   * The statements that lead from each version of the tables to the next, from version 1 on. Append
   * only: a step that was released never changes. Written out for each database, because column
   * types and the ways to alter a table differ.
   */
  readonly migrations: readonly (readonly string[])[];

  /** The database's clock in milliseconds, for migrations that are printed and run by hand. */
  readonly clockForPrint: string;
}

/** Whether others may hold the same lock at the same time. */
export type Hold = "shared" | "exclusive";

/** A read of the change log; see `SessionStore.changes`. */
export interface ChangesRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  /** Milliseconds. */
  readonly window: number;
}

/** What a SQL store is built on: a database, and how to reach it. */
export interface SqlBackend {
  /** The store's name, for messages. */
  readonly name: string;
  readonly dialect: SqlDialect;
  /** Connects. Called once, and again after it rejected or the store was closed. */
  connect(context: StoreContext): Promise<SqlConnections>;
  /** Returns the secret kept next to the sessions, in stores that have a place for one. */
  readonly secret?: (database: SqlDatabase) => Promise<Uint8Array>;
}

/** The connections to an open database. */
export interface SqlConnections {
  /** Lends a connection for as long as the work takes; nobody else uses it meanwhile. */
  lend<T>(work: (connection: SqlConnection) => Promise<T>): Promise<T>;
  /** Does a unit of work, all of it or nothing, and again when the database asks for that. */
  attempt<T>(work: () => Promise<T>): Promise<T>;
  /** The store's clock in milliseconds, as SQL. */
  now(): Sql;
  /** Starts to report what other processes append; absent where that cannot be noticed. */
  listen?(wake: () => void): Push;
  close(): Promise<void>;
}

/** One connection. */
export interface SqlConnection {
  /** Runs a statement and returns its rows. */
  query(text: string, values: SqlValue[]): Promise<readonly unknown[]>;
}

/** Runs statements, each on a connection of its own or all within one transaction. */
export class SqlDatabase {
  readonly dialect: SqlDialect;
  readonly #connections: Pick<SqlConnections, "lend" | "now">;

  constructor(dialect: SqlDialect, connections: Pick<SqlConnections, "lend" | "now">) {
    this.dialect = dialect;
    this.#connections = connections;
  }

  /** The store's clock in milliseconds, as SQL. Call it once for each statement. */
  now(): Sql {
    return this.#connections.now();
  }

  /** Runs a statement. `Row` states the columns that it returns. */
  async rows<Row>(statement: Sql): Promise<readonly Row[]> {
    const { text, values } = statement.render(this.dialect.placeholder);
    const rows = await this.#connections.lend((connection) => connection.query(text, values));
    return rows as readonly Row[];
  }

  /** Runs a statement that returns at most one row, or of which only the first is needed. */
  async row<Row>(statement: Sql): Promise<Row | undefined> {
    return (await this.rows<Row>(statement))[0];
  }

  /** Runs a statement of this package that binds nothing and returns nothing, such as a migration's. */
  async run(text: string): Promise<void> {
    await this.#connections.lend((connection) => connection.query(text, []));
  }

  /** Does a unit of work in one transaction: rolls back, and rejects, if the work rejects. */
  transaction<T>(work: (within: SqlDatabase) => Promise<T>): Promise<T> {
    return this.#connections.lend(async (connection) => {
      const lendAgain: SqlConnections["lend"] = (use) => use(connection);
      await connection.query(this.dialect.begin, []);
      try {
        const within = { lend: lendAgain, now: () => this.now() };
        const result = await work(new SqlDatabase(this.dialect, within));
        await connection.query("commit", []);
        return result;
      } catch (error) {
        // The first error is the one to report. The rollback fails if SQLite has rolled back by itself,
        // as it does when the disk is full, or if the connection is gone.
        await connection.query("rollback", []).catch(() => {});
        throw error;
      }
    });
  }
}

/** Returns the store's time. */
export async function timeOf(database: SqlDatabase): Promise<number> {
  const row = await database.row<{ readonly store_now: BigInteger }>(
    sql`select ${database.now()} as store_now`,
  );
  return Number(row?.store_now);
}

/** A 64-bit integer. Drivers return it as number, string or bigint, so read it through `Number()`. */
export type BigInteger = number | string | bigint;
