import { existsSync } from "node:fs";
import { systemClock } from "../base/clock.ts";
import type { SessionStore } from "../engine/store.ts";
import type { SqlDialect } from "../stores/sql/database.ts";
import {
  type Answer,
  asUsage,
  type Command,
  type CommandOption,
  type Explained,
  type Given,
  textOf,
  UsageError,
} from "./command.ts";

/** A command on an open store. Its database is the first argument, unless the environment has it. */
export interface StoreCommand extends Omit<Command, "run" | "arguments"> {
  /** The arguments after the database. */
  readonly names?: readonly ArgumentName[];
  run(given: StoreGiven): Promise<Answer>;
}

/** The arguments of a command on a store, and the open store. */
export interface StoreGiven extends Given {
  readonly store: SessionStore;
  /** The arguments after the database, in the order of their names. */
  readonly rest: readonly string[];
}

/** An argument after the database. */
interface ArgumentName {
  readonly name: string;
  readonly meaning: string;
  /** How often it must and may be given. Default: once. */
  readonly count?: "optional" | "any";
}

const databaseHelp =
  "postgres://user@host/name (set PGPASSWORD to keep a password out of the process list), redis://host or rediss://host, or the path of a SQLite file. Default: the environment variable RPC_SESSION_DATABASE";

/** The options of every command on a store. */
export const storeOptions: readonly CommandOption[] = [
  {
    flags: "--prefix <prefix>",
    meaning: 'the prefix of a Redis store, if it is not "rpc-session"',
  },
];

/** A command that opens a store, works on it and closes it. */
export function onStore(command: StoreCommand): Command {
  const { names = [] } = command;
  return {
    ...command,
    arguments: [
      ["[database]", databaseHelp],
      ...names.map(({ name, meaning, count }): Explained => {
        return [count === "any" ? `[${name}...]` : `[${name}]`, meaning];
      }),
    ],
    options: [...(command.options ?? []), ...storeOptions],
    run: (given) => {
      const { database, rest } = readArguments(command, given);
      return withStore(database, given, (store) => command.run({ ...given, store, rest }));
    },
  };
}

/**
 * Splits the arguments into the database and the others. The database may come from the environment;
 * then it may be left out.
 * @throws UsageError
 */
function readArguments(
  { name, names = [] }: StoreCommand,
  { args, env }: Given,
): { readonly database: string; readonly rest: readonly string[] } {
  const fromEnv = databaseOf(env);
  const isOpen = names.some(({ count }) => count === "any");
  // Ids have exactly 22 characters, and no path of a database file looks like that.
  const isGiven = isOpen ? !hasSessionIdForm(args[0] ?? "") : args.length > names.length;
  const isFirst = args[0] !== undefined && (fromEnv === undefined || isGiven);
  const database = isFirst ? args[0] : fromEnv;
  const rest = isFirst ? args.slice(1) : args;
  const surplus = isOpen ? 0 : Math.max(0, rest.length - names.length);
  if (database === undefined || surplus > 0) {
    const count = database === undefined ? 0 : 1 + surplus;
    throw new UsageError(`"${name}" takes exactly one database, got ${count}`);
  }
  const missing = names.find((one, i) => rest[i] === undefined && one.count === undefined);
  if (missing !== undefined) {
    throw new UsageError(`"${name}" needs <${missing.name}> after the database`);
  }
  return { database, rest };
}

/** The database that the environment names. */
export function databaseOf(env: Given["env"]): string | undefined {
  return env.RPC_SESSION_DATABASE === "" ? undefined : env.RPC_SESSION_DATABASE;
}

/** Whether a text has the form of a session's id: 16 bytes in base64url. */
export function hasSessionIdForm(text: string): boolean {
  return /^[\w-]{22}$/.test(text);
}

/** Opens the store of a database, works on it and closes it. @throws UsageError */
export async function withStore<T>(
  database: string,
  given: Pick<Given, "options">,
  work: (store: SessionStore) => Promise<T>,
): Promise<T> {
  if (/^rediss?:/.test(database)) {
    return withRedis(database, textOf(given, "prefix"), work);
  }
  if (given.options.prefix !== undefined) {
    throw new UsageError("--prefix is for Redis only; leave it out, or give a redis:// URL");
  }
  const kind = kindOf(database, "a postgres:// or redis:// URL");
  if (kind === "sqlite" && !existsSync(database)) {
    // A mistyped path must not become a new, empty database.
    throw new UsageError(
      "the SQLite file does not exist; give the path of the file with the sessions",
    );
  }
  return use(await openable(database), work);
}

async function use<T>(store: SessionStore, work: (store: SessionStore) => Promise<T>): Promise<T> {
  await store.open({ clock: systemClock });
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

async function withRedis<T>(
  url: string,
  prefix: string | undefined,
  work: (store: SessionStore) => Promise<T>,
): Promise<T> {
  // Loaded only here: the package is optional.
  const { createClient } = await import("redis");
  const { redisStore } = await import("../stores/redis/index.ts");
  const socket = { connectTimeout: 10_000, reconnectStrategy: false } as const;
  const client = createRedis(() => createClient({ url, disableOfflineQueue: true, socket }));
  // Without a listener an error would end the process; the failed call reports it.
  client.on("error", () => {});
  await client.connect();
  try {
    return await use(redisStore(client, prefix === undefined ? {} : { prefix }), work);
  } finally {
    client.destroy();
  }
}

/** @throws UsageError if the URL is not valid. Repeats no part of it, because it may hold a password */
function createRedis<T>(create: () => T): T {
  try {
    return create();
  } catch {
    throw new UsageError(
      'the Redis URL is not valid; in the password, write "/", "#", "?", "@" and "%" as %2F, %23, %3F, %40 and %25',
    );
  }
}

/** A kind of SQL database. Its name is that which `migrate --print` accepts instead of a database. */
export type DatabaseKind = "postgres" | "sqlite";

/** Returns the dialect of a kind. Loaded only here: the commands without a database start faster. */
export async function dialectOf(kind: DatabaseKind): Promise<SqlDialect> {
  return kind === "postgres"
    ? (await import("../stores/postgres/dialect.ts")).postgresDialect
    : (await import("../stores/sqlite/dialect.ts")).sqliteDialect;
}

/**
 * @param urls the URLs that the command takes
 * @throws UsageError for a URL that is not one of a SQL database
 */
export function kindOf(database: string, urls = "a postgres:// URL"): DatabaseKind {
  if (/^postgres(ql)?:/.test(database)) {
    return "postgres";
  }
  // Repeats only the scheme, because the rest may contain a password. One letter is a Windows drive.
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(database)?.[1];
  if (scheme !== undefined) {
    throw new UsageError(
      `"${scheme}:" is not a database of this command; use ${urls} or the path of a SQLite file`,
    );
  }
  return "sqlite";
}

/** Creates the store of a SQL database. @throws UsageError */
export async function openable(database: string): Promise<SessionStore> {
  if (kindOf(database) === "postgres") {
    const { postgresStore } = await import("../stores/postgres/index.ts");
    return asUsage(() => postgresStore(database));
  }
  const { sqliteStore } = await import("../stores/sqlite/index.ts");
  return asUsage(() => sqliteStore(database));
}
