/** A value that a statement binds. Booleans and dates are not stored: see the tables. */
export type SqlValue = string | number | null;

/**
 * A piece of SQL together with the values it binds. Only the tag {@link sql} makes one, so no value
 * can ever become part of the text: it is either another piece of SQL or a bound parameter.
 */
export class Sql {
  readonly #texts: readonly string[];
  /** One between every two texts. */
  readonly #parts: readonly (Sql | SqlValue)[];

  constructor(texts: readonly string[], parts: readonly (Sql | SqlValue)[]) {
    this.#texts = texts;
    this.#parts = parts;
  }

  /**
   * The text to send, and the values to bind, in the order of their placeholders. The text depends on
   * the SQL alone, never on the values, so a database can prepare it once.
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

/** A statement as a driver takes it. */
export interface RenderedSql {
  readonly text: string;
  readonly values: SqlValue[];
}

/**
 * Makes SQL: values become parameters, other pieces of SQL are inserted as they are.
 *
 * @example sql`select id from rpcsession_sessions where user_id = ${userId}`
 */
export function sql(texts: TemplateStringsArray, ...parts: readonly (Sql | SqlValue)[]): Sql {
  return new Sql(texts, parts);
}

/** Joins at least one part; the separators are the only ones the statements need. */
export function join(
  parts: readonly (Sql | SqlValue)[],
  separator: ", " | " and " | " or " | " ",
): Sql {
  return new Sql(["", ...parts.slice(1).map(() => separator), ""], parts);
}

/** No SQL: for a clause that a database does not need. */
export const nothing: Sql = sql``;
