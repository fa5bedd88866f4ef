import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { CommanderError, Command as Parser } from "commander";
import { type Command, type CommandWorld, type Given, printable, UsageError } from "./command.ts";
import { doctorCommand } from "./doctor.ts";
import { inspectCommand } from "./inspect.ts";
import { keysList, keysRetire, keysRotate } from "./keys.ts";
import { migrateCommand } from "./migrate.ts";
import { policyCommand } from "./policy.ts";
import { secretsList, secretsRetire } from "./secrets.ts";
import { sessionsList, sessionsRevoke } from "./sessions.ts";

/** All commands, in the order of the help. */
export const commands: readonly Command[] = [
  ...[doctorCommand, inspectCommand, policyCommand],
  ...[sessionsList, sessionsRevoke],
  ...[keysList, keysRotate, keysRetire],
  ...[secretsList, secretsRetire],
  migrateCommand,
];

/** The output of a command, and its exit code. */
export interface Outcome {
  readonly code: 0 | 1 | 2;
  readonly stdout: string;
  readonly stderr: string;
}

const overview = "Usage: rpc-session <command> [options]";
const overviewHint = 'See "rpc-session --help" for all commands.';
const helpWidth = 100;
const exitCodes = `
Exit code:
  0  success
  1  failure, or a check has found something
  2  invalid arguments
`;

/**
 * Runs the command line. Never rejects.
 *
 * @param args without the names of the program and its script
 */
export async function run(args: readonly string[], world: CommandWorld): Promise<Outcome> {
  // 1. Join the words of a command such as "keys list".
  const words = joinWords(args);
  const command = commands.find(({ name }) => name === words[0]);
  const shown: string[] = [];
  try {
    // 2. Parse. This runs the command, or prints a help.
    let outcome: Outcome = { code: 0, stdout: "", stderr: "" };
    const parser = parserOf((text) => shown.push(text), words.includes("--version"));
    for (const one of commands) {
      const ofCommand = parserOfCommand(parser, one);
      ofCommand.action(async () => {
        const given = { ...world, args: ofCommand.args, options: ofCommand.opts() };
        outcome = await answer(one, given);
      });
      parser.addCommand(ofCommand);
    }
    if (words.length === 0) {
      throw new UsageError(`no command given; use ${quoted(commands)}`);
    }
    await parser.parseAsync(idsLast(words, command), { from: "user" });
    return outcome;
  } catch (error) {
    // 3. A help, which the parser reports as an error, or a message and where to read more.
    if (error instanceof CommanderError && error.exitCode === 0) {
      return { code: 0, stdout: shown.join(""), stderr: "" };
    }
    const isUsage = error instanceof UsageError || error instanceof CommanderError;
    const message = error instanceof CommanderError ? toUsage(error, words) : messageOf(error);
    const usage = isUsage ? `\n${usageOf(command)}` : "";
    const stderr = `rpc-session: ${printableLines(message)}\n${usage}`;
    return { code: isUsage ? 2 : 1, stdout: "", stderr };
  }
}

async function answer(command: Command, given: Given): Promise<Outcome> {
  const { text, json, code = 0 } = await command.run(given);
  const stdout = given.options.json ? jsonText(json) : printableLines(text);
  return { code, stdout, stderr: "" };
}

/** Whatever a command prints, a terminal obeys none of it. */
function printableLines(text: string): string {
  return text.split("\n").map(printable).join("\n");
}

/** JSON leaves DEL and the control characters of C1 as they are, which some terminals obey. */
function jsonText(json: unknown): string {
  return `${JSON.stringify(json, undefined, 2)}\n`.replace(
    /[\u007f-\u009f]/g,
    (char) => `\\u00${char.charCodeAt(0).toString(16)}`,
  );
}

/**
 * The parser of the whole command line. It never exits, and prints only help.
 * @param isAsked whether the version is asked for, which is in a file
 */
