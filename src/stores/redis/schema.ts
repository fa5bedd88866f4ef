import type { RedisKeys } from "./rows.ts";
import type { RunRedisScript } from "./scripts.ts";

/** The version of what is kept in Redis. Since 2, sessions have indexes by user and by tenant. */
const schema = 2;
/** Keys that a script looks at: some milliseconds, also when all of them are sessions. */
const scanStep = 500;

/**
 * Brings what is kept up to date.
 * @throws Error when sessions cannot be kept on this server, with what to change
 */
export async function openRedis(run: RunRedisScript, keys: RedisKeys): Promise<void> {
  const [policy, replicationId, found] = await run("open", [keys.meta], [schema]);
  checkServer(policy, replicationId);
  if (Number(found) > schema) {
    throw new Error(
      `redisStore: these sessions were written by a newer rpc-session (schema ${found}, this version knows ${schema}); upgrade this server, too`,
    );
  }
  if (Number(found) < schema) {
    await indexRedisSessions(run, keys);
    await run("upgraded", [keys.meta], [schema]);
  }
}

/**
 * Adds every session to the indexes that is not in them, as those are which servers of schema 1
 * began. In steps; several at once do no harm.
 */
export async function indexRedisSessions(run: RunRedisScript, keys: RedisKeys): Promise<void> {
  let cursor = "0";
  do {
    [, cursor = "0"] = await run("indexSessions", keys.rows, [cursor, scanStep]);
  } while (cursor !== "0");
}

/** A day after an upgrade, adds what servers of schema 1 had begun until they were gone. */
export async function finishUpgrade(run: RunRedisScript, keys: RedisKeys): Promise<void> {
  const [, due] = await run("mixedEnds", [keys.meta]);
  if (due === "due") {
    await indexRedisSessions(run, keys);
    await run("mixedEnded", [keys.meta]);
  }
}

function checkServer(policy: string | undefined, replicationId: string | undefined): void {
  if (policy === "" || replicationId === "") {
    throw new Error(
      "redisStore: INFO does not tell maxmemory_policy and master_replid; allow INFO to the store's user (ACL SETUSER <user> +info), because a server that evicts sessions or fails over unnoticed cannot keep them",
    );
  }
  if (policy !== "noeviction") {
    throw new Error(
      `redisStore: this server drops keys when its memory is full (maxmemory-policy ${policy}), revoked sessions and signing keys among them; set maxmemory-policy noeviction, or use a server of its own`,
    );
  }
}
