import { createHash } from "node:crypto";
import type { Clock } from "../../base/clock.ts";
import { type RedisScriptName, redisScripts } from "./gen/scripts.ts";
import type { RedisKeys } from "./rows.ts";
import { Turns } from "./turns.ts";

/**
 * The part of a Redis client that `redisStore` needs: two methods of node-redis (the package `redis`,
 * version 5 or 6). It also uses `withCommandOptions`, if the client has it. The results of
 * `createClient`, `createClientPool`, `createCluster` and `createSentinel` fit without a cast.
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

/** Lua that sets `now` to the server's clock in milliseconds; it is constant within a script. */
export const serverTime: string = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/**
 * Milliseconds after which a call counts as failed. A client that lost its connection queues its
 * commands until it has a new one, which may take forever. A request cannot wait that long.
 */
const answerWithin = 5_000;
/** Commands that begin within this many milliseconds share a deadline. A command may get that much less time. */
const sharedFor = 100;
/** Commands that share a deadline, at most: a signal takes longer to use the more commands have it. */
const sharedMax = 1_000;

/** Options of {@link RedisScripts}. */
interface RedisScriptsOptions {
  readonly keys: RedisKeys;
  readonly clock: Clock;
  /** Lua that sets `now`. */
  readonly time: string;
}

/**
 * Scripts that Redis refuses when its memory is full. All others go on: they free memory, or need a
 * few bytes at most, and a session that was revoked must end.
 */
const growing: ReadonlySet<RedisScriptName> = new Set([
  ...(["insert", "update", "indexSessions", "appendAudit"] as const),
]);

/** The first line of a script that may run when memory is full. Redis 7 or newer knows it. */
const whenFull = "#!lua flags=allow-oom\n";

/** Runs the Lua scripts of one store; see lua/. */
export class RedisScripts {
  readonly keys: RedisKeys;
  readonly #client: RedisClient;
  readonly #clock: Clock;
  readonly #time: string;
  readonly #scripts = new Map<RedisScriptName, Script>();
  readonly #turns = new Turns();
  /** The first line of scripts that may run when memory is full. */
  #whenFull = "";
  #current: Deadline | undefined;

  constructor(client: RedisClient, { keys, clock, time }: RedisScriptsOptions) {
    this.keys = keys;
    this.#client = client;
    this.#clock = clock;
    this.#time = time;
  }

  /** Finds out whether the server knows flags of scripts. Rejects when Redis did not answer in time. */
  async learnFlags(): Promise<void> {
    const probe = { keys: [this.keys.meta], arguments: [] };
    try {
      const deadline = this.#deadline();
      await deadline.inTime(deadline.client.eval(`${whenFull}return {}`, probe));
      this.#whenFull = whenFull;
    } catch (error) {
      // Before Redis 7, a script that begins with "#!" is not Lua.
      if (!(error instanceof Error && /compil/i.test(error.message))) {
        throw error;
      }
    }
  }

  /** Runs a script and returns the texts of its reply. Rejects when Redis could not run it in time. */
  async run(
    name: RedisScriptName,
    keys: readonly string[],
    args: readonly (string | number)[] = [],
  ): Promise<string[]> {
    const { sha, script } = this.#scriptNamed(name);
    const given = { keys: [...keys], arguments: args.map(String) };
    const deadline = this.#deadline();
    let reply: unknown;
    try {
      reply = await deadline.inTime(deadline.client.evalSha(sha, given));
    } catch (error) {
      if (!(error instanceof Error && error.message.startsWith("NOSCRIPT"))) {
        throw error;
      }
      // After a restart or a failover the server does not have the script, and has run nothing.
      reply = await deadline.inTime(deadline.client.eval(script, given));
    }
    if (!Array.isArray(reply)) {
      throw new Error(
        "redisStore: the client did not return a script's reply as an array; remove its type mapping for arrays",
      );
    }
    const turn = this.#turns.take();
    if (turn !== undefined) {
      await turn;
    }
    // Clients can be configured to return text as buffers.
    return reply.every(isText) ? reply : reply.map(String);
  }

  #scriptNamed(name: RedisScriptName): Script {
    const known = this.#scripts.get(name);
    if (known !== undefined) {
      return known;
    }
    const script = (growing.has(name) ? "" : this.#whenFull) + this.#time + redisScripts[name];
    const made = { script, sha: createHash("sha1").update(script).digest("hex") };
    this.#scripts.set(name, made);
    return made;
  }

  /** The deadline of commands that begin now. */
  #deadline(): Deadline {
    const now = this.#clock.monotonic();
    if (this.#current?.isOpen(now) !== true) {
      this.#current = new Deadline(this.#client, this.#clock, now);
    }
    return this.#current;
  }
}

/**
 * A deadline that commands share if they begin within a tenth of a second. It has one timer and one abort
 * signal. The signal removes unsent commands from the client's queue.
 *
 * By default, node-redis makes a timer and a signal for each command. Both outlive the command. Together
 * they cost about as much as sending it.
 */
class Deadline {
  /** The client to send with. A client of node-redis drops unsent commands at the deadline. */
  readonly client: RedisClient;
  /** Monotonic milliseconds. */
  readonly #begun: number;
  readonly #unsent = new AbortController();
  readonly #waiting = new Set<(late: Error) => void>();
  #commands = 0;

  constructor(client: RedisClient, clock: Clock, begun: number) {
    this.#begun = begun;
    this.client = adjusted(client, { timeout: undefined, abortSignal: this.#unsent.signal });
    clock.after(answerWithin, () => {
      for (const reject of this.#waiting) {
        reject(new Error(`redisStore: Redis did not answer within ${answerWithin / 1000} s`));
      }
      this.#unsent.abort();
    });
  }

  /** Whether a further command may share it. */
  isOpen(now: number): boolean {
    const isRecent = now - this.#begun < sharedFor && this.#commands < sharedMax;
    return isRecent && !this.#unsent.signal.aborted;
  }

  /** Settles like `work`, or rejects at the deadline. */
  inTime<T>(work: Promise<T>): Promise<T> {
    this.#commands++;
    return new Promise((resolve, reject) => {
      this.#waiting.add(reject);
      work.then(
        (reply) => {
          this.#waiting.delete(reject);
          resolve(reply);
        },
        (error) => {
          this.#waiting.delete(reject);
          reject(error);
        },
      );
    });
  }
}

/** Options for each command of node-redis. */
interface CommandOptions {
  /** Undefined: no timer for each command. */
  readonly timeout: undefined;
  readonly abortSignal: AbortSignal;
}

/** A client that has `withCommandOptions`, as all clients of node-redis do. */
interface AdjustableClient extends RedisClient {
  withCommandOptions?(options: CommandOptions): RedisClient;
}

/** Returns the client with other options; unchanged if its methods were replaced, because the copy lacks that. */
function adjusted(client: AdjustableClient, options: CommandOptions): RedisClient {
  const copy = client.withCommandOptions?.(options);
  return copy?.evalSha === client.evalSha && copy.eval === client.eval ? copy : client;
}

/** A script with everything that goes in front of it, and its name in Redis. */
interface Script {
  readonly script: string;
  /** SHA-1, hexadecimal. */
  readonly sha: string;
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}
