import type { RedisScripts } from "./scripts.ts";

/** The version of the data in Redis. Since version 2, sessions are indexed by user and by tenant. */
const schema = 2;
/** The oldest schema whose servers work with this data. They may start again beside newer servers. */
const compatibleFrom = 2;
/** Keys that one script scans: a few milliseconds, even if all of them are sessions. */
const scanStep = 500;

/**
 * Checks the server and upgrades the data to the current schema.
 * @throws Error if the server may lose sessions, or a newer version wrote the data, with which this
 *   version does not work
 */
export async function openSchema(redis: RedisScripts): Promise<void> {
  const { meta } = redis.keys;
  const schemas = [schema, compatibleFrom];
  const [policy, replicationId, found, oldest] = await redis.run("open", [meta], schemas);
  checkServer(policy, replicationId);
  if (Number(oldest) > schema) {
    throw new Error(
      `redisStore: these sessions were written by a newer rpc-session (schema ${found}, this version supports ${schema}), and they work only with versions that know schema ${oldest}; upgrade this server`,
    );
  }
  if (Number(found) < schema) {
    await indexSessions(redis);
    await redis.run("recordUpgrade", [meta], schemas);
  }
}

/**
 * Adds the sessions that are missing from the indexes: those that servers of schema 1 created. Works
 * in steps; several servers may do it at the same time.
 */
export async function indexSessions(redis: RedisScripts): Promise<void> {
  let cursor = "0";
  do {
    [, cursor = "0"] = await redis.run("indexSessions", redis.keys.rows, [cursor, scanStep]);
  } while (cursor !== "0");
}

/** One day after an upgrade, indexes the sessions that servers of schema 1 created in the meantime. */
export async function finishUpgrade(redis: RedisScripts): Promise<void> {
  const { meta } = redis.keys;
  const [, due] = await redis.run("finalIndexDue", [meta]);
  if (due === "due") {
    await indexSessions(redis);
    await redis.run("recordFinalIndex", [meta]);
  }
}

function checkServer(policy: string | undefined, replicationId: string | undefined): void {
  if (policy === "" || replicationId === "") {
    throw new Error(
      "redisStore: INFO does not report maxmemory_policy and master_replid, which are needed to detect evictions and failovers; allow INFO for the store's user (ACL SETUSER <user> +info)",
    );
  }
  if (policy !== "noeviction") {
    throw new Error(
      `redisStore: this server evicts keys when its memory is full (maxmemory-policy ${policy}), including revoked sessions and signing keys; set maxmemory-policy noeviction, or use a separate server`,
    );
  }
}
