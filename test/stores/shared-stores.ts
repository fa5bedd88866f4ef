import { type Clock, systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { RedisStore } from "../../src/stores/redis/store.ts";
import type { TestPostgres } from "../servers/postgres.ts";
import type { TestRedis } from "../servers/redis.ts";
import { createPostgres } from "./postgres-fixture.ts";
import type { SharedStore } from "./servers.ts";
import { createSqlite } from "./sqlite-fixture.ts";

/** One SQLite file, which each server opens separately. */
export async function sharedSqlite(): Promise<SharedStore> {
  return sharedSql(await createSqlite());
}

/** One schema of a PostgreSQL; each server has a pool of its own. */
export async function sharedPostgres(server: TestPostgres): Promise<SharedStore> {
  return sharedSql(await createPostgres(server));
}

interface SqlFixture {
  readonly clock: Pick<Clock, "now" | "monotonic"> & { advance(ms: number): unknown };
  readonly another: () => SessionStore;
  readonly close: () => Promise<void>;
}

function sharedSql({ clock, another, close }: SqlFixture): SharedStore {
  // The store's pauses take real time, because it waits for other connections.
  const { now, monotonic } = clock;
  const waiting = { ...systemClock, now, monotonic };
  return {
    async newStore() {
      const store = another();
      return { ...store, open: () => store.open({ clock: waiting }) };
    },
    now: () => clock.now(),
    async pass(ms) {
      await clock.advance(ms);
    },
    close,
  };
}

let prefixes = 0;

/** One prefix of a Redis; each server has a client of its own. A key holds the time. */
export async function sharedRedis(redis: TestRedis): Promise<SharedStore> {
  const prefix = `servers-${prefixes++}`;
  const key = `{${prefix}}:test-clock`;
  const client = await redis.connect();
  const clients = [client];
  // Far in the future, so that nothing expires by Redis's own clock.
  let now = Date.UTC(2100, 0, 1);
  await client.set(key, String(now));
  return {
    async newStore() {
      const own = await redis.connect();
      clients.push(own);
      const time = `local now = tonumber(redis.call('GET', '${key}'))\n`;
      const store = new RedisStore(own, { prefix, time });
      const open = store.open.bind(store);
      // Its pauses follow the machine's clock, whatever the clock of its engine.
      return Object.assign(store, { open: () => open({ clock: systemClock }) });
    },
    now: () => now,
    async pass(ms) {
      now += ms;
      await client.set(key, String(now));
    },
    async close() {
      for (const each of clients) {
        each.destroy();
      }
    },
  };
}
