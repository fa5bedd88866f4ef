import type { SessionStore } from "../../engine/store.ts";

import { type RedisClient, serverTime } from "./scripts.ts";
import { RedisStore } from "./store.ts";

export type { RedisClient, RedisScriptArguments } from "./scripts.ts";

/** The options of {@link redisStore}. */
export interface RedisStoreOptions {
  /**
   * Names the sessions of one service among others on the same server: 1 to 64 letters, digits,
   * `-`, `_`, `.` or `:`. Default "rpc-session". Every key begins with `{prefix}:`. The braces make
   * it the hash tag of Redis Cluster: scripts may only touch keys of one shard, and a session must
   * end together with its entry in the change log. So one store lives on one shard, however large
   * the cluster; services with prefixes of their own spread over it.
   */
  readonly prefix?: string;
}

/**
 * Sessions in Redis 6.2 or newer, or Valkey: for several servers, where a Redis is kept anyway.
 *
 * ```ts
 * import { createClient } from "redis";
 * const client = createClient({ url, disableOfflineQueue: true });
 * client.on("error", (error) => log.warn(error));      // without it, an outage ends the process
 * await client.connect();
 * const sessions = createSessions({ issuer, secret, store: redisStore(client) });
 * ```
 *
 * **It is weaker than SQL.** Redis acknowledges a change before it is safe:
 *
 * - Without persistence, a restart loses everything. Set `appendonly yes`. With `appendfsync
 *   everysec`, its default, a crash loses up to about two seconds of acknowledged changes, with
 *   `appendfsync always` none, at the price of a disk write per change.
 * - Replicas follow later. A failover loses what was not copied yet, usually less than a second; a
 *   primary cut off from its replicas loses all it acknowledged meanwhile (`min-replicas-to-write 1`
 *   and `min-replicas-max-lag` bound that). `WAIT` does not change this.
 *
 * What was lost is treated as lost, never as an outage: a lost sign-in is refused with `SIGN_IN`, a
 * lost refresh is repeated, and lost signing keys are made anew. A lost revocation is written again
 * by every server that still knows it. From a restart or failover on, until the tokens of before
 * have expired (1 h), servers read the session for each call instead of trusting the change log; a
 * revocation that only servers knew which are gone as well stays lost. If that must not happen,
 * use PostgreSQL.
 *
 * - `maxmemory-policy` must be `noeviction`; `open` rejects otherwise. The user needs the commands
 *   of scripts, `INFO` and `TIME`, and read and write access to the keys.
 * - Every change is one Lua script by the server's own clock. A call without an answer for 5 s
 *   rejects; its change may still happen, as if the answer was lost.
 * - What another server revoked is known here within milliseconds: the scripts publish to the channel
 *   `{prefix}:log`, and each server subscribes on one connection more, a duplicate of the client's;
 *   one that falls silent is replaced within 10 s. Meanwhile, with a client that cannot be duplicated
 *   (a pool), and where the user may not use channels (`&{prefix}:log*`), it is known at the next read
 *   of the change log, every half of `maxStaleness`.
 * - Redis drops sessions 24 h after their end by itself. Entries of the change log are dropped after
 *   2 h, in batches, by one server at a time.
 * - Sessions are found by user and by tenant through sorted sets, about 400 bytes a session beside
 *   some 600 for itself. An id leaves them when its session is revoked, or with its row.
 * - `revokeAll` ends up to 500 sessions of a user or tenant in one script, which takes some 6 ms. More
 *   are set apart in one step, whatever their number: from then on they are ended for every call on
 *   every server. Their rows and entries of the change log are written 500 at a time, so that other
 *   commands go in between, and the call resolves when all are there. 100,000 took 1.5 s on one core,
 *   with others waiting 6 ms (median) to 30 ms (99 %); one script would have stopped Redis for 1.3 s.
 *   What a call that was cut short left to write, the next `revokeAll` or `prune` writes.
 * - A limit reads every session of the user in the script that signs in, and evicts in it: the first
 *   sign-in after a limit was set ends all that are too many at once, about 15 µs each.
 * - Sessions of before there were indexes (schema 1) are added by the first `open`, by `SCAN` in steps
 *   of 500 keys. Replace all servers within a day. Sessions that a server of before begins meanwhile
 *   are seen by `revokeAll`, which looks for them that day, but in lists and limits only after it; and
 *   servers of before take a session whose claims were updated for a revoked one.
 * - It keeps no secret: give `createSessions` one, the same on every server.
 * - The client stays yours: connect it before, and close it after the sessions. `close` does not.
 *
 * @param client of node-redis 5 or 6, on the primary: a client, a pool, a cluster or a sentinel
 * @throws TypeError when `client` is none, or `prefix` is not as above
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): SessionStore {
  const { prefix = "rpc-session" } = options;
  if (typeof client?.evalSha !== "function" || typeof client.eval !== "function") {
    throw new TypeError(
      "redisStore: give a client of the package redis (node-redis), such as createClient({ url })",
    );
  }
  if (typeof prefix !== "string" || !/^[\w.:-]{1,64}$/.test(prefix)) {
    throw new TypeError(
      `redisStore: prefix: ${JSON.stringify(prefix)} must be 1 to 64 letters, digits, "-", "_", "." or ":"`,
    );
  }
  return new RedisStore(client, { prefix, time: serverTime });
}
