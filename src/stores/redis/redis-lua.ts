import { base } from "./lua/redis-lua-base.ts";
import * as keys from "./lua/redis-lua-keys.ts";
import { changes, pruneLog, publish } from "./lua/redis-lua-log.ts";
import * as owners from "./lua/redis-lua-owners.ts";
import { pruneIndexes, rows } from "./lua/redis-lua-rows.ts";
import * as schema from "./lua/redis-lua-schema.ts";
import * as sessions from "./lua/redis-lua-sessions.ts";

type PlainName =
  | "changes"
  | "pruneLog"
  | "publish"
  | keyof typeof keys
  | Exclude<keyof typeof schema, "open" | "indexSessions">;
type OnRowsName = "indexSessions" | "pruneIndexes" | keyof typeof sessions | keyof typeof owners;

const { open, indexSessions, ...upgrade } = schema;
/** Scripts of the store's other keys. */
const plain: Readonly<Record<PlainName, string>> = {
  changes,
  pruneLog,
  publish,
  ...keys,
  ...upgrade,
};
/** Scripts that touch sessions. */
const onRows: Readonly<Record<OnRowsName, string>> = {
  indexSessions,
  pruneIndexes,
  ...sessions,
  ...owners,
};

/** The scripts of a store. */
export type RedisScriptName = "open" | PlainName | OnRowsName;

/** The scripts of a store, by name. @param time Lua that sets `now` */
export function redisScripts(time: string): Readonly<Record<RedisScriptName, string>> {
  return {
    open,
    ...prefixed(time + base, plain),
    ...prefixed(time + base + rows, onRows),
  };
}

function prefixed<Name extends string>(
  helpers: string,
  scripts: Readonly<Record<Name, string>>,
): Record<Name, string> {
  const entries = Object.entries<string>(scripts).map(([name, body]) => [name, helpers + body]);
  return Object.fromEntries(entries) as Record<Name, string>;
}
