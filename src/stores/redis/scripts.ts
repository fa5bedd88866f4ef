import { createHash } from "node:crypto";
import type { Clock } from "../../base/clock.ts";
import * as keys from "./lua/keys.ts";
import { changes, pruneLog, publish } from "./lua/log.ts";
import * as owners from "./lua/owners.ts";
import { pruneIndexes, rows } from "./lua/rows.ts";
import * as schema from "./lua/schema.ts";
import * as sessions from "./lua/sessions.ts";
import { base } from "./lua/shared.ts";

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

/**
 * What `redisStore` needs of a Redis client: two of the methods of node-redis (the package `redis`,
 * version 5 or 6). What `createClient`, `createClientPool`, `createCluster` and `createSentinel`
 * return fits without a cast.
 */
export interface RedisClient {
  eval(script: string, options: RedisScriptArguments): Promise<unknown>;
  evalSha(sha1: string, options: RedisScriptArguments): Promise<unknown>;
}

/** The keys and arguments of a Lua script. */
export interface RedisScriptArguments {
  keys: string[];
  arguments: string[];
}

/** Runs a script and returns the texts it replied. Rejects when Redis could not run it. */
export type RunRedisScript = (
  name: RedisScriptName,
  keys: readonly string[],
  args?: readonly (string | number)[],
) => Promise<string[]>;

/**
 * Milliseconds after which a call counts as failed. A client that lost its connection keeps its
 * commands until there is one again, which may take for ever; nobody waits so long for a request.
 */
const answerWithin = 5_000;

/** @param time Lua that sets `now` */
export function redisScriptRunner(client: RedisClient, clock: Clock, time: string): RunRedisScript {
  const scripts = redisScripts(time);
  const shas = new Map<string, string>();
  return async (name, keys, args = []) => {
    const script = scripts[name];
    const sha = shas.get(name) ?? createHash("sha1").update(script).digest("hex");
    shas.set(name, sha);
    const given = { keys: [...keys], arguments: args.map(String) };
    return toTexts(await inTime(clock, evaluate(client, { sha, script }, given)));
  };
}

async function evaluate(
  client: RedisClient,
  { sha, script }: { readonly sha: string; readonly script: string },
  given: RedisScriptArguments,
): Promise<unknown> {
  try {
    return await client.evalSha(sha, given);
  } catch (error) {
    if (!(error instanceof Error && error.message.startsWith("NOSCRIPT"))) {
      throw error;
    }
    // A server that restarted or was failed over to does not know it yet, and has run nothing.
    return client.eval(script, given);
  }
}

function inTime<T>(clock: Clock, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(answerWithin, () => {
      reject(new Error(`redisStore: Redis did not answer within ${answerWithin / 1000} s`));
    });
    work.then(resolve, reject).finally(cancel);
  });
}

function toTexts(reply: unknown): string[] {
  if (!Array.isArray(reply)) {
    throw new Error("redisStore: the client did not return a script's reply as an array");
  }
  // Clients may be told to return text as buffers.
  return reply.map(String);
}
