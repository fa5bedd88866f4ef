import { systemClock } from "../../src/base/clock.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { redisMissing, startRedis, type TestRedisClient } from "../../test/servers/redis.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";
import { forEach, typicalSession } from "./sessions.ts";

const sessions = 100_000;

/**
 * The memory of a session in Redis, with everything that belongs to it, and how long other commands
 * wait for the first sign-in of a user with 100,000 sessions after a limit was set.
 */
export async function redisMemory({ log }: ScenarioOptions): Promise<Figures> {
  requireService(redisMissing);
  const redis = await startRedis();
  const client = await redis.connect();
  const store = redisStore(client);
  await store.open({ clock: systemClock });
  const insertAll = (userId?: string) =>
    forEach(Array.from({ length: sessions }), 50, () =>
      store.insert(typicalSession(userId === undefined ? {} : { userId })),
    );

  // 1. Sessions of as many users.
  const before = await memoryOf(client);
  await insertAll();
  const bytes = Math.round(((await memoryOf(client)) - before) / sessions);
  log(`${sessions} sessions of as many users: ${bytes} bytes each`);

  // 2. As many sessions of one user, and then a limit of 3.
  await insertAll("robot");
  const waits = await longestWait(await redis.connect(), async () => {
    await store.insert(typicalSession({ userId: "robot", limit: { max: 3, overflow: "evict" } }));
  });
  log(`the first limit: other commands waited ${waits} ms at most`);

  await store.close();
  await redis.stop();
  return { redis_bytes_per_session: bytes, redis_first_limit_wait_ms: waits };
}

async function memoryOf(client: TestRedisClient): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await client.info("memory"))?.[1]);
}

/** The longest time, in milliseconds, that a command of another client took during some work. */
async function longestWait(client: TestRedisClient, work: () => Promise<void>): Promise<number> {
  const working = work().then(() => true);
  const pause = () => new Promise<false>((resolve) => setTimeout(resolve, 1, false));
  let longest = 0;
  do {
    const begun = performance.now();
    await client.ping();
    longest = Math.max(longest, performance.now() - begun);
  } while (!(await Promise.race([working, pause()])));
  return Math.round(longest);
}
