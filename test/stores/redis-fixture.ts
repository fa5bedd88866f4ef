import type { RedisClient } from "../../src/stores/redis/index.ts";
import { RedisStore } from "../../src/stores/redis/store.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import type { ContractClock } from "../../src/testing/store-contract/index.ts";
import type { TestRedis, TestRedisClient } from "../servers/redis.ts";
import { stillClock } from "./still-clock.ts";

// The scripts take their time from a key instead of the server's clock: that is all that differs.
// It lies in a far future, so that nothing expires by the server's own.
const future = Date.UTC(2100, 0, 1);
let fixtures = 0;

/** Lua that sets `now` to what a key says. */
function timeOf(key: string): string {
  return `local now = tonumber(redis.call('GET', '${key}'))\n`;
}

/** An empty store under a prefix of its own. */
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
    // On a connection of its own, as another server has.
    another: () => new RedisStore(second, options),
    async close() {
      client.destroy();
      second.destroy();
    },
  };
}

/** A clock for engines, and stores that live by it, on the same client unless given another. */
export async function redisWithFakeClock(
  client: TestRedisClient,
  { prefix = `test-${fixtures++}`, on = client }: { prefix?: string; on?: RedisClient } = {},
) {
  const key = `{${prefix}}:test-clock`;
  const fake = createFakeClock(future);
  // Commands of one connection are run in their order, so nothing has to wait for it.
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
    // Not at once: a call that waits for Redis would be given up.
    after: () => () => {},
    async advance(ms) {
      await still.advance(ms);
      await client.set(key, String(now()));
      await expire(client, prefix, now());
    },
  };
}

/** Drops what Redis would have dropped by then. */
async function expire(client: TestRedisClient, prefix: string, now: number): Promise<void> {
  for (const key of await client.keys(`{${prefix}}:*`)) {
    const end = Number(await client.pExpireTime(key));
    if (end > 0 && now > end) {
      await client.del(key);
    }
  }
}
