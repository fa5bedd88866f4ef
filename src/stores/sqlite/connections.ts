import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import type { Push } from "../push.ts";
import type { SqlConnection, SqlConnections } from "../sql/database.ts";
import { type Sql, sql } from "../sql/statement.ts";
import { untilFree } from "./driver.ts";
import { FileWatch } from "./push.ts";

/** The only connection to a file. Work takes turns on it, so that no statement runs within another's transaction. */
export class SqliteConnections implements SqlConnections {
  readonly #file: DatabaseSync;
  readonly #connection: SqliteConnection;
  readonly #clock: Clock;
  readonly #openAnother: () => DatabaseSync;
  /** Settles when all work that was queued so far is done. */
  #lastTurn: Promise<unknown> = Promise.resolve();

  /** @param openAnother opens another connection to the same file, to watch it */
  constructor(file: DatabaseSync, clock: Clock, openAnother: () => DatabaseSync) {
    this.#file = file;
    this.#connection = new SqliteConnection(file);
    this.#clock = clock;
    this.#openAnother = openAnother;
  }

  lend<T>(work: (connection: SqlConnection) => Promise<T>): Promise<T> {
    const turn = this.#lastTurn.then(() => work(this.#connection));
    this.#lastTurn = turn.catch(() => {});
    return turn;
  }

  attempt<T>(work: () => Promise<T>): Promise<T> {
    return untilFree(this.#clock, work);
  }

  /** The time of the process, bound as a value when the statement is made. */
  now(): Sql {
    return sql`cast(${this.#clock.now()} as bigint)`;
  }

  listen(wake: () => void): Push {
    return new FileWatch(this.#openAnother(), this.#clock, wake);
  }

  async close(): Promise<void> {
    this.#file.close();
  }
}

/** At most this many statements are kept; the store has fewer, apart from those that make tables. */
const preparedMax = 100;

/** Prepares each statement once: SQLite takes longer to prepare one than to run it. */
class SqliteConnection implements SqlConnection {
  readonly #file: DatabaseSync;
  readonly #prepared = new Map<string, StatementSync>();

  constructor(file: DatabaseSync) {
    this.#file = file;
  }

  async query(text: string, values: SQLInputValue[]): Promise<readonly unknown[]> {
    const statement = this.#prepared.get(text) ?? this.#file.prepare(text);
    if (this.#prepared.size < preparedMax) {
      this.#prepared.set(text, statement);
    }
    // `all` also runs statements without rows; older versions of Node cannot tell which those are.
    return statement.all(...values);
  }
}
