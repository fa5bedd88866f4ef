import type { RedisClient } from "../../src/stores/redis/index.ts";
import { RedisStore } from "../../src/stores/redis/store.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import type { ContractClock } from "../../src/testing/store-contract/index.ts";
import type { TestRedis, TestRedisClient } from "../servers/redis.ts";
import { stillClock } from "./still-clock.ts";

// The only difference to production: scripts read the time from a key instead of the server's clock.
// It is far in the future, so that nothing expires by the server's own clock.
const future = Date.UTC(2100, 0, 1);
let fixtures = 0;

/** Lua that sets `now` to the value of a key. */
function timeOf(key: string): string {
  return `local now = tonumber(redis.call('GET', '${key}'))\n`;
}

/** Creates an empty store with a prefix of its own. */
export async function createRedis(redis: TestRedis) {
  const [client, second] = [await redis.connect(), await redis.connect()];
  const prefix = `test-${fixtures++}`;
  const key = `{${prefix}}:test-clock`;
  const options = { prefix, time: timeOf(key) };
  const clock = await contractClock(client, prefix, key);
  return {
    client,
    prefix,
    clock,
    store: new RedisStore(client, options),
    // On a second connection, like another server.
    another: () => new RedisStore(second, options),
    async close() {
      client.destroy();
      second.destroy();
    },
  };
}

/** Creates a clock for engines, and stores that use it, by default on the same client. */
export async function redisWithFakeClock(
  client: TestRedisClient,
  { prefix = `test-${fixtures++}`, on = client }: { prefix?: string; on?: RedisClient } = {},
) {
  const key = `{${prefix}}:test-clock`;
  const fake = createFakeClock(future);
  // Commands of one connection run in order, so no call has to wait for this one.
  const tell = () => client.set(key, String(fake.now()));
  await tell();
  const clock: FakeClock = {
    ...fake,
    advance(by) {
      fake.advance(by);
      tell().catch(() => {});
    },
  };
  const newStore = () => new RedisStore(on, { prefix, time: timeOf(key) });
  return { clock, tell, newStore, prefix };
}

async function contractClock(
  client: TestRedisClient,
  prefix: string,
  key: string,
): Promise<ContractClock> {
  const still = stillClock();
  const ahead = future - still.now();
  const now = (): number => still.now() + ahead;
  await client.set(key, String(now()));
  return {
    ...still,
    now,
    // Never fires, because it would time out a call that waits for Redis.
    after: () => () => {},
    async advance(ms) {
      await still.advance(ms);
      await client.set(key, String(now()));
      await expire(client, prefix, now());
    },
  };
}

/** Deletes the keys that would have expired by then. */
async function expire(client: TestRedisClient, prefix: string, now: number): Promise<void> {
  for (const key of await client.keys(`{${prefix}}:*`)) {
    const end = Number(await client.pExpireTime(key));
    if (end > 0 && now > end) {
      await client.del(key);
    }
  }
}
