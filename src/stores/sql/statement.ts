/** How the places of values are written: `$1`, `$2` … or `?`. */
export type Placeholders = "numbered" | "plain";

/** A value that a statement can bind. The tables hold nothing else. */
export type SqlValue = string | number | null;

/** The arguments of a template's tag. */
export type SqlTemplate = [texts: TemplateStringsArray, ...parts: readonly (Sql | SqlValue)[]];

/** A statement as a driver takes it. */
export interface RenderedSql {
  readonly text: string;
  readonly values: SqlValue[];
}

/**
 * A piece of SQL with the values that it binds. Only the tag {@link sql}, {@link join} and {@link names}
 * make one, so a value never becomes part of the text: it is another piece of SQL, or a bound parameter.
 */
export class Sql {
  readonly #texts: readonly string[];
  /** One between every two texts. */
  readonly #parts: readonly (Sql | SqlValue | Slot)[];

  private constructor(texts: readonly string[], parts: readonly (Sql | SqlValue | Slot)[]) {
    this.#texts = texts;
    this.#parts = parts;
  }

  static tag(this: void, ...[texts, ...parts]: SqlTemplate): Sql {
    return new Sql(texts, parts);
  }

  static slot(this: void, name: string): Sql {
    return new Sql(["", ""], [new Slot(name)]);
  }

  static names(this: void, names: readonly string[]): Sql {
    const wrong = names.find((name) => !/^[a-z_]+$/.test(name));
    if (wrong !== undefined) {
      throw new TypeError(`${JSON.stringify(wrong)} is not the name of a column`);
    }
    return new Sql([names.join(", ")], []);
  }

  static join(
    this: void,
    parts: readonly (Sql | SqlValue)[],
    separator: ", " | " and " | " or " | " ",
  ): Sql {
    return new Sql(["", ...parts.slice(1).map(() => separator), ""], parts);
  }

  /**
   * Returns the text to send, and the values in the order of their placeholders. The text does not
   * depend on the values, so that a connection can prepare it once. A piece that is used twice binds its
   * values once where placeholders have numbers.
   *
   * @param placeholders see {@link Placeholders}
   * @param clock the store's clock, which takes the place of {@link now}. Read at most once, so that a
   *   statement has one time
   */
  render(placeholders: Placeholders, clock: Sql | (() => Sql)): RenderedSql {
    let time: Sql | undefined;
    const once = clock instanceof Sql ? clock : () => (time ??= clock());
    return this.compile(placeholders, once)({});
  }

  /** Makes the text once. Returns a function that adds the values of a run. */
  compile(placeholders: Placeholders, clock: Sql | (() => Sql)): CompiledSql {
    const values: (SqlValue | Slot | TimeSlot)[] = [];
    const written = placeholders === "numbered" ? new Map<Sql, string>() : undefined;
    let time: Sql | undefined;
    const write = (piece: Sql): string => {
      const before = written?.get(piece);
      if (before !== undefined) {
        return before;
      }
      let text = piece.#texts[0] ?? "";
      for (const [index, part] of piece.#parts.entries()) {
        if (part === now) {
          time ??= clock instanceof Sql ? clock : clock();
          const first = values.length;
          text += write(time);
          if (typeof clock === "function") {
            const times = values.slice(first).map((_, place) => new TimeSlot(place));
            values.splice(first, times.length, ...times);
          }
        } else if (part instanceof Sql) {
          text += write(part);
        } else {
          const position = values.push(part);
          text += placeholders === "numbered" ? `$${position}` : "?";
        }
        text += piece.#texts[index + 1];
      }
      written?.set(piece, text);
      return text;
    };
    const text = write(this);
    return (given) => {
      const times =
        typeof clock === "function" && time !== undefined
          ? clock().render(placeholders, nothing).values
          : [];
      return {
        text,
        values: values.map((value) => {
          if (value instanceof TimeSlot) {
            return times[value.place] ?? null;
          }
          return value instanceof Slot ? givenValue(given, value) : value;
        }),
      };
    };
  }
}

/** Adds the values of one run to a statement. */
export type CompiledSql = (given: Readonly<Record<string, SqlValue>>) => RenderedSql;

/** The place of a value that each run gives. */
class Slot {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** @throws TypeError if the run gives no such value: null would silently select no row */
function givenValue(given: Readonly<Record<string, SqlValue>>, { name }: Slot): SqlValue {
  const value = given[name];
  if (value === undefined) {
    throw new TypeError(`the statement was run without a value for ${name}; give one, or null`);
  }
  return value;
}

/** The place of a value of the store's clock. */
class TimeSlot {
  readonly place: number;

  constructor(place: number) {
    this.place = place;
  }
}

/**
 * Makes SQL from a template: values become parameters, other pieces of SQL are inserted as they are.
 *
 * @example sql`select id from rpcsession_sessions where user_id = ${userId}`
 */
export const sql: typeof Sql.tag = Sql.tag;

/** Joins at least one part with a separator. */
export const join: typeof Sql.join = Sql.join;

/**
 * The names of columns, separated by commas.
 * @throws TypeError for a name with other characters than small letters and underscores
 */
export const names: typeof Sql.names = Sql.names;

/** No SQL, in place of a clause that a database does not need. */
export const nothing: Sql = sql``;

/** The store's clock in milliseconds, the same everywhere in a statement. */
export const now: Sql = sql`now`;
