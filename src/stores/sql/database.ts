import type { Changes, StoreContext } from "../../engine/store.ts";
import type { Retries } from "../common.ts";
import type { Push } from "../push.ts";
import {
  type CompiledSql,
  now,
  type Placeholders,
  type RenderedSql,
  Sql,
  type SqlTemplate,
  type SqlValue,
  sql,
} from "./statement.ts";

/**
 * Everything in which the SQL of one database differs from that of another. There is one object per
 * database; the statements of this room ask it and never ask which database it is.
 */
export interface SqlDialect {
  /** PostgreSQL numbers its placeholders (`$1`), SQLite does not (`?`). */
  readonly placeholders: Placeholders;

  /**
   * Begins a transaction in which a statement that waited for a lock sees what was committed under
   * that lock. PostgreSQL must ask for this isolation level (`read committed`), because the default
   * is configurable. SQLite takes its only write lock here, because it refuses for good a transaction
   * that reads first and wants to write after another connection wrote.
   */
  readonly begin: string;

  /** The column `id` in the order of its bytes. PostgreSQL would sort by the rules of a language. */
  readonly idByBytes: Sql;

  /** The function that returns the smallest of its arguments, none of which may be null. */
  readonly least: Sql;

  /**
   * The function that makes a JSON array of columns, which become one column. PostgreSQL's driver reads
   * that in a third of the time. Undefined where columns cost nothing: SQLite is in the process itself.
   */
  readonly jsonArray: Sql | undefined;

  /** Ends a select that locks its rows. SQLite has one writer at a time and needs no row locks. */
  readonly forUpdate: Sql;

  /** The same, but skips rows that another transaction has locked, so that cleaning waits for nobody. */
  readonly forUpdateSkipLocked: Sql;

  /** A table `one` with a column `value`: the strings of a JSON array. Each database has its own function. */
  readonly stringsOf: (jsonArray: string) => Sql;

  /** The same for the rows of the table that is named `held` in a join. */
  readonly forUpdateOfHeld: Sql;

  /** A table `used` with the columns `session`, `generation` and `age`: the objects of a JSON array. */
  readonly usesOf: (jsonArray: string) => Sql;

  /**
   * A table `used` with the columns of common refreshes: the objects of a JSON array. Undefined where one
   * transaction is as good as one statement: SQLite has one writer, in the process itself.
   */
  readonly advancesOf: ((jsonArray: string) => Sql) | undefined;

  /**
   * An expression that waits for a lock on an owner or an external id and holds it until the
   * transaction ends; see `owner-locks.ts`. Undefined where there is one writer at a time.
   */
  readonly ownerLock: ((kind: LockKind, id: string, hold: Hold) => Sql) | undefined;

  /**
   * An expression: the history of the data, as text, or null if it cannot be known. See
   * `Changes.history`.
   */
  readonly history: Sql;

  /**
   * Reads the change log from a cursor on; see `SessionStore.changes`. What a cursor must hold
   * depends on the order in which the database commits.
   */
  readonly readChanges: (database: SqlDatabase, read: ChangesRead) => Promise<ChangeRows>;

  /** Returns a row if the table exists. Each database has its own catalogue. */
  readonly tableNamed: (name: string) => Sql;

  /**
   * The steps that lead from each version of the tables to the next, from version 1 on. Append only:
   * a step that was released never changes. Written out for each database, because column types and
   * the ways to alter a table differ.
   */
  readonly migrations: readonly MigrationStep[];

  /**
   * Begins the transaction of a step: sets how long it waits for a lock. While it waits, calls wait
   * behind it. Undefined where the connection has such a limit anyway.
   */
  readonly shortLocks: string | undefined;

  /** Whether an error means that a step waited too long for a lock. */
  readonly isLockTimeout: (error: unknown) => boolean;

  /** Selects, as `holders`, a text about the transactions that hold locks. Undefined if unknown. */
  readonly lockHolders: Sql | undefined;

  /** Makes an index that may exist already, without keeping others from writing where possible. */
  readonly makeIndex: (database: SqlDatabase, index: MakeIndex) => Promise<unknown>;

  /** Returns the statement that drops an index, if it exists. */
  readonly dropIndex: (name: string) => string;

  /** The database's clock in milliseconds, for migrations that are printed and run by hand. */
  readonly clockForPrint: string;
}

/**
 * One step of the tables. Its number is its place in the list of its database, from 1 on.
 *
 * @example
 * {
 *   name: "externalIds",
 *   compatibleFrom: 3,
 *   transaction: ["alter table rpcsession_sessions add column external_sub text"],
 *   afterwards: [
 *     { index: "rpcsession_sessions_external_sub", on: "rpcsession_sessions (external_sub)" },
 *   ],
 * }
 */
