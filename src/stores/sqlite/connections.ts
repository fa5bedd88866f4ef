import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import type { Retries } from "../common.ts";
import type { Push } from "../push.ts";
import type { BorrowedConnection, SqlConnections } from "../sql/database.ts";
import { type Sql, sql } from "../sql/statement.ts";
import { untilFree, untilMigrated } from "./driver.ts";
import { FileWatch } from "./push.ts";

/** The parts of {@link SqliteConnections}. */
interface OpenFile {
  readonly database: DatabaseSync;
  readonly clock: Clock;
  /** Opens another connection to the same file, to watch it. */
  readonly openAnother: () => DatabaseSync;
  /** Throws if the path leads to another file meanwhile. */
  readonly check: () => void;
}

/** At most this many statements are kept; the store has fewer, apart from those that make tables. */
const preparedMax = 100;

/**
 * The only connection to a file. Work takes turns on it, so that no statement runs within another's
 * transaction.
 */
export class SqliteConnections implements SqlConnections {
  /** The time of the process, bound as a value. */
  readonly now: () => Sql;
  readonly retries: Retries;
  readonly migrationRetries: Retries;
  readonly #file: DatabaseSync;
  readonly #clock: Clock;
  readonly #openAnother: () => DatabaseSync;
  readonly #check: () => void;
  /** Each statement is prepared once: SQLite takes longer to prepare one than to run it. */
  readonly #prepared = new Map<string, StatementSync>();
  /** Settles when all work that was queued so far is done. */
  #lastTurn: Promise<unknown> = Promise.resolve();

  constructor({ database, clock, openAnother, check }: OpenFile) {
    this.now = () => sql`cast(${clock.now()} as bigint)`;
    this.retries = untilFree(clock);
    this.migrationRetries = untilMigrated(clock);
    this.#file = database;
    this.#clock = clock;
    this.#openAnother = openAnother;
    this.#check = check;
  }

  query(text: string, values: SQLInputValue[]): Promise<readonly unknown[]> {
    const turn = this.#lastTurn.then(() => this.#run(text, values));
    this.#lastTurn = turn.catch(() => {});
    return turn;
  }

  async begin(statement: string): Promise<BorrowedConnection> {
    let release = (): void => {};
    const turn = this.#lastTurn;
    this.#lastTurn = new Promise<void>((resolve) => {
      release = resolve;
    });
    await turn;
    try {
      this.#run(statement, []);
    } catch (error) {
      release();
      throw error;
    }
    const query = async (text: string, values: SQLInputValue[]) => this.#run(text, values);
    return { query, release };
  }

  listen(wake: () => void): Push {
    return new FileWatch({
      ...{ connection: this.#openAnother(), clock: this.#clock },
      ...{ check: this.#check, wake },
    });
  }

  async close(): Promise<void> {
    this.#file.close();
  }

  #run(text: string, values: SQLInputValue[]): readonly unknown[] {
    this.#check();
    const statement = this.#prepared.get(text) ?? this.#file.prepare(text);
    if (this.#prepared.size < preparedMax) {
      this.#prepared.set(text, statement);
    }
    // `all` also runs statements without rows; older versions of Node cannot tell which those are.
    return statement.all(...values);
  }
}
