/** Reports invalid arguments. The usage is printed below the message. */
export class UsageError extends Error {
  override readonly name: string = "UsageError";
}

/** What surrounds a command: the environment, the standard input and the time. */
export interface CommandWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Reads the standard input to its end. */
  readonly stdin?: () => Promise<string>;
}

/** The arguments of a command, as they were given. */
export interface Given extends CommandWorld {
  /** The arguments that are not options. Never print them: they may hold a password or a token. */
  readonly args: readonly string[];
  /** The options by their names in camel case. */
  readonly options: Readonly<Record<string, string | boolean | readonly string[] | undefined>>;
}

/** The output of a command: text for people, or a value for `--json`. */
export interface Answer {
  readonly text: string;
  readonly json: unknown;
  /** The exit code; 1 if what was checked is not in order. Default 0. */
  readonly code?: 0 | 1;
}

/** A term of the help, and its meaning. */
export type Explained = readonly [term: string, meaning: string];

/** An option of a command. */
export interface CommandOption {
  /** As in "--rotation <duration>"; without a value it is a switch. */
  readonly flags: string;
  readonly meaning: string;
  /** Whether it may be repeated. Default false. */
  readonly repeats?: boolean;
}

/** A command of the command line. */
export interface Command {
  /** One or two words, such as "keys list". */
  readonly name: string;
  /** One line for the list of all commands. */
  readonly summary: string;
  /** What follows the name, one line for each form. */
  readonly forms: readonly string[];
  /** What it does, in sentences. */
  readonly about: string;
  readonly arguments?: readonly Explained[];
  readonly options?: readonly CommandOption[];
  /** What each example does, and its line without the name of the program. */
  readonly examples: readonly Explained[];
  /** Whether an argument may be an id, which may begin with a hyphen. Default false. */
  readonly takesIds?: boolean;
  run(given: Given): Promise<Answer>;
}

/** Reads an option with a value. */
export function textOf({ options }: Pick<Given, "options">, option: string): string | undefined {
  const value = options[option];
  return typeof value === "string" ? value : undefined;
}

/** Reads an option that may be repeated. */
export function textsOf({ options }: Pick<Given, "options">, option: string): readonly string[] {
  const value = options[option] ?? [];
  return typeof value === "object" ? value : [];
}

/** Runs a check of the library whose TypeError is about an argument. @throws UsageError */
export function asUsage<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}

/**
 * Escapes control and invisible characters. A terminal would obey them, and a line break could forge a
 * line. Users choose the names of devices, and servers their answers.
 */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`);
}

/** Formats rows as columns. */
export function table(given: readonly (readonly string[])[]): string {
  const rows = given.map((row) => row.map(printable));
  const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? [];
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i] ?? 0))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}

/** Formats a time of the store. */
export function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