export interface MigrationStep {
  /** What the step is about, for messages and for the table `rpcsession_steps`. */
  readonly name: string;
  /**
   * The oldest schema whose servers work with the tables after this step. They may go on, and start
   * again, beside newer servers. A step that adds columns with a default, or tables, keeps the number
   * of the step before; a step that older servers cannot work with has its own number.
   */
  readonly compatibleFrom: number;
  /**
   * Statements that are run in one transaction, together with the record of the step. They must take
   * milliseconds, however many rows there are: calls wait for their locks.
   */
  readonly transaction: readonly string[];
  /**
   * What takes long on large tables. It is done after the transaction, while servers write. After a
   * crash all of it is done again, so each part may be repeated.
   */
  readonly afterwards?: readonly LongPart[];
}

/** A part of a step that takes long on large tables. */
export type LongPart = MakeIndex | DropIndex | ChangeAllRows;

/** Makes an index. PostgreSQL makes it concurrently, so that nobody waits. */
export interface MakeIndex {
  /** Its name. */
  readonly index: string;
  /** Its table, columns and condition: what follows `on` in the statement. */
  readonly on: string;
}

/** Drops an index that no server needs any more. */
export interface DropIndex {
  readonly dropIndex: string;
}

/**
 * Changes all rows of a table, in batches, each in a transaction of its own.
 * Older servers go on writing rows without the change, so the code must understand both.
 *
 * @example
 * {
 *   inBatches: sql`rpcsession_sessions`,
 *   by: sql`id`,
 *   set: sql`hour = idle_expires_at / 3600000`,
 *   where: sql`hour is null`,
 * }
 */
export interface ChangeAllRows {
  /** The table. */
  readonly inBatches: Sql;
  /** Its primary key: one column of text, never empty. */
  readonly by: Sql;
  readonly set: Sql;
  /** Selects the rows that need the change; false for rows that have it. */
  readonly where: Sql;
}

/** What a lock is about. Each kind has a key space of its own. */
export type LockKind = "tenant" | "user" | "externalId";

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

/** The result of reading the change log: the rows of its entries, in their order. */
export interface ChangeRows extends Omit<Changes, "entries"> {
  readonly rows: readonly ChangeRow[];
}

/** The columns of an entry, of a row named `change`. All are null where a left join found no entry. */
export interface ChangeRow {
  readonly kind: string | null;
  readonly session: string | null;
  readonly ended_by: string | null;
  readonly claims_version: BigInteger | null;
  readonly at: BigInteger | null;
}

/** The foundation of a SQL store: a database, and how to reach it. */
export interface SqlBackend {
  /** The store's name, for messages. */
  readonly name: string;
  readonly dialect: SqlDialect;
  /** Connects. Called once, and again after it rejected or the store was closed. */
  connect(context: StoreContext): Promise<SqlConnections>;
  /** Returns the secret kept next to the sessions, in stores that have a place for one. */
  readonly secret?: (database: SqlDatabase) => Promise<Uint8Array>;
}

/** Runs statements. */
export interface SqlConnection {
  /** Runs a statement and returns its rows. */
  query(text: string, values: SqlValue[]): Promise<readonly unknown[]>;
}

/** A connection for one user at a time. */
export interface BorrowedConnection extends SqlConnection {
  release(): void;
}

/** The connections to an open database. Each statement runs on any of them that is free. */
export interface SqlConnections extends SqlConnection {
  /**
   * Lends a connection on which a statement has begun a transaction. Nobody else uses it until it is
   * released.
   */
  begin(statement: string): Promise<BorrowedConnection>;
  /** When to repeat a unit of work, for example after a conflict with another one. */
  readonly retries: Retries;
  /** When to repeat a step of a migration, where another process may take one too. Default: `retries`. */
  readonly migrationRetries?: Retries;
  /** The store's clock in milliseconds, as SQL; a function if each statement binds the time. */
  readonly now: Sql | (() => Sql);
  /** Starts to report what other processes append; absent where that cannot be noticed. */
  listen?(wake: () => void): Push;
  /**
   * Tells other processes that the change log has new entries. Call it after the commit. Absent where
   * they notice by themselves.
   */
  announce?(): void;
  /**
   * Opens connections for a migration: without the limits that are meant for calls, and with pauses
   * that suit a lock. Resolves when nobody else migrates, and keeps others from it until closed; with
   * undefined if `isDone` meanwhile. Absent where these connections do.
   */
  forMigration?(
    isDone: (connection: SqlConnection) => Promise<boolean>,
  ): Promise<SqlConnections | undefined>;
  close(): Promise<void>;
}

