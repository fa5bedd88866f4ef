import { parseArgs } from "node:util";
import { type Command, type CommandWorld, type Given, UsageError } from "./command.ts";
import { keysList, keysRetire, keysRotate } from "./keys.ts";
import { migrateCommand } from "./migrate.ts";
import { secretsList, secretsRetire } from "./secrets.ts";
import { sessionsRevoke } from "./sessions.ts";

const commands: readonly Command[] = [
  migrateCommand,
  ...[keysList, keysRotate, keysRetire],
  ...[secretsList, secretsRetire],
  sessionsRevoke,
];

/** The output of a command, and its exit code. */
export interface Outcome {
  readonly code: 0 | 1 | 2;
  readonly stdout: string;
  readonly stderr: string;
}

const exitCodes = "Exit code: 0 success, 1 failure, 2 invalid arguments.\n";

/**
 * Runs the command line. Never rejects.
 *
 * @param args without the names of the program and its script
 */
export async function run(args: readonly string[], { env }: CommandWorld): Promise<Outcome> {
  const command = commandOf(args);
  try {
    return { code: 0, stdout: await outputOf(command, args, env), stderr: "" };
  } catch (error) {
    const message = `rpc-session: ${messageOf(error)}\n`;
    return error instanceof UsageError
      ? { code: 2, stdout: "", stderr: `${message}\n${usageOf(command)}` }
      : { code: 1, stdout: "", stderr: message };
  }
}

/** The command that the first words name; undefined if there is none. */
function commandOf(args: readonly string[]): Command | undefined {
  return commands.find(({ name }) => name.split(" ").every((word, i) => args[i] === word));
}

async function outputOf(
  command: Command | undefined,
  args: readonly string[],
  env: CommandWorld["env"],
): Promise<string> {
  if (command === undefined) {
    const [first] = args;
    if (first === "--help" || first === "-h") {
      return usageOf(undefined);
    }
    // Never repeats the argument: it may be a URL with a password.
    const known = commands.map(({ name }) => `"${name}"`).join(", ");
    throw new UsageError(
      `${first === undefined ? "no command given" : "unknown command"}; use ${known}`,
    );
  }
  const { values, positionals } = parse(command, args.slice(command.name.split(" ").length));
  if (values.help) {
    return usageOf(command);
  }
  const given = { ...readPositionals(command, positionals, env), options: values, env };
  const { text, json } = await command.run(given);
  return values.json ? `${JSON.stringify(json, undefined, 2)}\n` : text;
}

interface Parsed {
  readonly values: Given["options"];
  readonly positionals: readonly string[];
}

function parse(command: Command, args: readonly string[]): Parsed {
  const options: NonNullable<Command["options"]> = {
    ...command.options,
    help: { type: "boolean", short: "h" },
  };
  try {
    const { values, positionals } = parseArgs({
      args: idsLast(args, options, command.names),
      ...{ options, allowPositionals: true },
    });
    return { values: values as Given["options"], positionals };
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

/**
 * Ids of keys and secrets are base64url: one of 64 begins with "-" and looks like an option. Moves them
 * behind "--".
 */
function idsLast(
  args: readonly string[],
  options: NonNullable<Command["options"]>,
  names: readonly string[] = [],
): string[] {
  const isId = (arg: string): boolean =>
    /^-(?:[\w-]{7}|[\w-]{42})$/.test(arg) && !Object.hasOwn(options, arg.slice(2));
  const isOption = names.length === 0 || args.includes("--");
  const ids = isOption ? [] : args.filter(isId);
  return ids.length === 0 ? [...args] : [...args.filter((arg) => !isId(arg)), "--", ...ids];
}

/**
 * The database and the named arguments after it. The database may come from the environment; then it
 * may be left out.
 */
function readPositionals(
  { name, names = [], optional = [] }: Command,
  positionals: readonly string[],
  env: CommandWorld["env"],
): Pick<Given, "database" | "named"> {
  const fromEnv = env.RPC_SESSION_DATABASE === "" ? undefined : env.RPC_SESSION_DATABASE;
  const isGiven = fromEnv === undefined || positionals.length > names.length;
  const database = isGiven ? positionals[0] : fromEnv;
  const rest = isGiven ? positionals.slice(1) : positionals;
  const surplus = Math.max(0, rest.length - names.length);
  if (database === undefined || surplus > 0) {
    const count = database === undefined ? 0 : 1 + surplus;
    throw new UsageError(`"${name}" takes exactly one database, got ${count}`);
  }
  const missing = names.find((one, i) => rest[i] === undefined && !optional.includes(one));
  if (missing !== undefined) {
    throw new UsageError(`"${name}" needs <${missing}> after the database`);
  }
  return { database, named: Object.fromEntries(rest.map((value, i) => [names[i] ?? "", value])) };
}

/** The usage of one command, or of all. */
function usageOf(command: Command | undefined): string {
  const shown = command === undefined ? commands : [command];
  const lines = shown.flatMap(({ name, forms }) =>
    forms.map((form) => `rpc-session ${name} ${form}`),
  );
  const usage = `Usage: ${lines.join("\n       ")}\n`;
  const more = command?.help ?? "Each command explains itself with --help.\n";
  return `${usage}\n${more}\n${exitCodes}`;
}

/** A connection that failed at several addresses has an AggregateError without its own message. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}
