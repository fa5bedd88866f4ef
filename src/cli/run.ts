import { type ParseArgsConfig, parseArgs } from "node:util";
import { migrateDatabase, printMigrations } from "./migrate.ts";
import { UsageError, usage } from "./usage.ts";

/** What a command has to say, and its exit code. */
export interface Outcome {
  readonly code: 0 | 1 | 2;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line, without the names of program and script. Never rejects. */
export async function run(args: readonly string[]): Promise<Outcome> {
  try {
    return { code: 0, stdout: await command(args), stderr: "" };
  } catch (error) {
    const message = `rpc-session: ${messageOf(error)}\n`;
    return error instanceof UsageError
      ? { code: 2, stdout: "", stderr: `${message}\n${usage}` }
      : { code: 1, stdout: "", stderr: message };
  }
}

async function command(args: readonly string[]): Promise<string> {
  const { values, positionals } = parse(args);
  if (values.help) {
    return usage;
  }
  const [name, database, ...others] = positionals;
  if (name !== "migrate") {
    // Without its name: what stands in its place may be a URL with a password.
    throw new UsageError(name === undefined ? "no command given" : "unknown command");
  }
  if (database === undefined || others.length > 0) {
    throw new UsageError("migrate takes one database");
  }
  return values.print ? printMigrations(database) : migrateDatabase(database);
}

const options = {
  print: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const satisfies ParseArgsConfig["options"];

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

/** Errors of a connection that was tried at several addresses have their messages within. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}