/** Runs statements, each on a connection of its own or all within one transaction. */
export class SqlDatabase {
  readonly dialect: SqlDialect;
  readonly #connections: SqlConnections;
  readonly #connection: SqlConnection;

  /** @param connection runs the statements; by default each runs on any connection that is free */
  constructor(
    dialect: SqlDialect,
    connections: SqlConnections,
    connection: SqlConnection = connections,
  ) {
    this.dialect = dialect;
    this.#connections = connections;
    this.#connection = connection;
  }

  /**
   * Runs a statement. `Row` states the columns that it returns.
   * @example database.rows<{ id: string }>`select id from rpcsession_sessions where user_id = ${userId}`
   */
  async rows<Row>(...template: SqlTemplate): Promise<readonly Row[]> {
    const statement = sql(...template);
    const { text, values } = statement.render(this.dialect.placeholders, this.#connections.now);
    return (await this.#connection.query(text, values)) as readonly Row[];
  }

  /** Runs a statement that returns at most one row, or of which only the first is needed. */
  async row<Row>(...template: SqlTemplate): Promise<Row | undefined> {
    return (await this.rows<Row>(...template))[0];
  }

  /** The same for a statement whose text is made once. */
  async rowOf<Row, Given extends Values<Given>>(
    statement: FixedStatement<Given>,
    given: Given,
  ): Promise<Row | undefined> {
    const { text, values } = statement.compiledFor(this.dialect, this.#connections)(given);
    return ((await this.#connection.query(text, values)) as readonly Row[])[0];
  }

  /** Runs a statement of this package that binds nothing, such as a migration's. */
  async run(text: string): Promise<readonly unknown[]> {
    return this.#connection.query(text, []);
  }

  /** Does a unit of work in one transaction: rolls back, and rejects, if the work rejects. */
  async transaction<T>(work: (within: SqlDatabase) => Promise<T>): Promise<T> {
    const connection = await this.#connections.begin(this.dialect.begin);
    try {
      const result = await work(new SqlDatabase(this.dialect, this.#connections, connection));
      await connection.query("commit", []);
      return result;
    } catch (error) {
      // The first error is the one to report. The rollback fails if SQLite has rolled back by itself,
      // as it does when the disk is full, or if the connection is gone.
      await connection.query("rollback", []).catch(() => {});
      throw error;
    } finally {
      connection.release();
    }
  }
}

/** Returns the store's time. */
export async function timeOf(database: SqlDatabase): Promise<number> {
  const row = await database.row<{ readonly store_now: BigInteger }>`select ${now} as store_now`;
  return Number(row?.store_now);
}

/** A 64-bit integer. Drivers return it as number, string or bigint, so read it through `Number()`. */
export type BigInteger = number | string | bigint;

/** The values of one run, by name. */
type Values<Names> = { readonly [Name in keyof Names]: SqlValue };

/**
 * A statement whose text is made once for all runs. For statements of the most frequent calls that have
 * many pieces: to put those together for each call shows in its time.
 *
 * @example
 * const end = new FixedStatement<{ id: string }>(["id"], (_, { id }) =>
 *   sql`update rpcsession_sessions set revoked_at = ${now} where id = ${id} returning id`,
 * );
 * await database.rowOf(end, { id });
 */
export class FixedStatement<Given extends Values<Given>> {
  readonly #names: readonly (keyof Given & string)[];
  readonly #build: (dialect: SqlDialect, given: Readonly<Record<keyof Given, Sql>>) => Sql;
  readonly #compiled = new WeakMap<SqlConnections, CompiledSql>();

  /** @param names the names of all values that a run gives */
  constructor(
    names: readonly (keyof Given & string)[],
    build: (dialect: SqlDialect, given: Readonly<Record<keyof Given, Sql>>) => Sql,
  ) {
    this.#names = names;
    this.#build = build;
  }

  /** Returns what adds the values of a run. */
  compiledFor(dialect: SqlDialect, connections: SqlConnections): (given: Given) => RenderedSql {
    const known = this.#compiled.get(connections);
    if (known !== undefined) {
      return known;
    }
    const slots = Object.fromEntries(this.#names.map((name) => [name, Sql.slot(name)]));
    const statement = this.#build(dialect, slots as Readonly<Record<keyof Given, Sql>>);
    const compiled = statement.compile(dialect.placeholders, connections.now);
    this.#compiled.set(connections, compiled);
    return compiled;
  }
}

/** Selects a {@link ChangeRow}. */
export const changeColumns: Sql = sql`change.kind, change.session, change.ended_by, change.claims_version, change.at`;
