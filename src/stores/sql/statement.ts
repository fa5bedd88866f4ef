/** A value that a statement can bind. The tables hold nothing else. */
export type SqlValue = string | number | null;

/** A statement as a driver takes it. */
interface RenderedSql {
  readonly text: string;
  readonly values: SqlValue[];
}

/**
 * A piece of SQL with the values that it binds. Only the tag {@link sql} and {@link join} make one, so
 * a value never becomes part of the text: it is another piece of SQL, or a bound parameter.
 */
export class Sql {
  readonly #texts: readonly string[];
  /** One between every two texts. */
  readonly #parts: readonly (Sql | SqlValue)[];

  private constructor(texts: readonly string[], parts: readonly (Sql | SqlValue)[]) {
    this.#texts = texts;
    this.#parts = parts;
  }

  static tag(this: void, texts: TemplateStringsArray, ...parts: readonly (Sql | SqlValue)[]): Sql {
    return new Sql(texts, parts);
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
   * depend on the values, so that a connection can prepare it once.
   *
   * @param placeholder returns the placeholder of the value at a position, counted from 1
   */
  render(placeholder: (position: number) => string): RenderedSql {
    const values: SqlValue[] = [];
    const write = (piece: Sql): string => {
      let text = piece.#texts[0] ?? "";
      for (const [index, part] of piece.#parts.entries()) {
        text += part instanceof Sql ? write(part) : placeholder(values.push(part));
        text += piece.#texts[index + 1];
      }
      return text;
    };
    return { text: write(this), values };
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

/** No SQL, in place of a clause that a database does not need. */
export const nothing: Sql = sql``;
