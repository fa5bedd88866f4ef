import type { SessionStore } from "../../engine/store.ts";
import { type RedisClient, serverTime } from "./scripts.ts";
import { RedisStore } from "./store.ts";

export type { RedisClient, RedisScriptArguments } from "./scripts.ts";

/** Options of {@link redisStore}. */
export interface RedisStoreOptions {
  /**
   * Separates the sessions of one service from others on the same server: 1 to 64 letters, digits,
   * `-`, `_`, `.` or `:`. Default "rpc-session".
   *
   * Every key begins with `{prefix}:`. The braces make it the hash tag of Redis Cluster, because a
   * session must end together with its entry in the change log, and a script can only touch keys of
   * one shard. So one store uses one shard, whatever the size of the cluster. Services with different
   * prefixes may use different shards.
   */
  readonly prefix?: string;
}

/**
 * Stores sessions in Redis 6.2 or newer, or in Valkey: for several servers that use Redis anyway.
 *
 * ```ts
 * import { createClient } from "redis";
 * const client = createClient({ url, disableOfflineQueue: true });
 * client.on("error", (error) => log.warn(error)); // without it, an outage ends the process
 * await client.connect();
 * const sessions = createSessions({ issuer, secret, store: redisStore(client) });
 * ```
 *
 * **Durability is weaker than with SQL.** Redis acknowledges a change before it is safe:
 *
 * - Without persistence, a restart loses everything: set `appendonly yes`. With the default
 *   `appendfsync everysec`, a crash loses up to about two seconds of acknowledged changes. With
 *   `appendfsync always` it loses none, at the cost of a disk write per change.
 * - Replication is asynchronous. A failover loses changes that were not copied yet, usually less than
 *   a second. A primary that is cut off from its replicas loses everything it acknowledges in the
 *   meantime; `min-replicas-to-write 1` and `min-replicas-max-lag` limit that. `WAIT` does not help.
 *
 * Lost changes never look like an outage. A lost sign-in is refused with `SIGN_IN`, a lost refresh is
 * repeated, and lost signing keys are replaced by new ones. Every server that remembers a lost
 * revocation writes it again. After a restart or failover, servers do not trust the change log until all earlier
 * access tokens have expired (15 min by default): they read the session for each call. A revocation stays lost if
 * all servers that remembered it are gone as well. If that is not acceptable, use PostgreSQL.
 *
 * **Requirements**
 *
 * - `maxmemory-policy` must be `noeviction`; otherwise `open` rejects.
 * - The Redis user needs read and write access to the keys, the commands of scripts, `INFO` and `TIME`.
 * - The store keeps no secret: pass the option `secret` to `createSessions`, the same on every server.
 * - You own the client: connect it first, and close it after the sessions. `close` does not close it.
 *
 * **Behaviour**
 *
 * - Every change is one Lua script that uses the server's clock. A call rejects after 5 s without a
 *   reply; its change may still happen. A command that the client still queues then is removed from its
 *   queue. This limit replaces the client's options `timeout`, even a shorter one, and `abortSignal`.
 * - Revocations of other servers arrive within milliseconds. The scripts publish to the channel
 *   `{prefix}:log`, and each server subscribes on a second connection, a duplicate of the client. A
 *   silent connection is replaced within 10 s.
 * - Without that connection, servers poll the change log at half of `maxStaleness`. That is the case
 *   while it is being replaced, with a client that cannot be duplicated (a pool), and if the Redis
 *   user may not access the channels `&{prefix}:log*`.
 * - Redis drops sessions 24 h after their end. One server at a time drops entries of the change log
 *   after 2 h, in batches.
 * - A session takes about 1,150 bytes in all: 730 for its row with a typical user agent and three
 *   claims, the rest for its key, its expiry and the index by user. Claims, private data or a method
 *   of authentication whose JSON is longer than 64 bytes cost about 1,000 more, because Redis then
 *   stores the row in another form. An id leaves the indexes when its session is revoked, or with its
 *   row.
 * - **When memory is full** (`maxmemory`), Redis 7 or newer refuses only new sessions and changes of
 *   claims or private data, as an outage. Sessions are still refreshed and revoked, sweeps free
 *   memory, and servers can start. Redis 6.2 refuses every write then, revocations included.
 * - `revokeAll` ends up to 500 sessions of a user or tenant in one script, in about 6 ms. If there are
 *   more, one step sets all of them apart, which ends them for every call on every server. Their rows
 *   and log entries are written 500 at a time, so that other commands run in between; the call
 *   resolves when all are written. The next `revokeAll` or `prune` completes an interrupted call.
 *   Ending 100,000 sessions took 1.5 s on one core, while other commands waited 6 ms (median) to
 *   30 ms (99 %). A single script would have blocked Redis for 1.3 s.
 * - With `sessionsPerUser`, the script of a sign-in reads all sessions of the user or of the tenant,
 *   whichever has fewer, and evicts in the same step. If it evicts more than 500, for example at the
 *   first sign-in after a limit was set, it sets them apart as `revokeAll` does, and ends them 500 at a
 *   time. With 100,000 sessions that first script takes about a second.
 * - `open` adds sessions of schema 1, which had no indexes, to the indexes, by `SCAN` in steps of 500
 *   keys. Replace all servers within a day. `revokeAll` finds sessions that servers of schema 1 create
 *   in the meantime; lists and limits find them after that day. Servers of schema 1 treat a session
 *   with updated claims as revoked.
 * - A long user agent is stored in parts. Servers of an older version show no device for such a
 *   session; everything else works beside them.
 *
 * @param client a client of node-redis 5 or 6 on the primary: a client, a pool, a cluster or a sentinel
 * @throws TypeError when `client` is not such a client, or `prefix` is invalid
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): SessionStore {
  const { prefix = "rpc-session" } = options;
  if (typeof client?.evalSha !== "function" || typeof client.eval !== "function") {
    throw new TypeError(
      "redisStore: the client must come from the package redis (node-redis), such as createClient({ url })",
    );
  }
  if (typeof prefix !== "string" || !/^[\w.:-]{1,64}$/.test(prefix)) {
    throw new TypeError(
      `redisStore: prefix must be 1 to 64 letters, digits, "-", "_", "." or ":", got ${JSON.stringify(prefix)}`,
    );
  }
  return new RedisStore(client, { prefix, time: serverTime });
}
