import type { ParseArgsConfig } from "node:util";
import type { SessionStore } from "../engine/store.ts";

/** Reports invalid arguments. The usage is printed below the message. */
export class UsageError extends Error {
  override readonly name: string = "UsageError";
}

/** The environment of a command besides the store. */
export interface CommandWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** The arguments of a command, checked. */
export interface Given {
  /** The database; never print it, because it may hold a password. */
  readonly database: string;
  /** The arguments after the database, by the names that the command gave them. */
  readonly named: Readonly<Record<string, string>>;
  readonly options: Readonly<Record<string, string | boolean | string[] | undefined>>;
  readonly env: CommandWorld["env"];
}

/** The output of a command: text for people, or a value for `--json`. */
export interface Answer {
  readonly text: string;
  readonly json: unknown;
}

/** A command of the command line. */
export interface Command {
  /** One or two words, such as "keys list". */
  readonly name: string;
  /** Its usage: the arguments after the name, one line for each form. */
  readonly forms: readonly string[];
  /** What it does, in sentences, and its options. */
  readonly help: string;
  /** The names of the arguments after the database. */
  readonly names?: readonly string[];
  /** Names whose argument may be left out. */
  readonly optional?: readonly string[];
  readonly options?: NonNullable<ParseArgsConfig["options"]>;
  run(given: Given): Promise<Answer>;
}

/** A command on an open store. */
export interface StoreCommand extends Omit<Command, "run"> {
  run(given: Given & { readonly store: SessionStore }): Promise<Answer>;
}

/** Reads an option with a value. */
export function textOf(given: Given, option: string): string | undefined {
  const value = given.options[option];
  return typeof value === "string" ? value : undefined;
}

/** Formats rows as columns. */
export function table(rows: readonly (readonly string[])[]): string {
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
