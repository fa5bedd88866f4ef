import { existsSync } from "node:fs";
import { systemClock } from "../base/clock.ts";
import type { SessionStore } from "../engine/store.ts";
import { postgresDialect } from "../stores/postgres/dialect.ts";
import { postgresStore } from "../stores/postgres/index.ts";
import { redisStore } from "../stores/redis/index.ts";
import type { SqlDialect } from "../stores/sql/database.ts";
import { sqliteDialect } from "../stores/sqlite/dialect.ts";
import { sqliteStore } from "../stores/sqlite/index.ts";
import {
  type Answer,
  type Command,
  type Given,
  type StoreCommand,
  textOf,
  UsageError,
} from "./command.ts";

/** How the arguments of every command on a store are described. */
const databaseHelp = `  <database>   postgres://user@host/name (set PGPASSWORD to keep a password out of the process list),
               redis://host or rediss://host, or the path of a SQLite file. If it is left out, it is
               read from the environment variable RPC_SESSION_DATABASE
  --prefix     the prefix of a Redis store, if it is not "rpc-session"
  --json       print JSON
  -h, --help   print this help
`;

const options = {
  prefix: { type: "string" },
  json: { type: "boolean", default: false },
} as const;

/** A command that opens a store, works on it and closes it. */
export function onStore(command: StoreCommand): Command {
  return {
    ...command,
    help: `${command.help}${databaseHelp}`,
    options: { ...options, ...command.options },
    run: (given) => withStore(given, (store) => command.run({ ...given, store })),
  };
}

async function withStore(
  given: Given,
  work: (store: SessionStore) => Promise<Answer>,
): Promise<Answer> {
  const { database } = given;
  if (/^rediss?:/.test(database)) {
    return withRedis(database, textOf(given, "prefix"), work);
  }
  if (given.options.prefix !== undefined) {
    throw new UsageError("--prefix is for Redis only; leave it out, or give a redis:// URL");
  }
  if (kindOf(database, "a postgres:// or redis:// URL") === sqlite && !existsSync(database)) {
    // A mistyped path must not become a new, empty database.
    throw new UsageError(
      "the SQLite file does not exist; give the path of the file with the sessions",
    );
  }
  return use(openable(database), work);
}

async function use(
  store: SessionStore,
  work: (store: SessionStore) => Promise<Answer>,
): Promise<Answer> {
  await store.open({ clock: systemClock });
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

async function withRedis(
  url: string,
  prefix: string | undefined,
  work: (store: SessionStore) => Promise<Answer>,
): Promise<Answer> {
  // Loaded only here: the package is optional.
  const { createClient } = await import("redis");
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

export interface DatabaseKind {
  readonly dialect: SqlDialect;
  readonly store: (database: string) => SessionStore;
}

const postgres: DatabaseKind = { dialect: postgresDialect, store: (url) => postgresStore(url) };
const sqlite: DatabaseKind = { dialect: sqliteDialect, store: (file) => sqliteStore(file) };

/** The names that `migrate --print` accepts instead of a database. */
export const kinds: ReadonlyMap<string, DatabaseKind> = new Map([
  ["postgres", postgres],
  ["sqlite", sqlite],
]);

/**
 * @param urls the URLs that the command takes
 * @throws UsageError for a URL that is not one of a SQL database
 */
export function kindOf(database: string, urls = "a postgres:// URL"): DatabaseKind {
  if (/^postgres(ql)?:/.test(database)) {
    return postgres;
  }
  // Repeats only the scheme, because the rest may contain a password. One letter is a Windows drive.
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(database)?.[1];
  if (scheme !== undefined) {
    throw new UsageError(
      `"${scheme}:" is not a database of this command; use ${urls} or the path of a SQLite file`,
    );
  }
  return sqlite;
}

/** Creates the store of a SQL database. @throws UsageError */
export function openable(database: string): SessionStore {
  try {
    return kindOf(database).store(database);
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}