function parserOf(write: (text: string) => void, isAsked: boolean): Parser {
  return new Parser("rpc-session")
    .usage("<command> [options]")
    .description("Checks a service with rpc-session, and works on its sessions, keys and secrets.")
    .version(isAsked ? versionOf() : "", "--version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: () => {}, getOutHelpWidth: () => helpWidth })
    .configureHelp({ subcommandTerm: (one) => `rpc-session ${one.name()}` })
    .addHelpText(
      "after",
      `
Each command explains itself with --help, and prints JSON with --json. Commands on a store read its
address from the environment variable RPC_SESSION_DATABASE if it is not given.

Examples:
  Check a service, and whether the page of another origin can call it:
    rpc-session doctor https://api.example.com --origin https://app.example.com
  Read a token from the clipboard (macOS):
    pbpaste | rpc-session inspect
  Sign a user out everywhere:
    rpc-session sessions revoke --user alice sessions.db
${exitCodes}`,
    );
}

/** The parser of one command. It inherits the settings of the whole one. */
function parserOfCommand(parent: Parser, command: Command): Parser {
  const [first = "", ...more] = command.forms;
  const forms = [first, ...more.map((form) => `rpc-session ${command.name} ${form}`)];
  const parser = new Parser(command.name)
    .copyInheritedSettings(parent)
    .usage(forms.join("\n       "))
    .summary(command.summary)
    .description(command.about)
    .helpOption("-h, --help", "print this help")
    .allowExcessArguments(true);
  for (const [name, meaning] of command.arguments ?? []) {
    parser.argument(name.startsWith("[") ? name : `[${name.slice(1, -1)}]`, meaning);
  }
  for (const { flags, meaning, repeats = false } of command.options ?? []) {
    if (repeats) {
      parser.option(flags, meaning, append);
    } else {
      parser.option(flags, meaning);
    }
  }
  const examples = command.examples.map(([does, line]) => `  ${does}:\n    ${line}\n`);
  return parser
    .option("--json", "print JSON")
    .addHelpText("after", `\nExamples:\n${examples.join("")}${exitCodes}`);
}

function append(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

/** Joins the first two words if they name a command, as in "keys list", or seem to be meant so. */
function joinWords(args: readonly string[]): readonly string[] {
  const [first = "", second = "", ...rest] = args;
  const pairs = commands.map(({ name }) => name.split(" ")).filter(({ length }) => length === 2);
  const isPair = pairs.some(([group, word]) => first === group || second === word);
  return isPair && /^[a-z]/.test(second) ? [`${first} ${second}`, ...rest] : args;
}

/**
 * Ids of keys, secrets and sessions are base64url: one of 64 begins with "-" and looks like an option.
 * Moves them behind "--".
 */
function idsLast(args: readonly string[], command: Command | undefined): readonly string[] {
  if (!command?.takesIds || args.includes("--")) {
    return args;
  }
  const flags = (command.options ?? []).map((one) => one.flags.split(" "));
  const takesValue = new Set(flags.flatMap(([flag, value]) => (value ? [flag] : [])));
  const isOption = (arg: string) => flags.some(([flag]) => flag === arg);
  const isId = (arg: string, i: number): boolean =>
    /^-(?:[\w-]{7}|[\w-]{21}|[\w-]{42})$/.test(arg) &&
    !isOption(arg) &&
    !takesValue.has(args[i - 1] ?? "");
  const ids = args.filter(isId);
  return ids.length === 0 ? args : [...args.filter((arg, i) => !isId(arg, i)), "--", ...ids];
}

/** The message for a mistake that the parser found. Never repeats a value: it may be a secret. */
function toUsage({ code, message }: CommanderError, [word = ""]: readonly string[]): string {
  const near = /\(Did you mean (?:one of )?(.+)\?\)/.exec(message)?.[1];
  const advice =
    near === undefined ? undefined : `did you mean "${near.replaceAll(", ", '", "')}"?`;
  switch (code) {
    case "commander.unknownCommand": {
      const group = commands.filter(({ name }) => name.startsWith(`${word.split(" ", 1)[0]} `));
      return `unknown command; ${advice ?? `use ${quoted(group.length > 0 ? group : commands)}`}`;
    }
    case "commander.unknownOption": {
      const name = /'(--[a-z-]{1,24})(?:=.*)?'/s.exec(message)?.[1];
      const option = name === undefined ? "unknown option" : `unknown option '${name}'`;
      return advice === undefined ? option : `${option}; ${advice}`;
    }
    default:
      // The parser's other messages name options of this program and no values.
      return message.replace(/^error: /, "");
  }
}

/** For messages: `"keys list" or "keys rotate"`. */
function quoted(list: readonly Command[]): string {
  const names = list.map(({ name }) => `"${name}"`);
  return [names.slice(0, -1).join(", "), ...names.slice(-1)].filter(Boolean).join(" or ");
}

/** The usage of one command, or of the program, and where to read more. */
function usageOf(command: Command | undefined): string {
  if (command === undefined) {
    return `${overview}\n${overviewHint}\n`;
  }
  const lines = command.forms.map((form) => `rpc-session ${command.name} ${form}`);
  const more = `See "rpc-session ${command.name} --help" for examples.`;
  return `Usage: ${lines.join("\n       ")}\n${more}\n`;
}

/** A connection that failed at several addresses has an AggregateError without its own message. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}

function versionOf(): string {
  const file = fileURLToPath(import.meta.resolve("rpc-session/package.json"));
  return (JSON.parse(readFileSync(file, "utf8")) as { readonly version: string }).version;
}
