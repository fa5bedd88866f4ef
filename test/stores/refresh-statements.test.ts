import { Client, type ClientConfig } from "pg";
import { expect, it, onTestFinished } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { describePostgres } from "./describe-postgres.ts";
import { createPool, createSchema } from "./postgres-fixture.ts";

const secret = "a secret of at least 32 bytes, for tests";
const refreshes = 20;

/** Refreshes a session that advances each time, by the clock of its server. */
async function refreshAll(engine: TestEngine, id: string, token: string): Promise<void> {
  let present = token;
  for (let generation = 0; generation < refreshes; generation++) {
    const { refreshToken } = await engine.exchange(present);
    expect(refreshToken, `generation ${generation}`).toBeDefined();
    present = refreshToken ?? present;
    await engine.store.confirm([{ session: id, generation: generation + 1, settle: 0 }]);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A session whose next refresh advances, on a server whose times are milliseconds. */
async function ripe(store: Parameters<typeof startEngine>[0] & object) {
  const engine = await startEngine({
    ...store,
    secret,
    refresh: { clientTimeout: "1ms", overlap: "2ms", settle: "0ms" },
  });
  const { id, token } = await engine.signIn();
  await engine.store.confirm([{ session: id, generation: 0, settle: 0 }]);
  await new Promise((resolve) => setTimeout(resolve, 5));
  return { engine, id, token };
}

describePostgres("the common refresh on PostgreSQL", (server) => {
  it("feat:D18 is one statement", async () => {
    await using schema = await createSchema(server());
    const sent: string[] = [];
    class WatchedClient extends Client {
      constructor(config?: ClientConfig) {
        super(config);
        const query = this.query.bind(this) as (...args: unknown[]) => unknown;
        this.query = ((...given: unknown[]) => {
          sent.push(String((given[0] as { readonly text?: string })?.text ?? given[0]));
          return query(...given);
        }) as Client["query"];
      }
    }
    await using pool = createPool({ connectionString: schema.url, Client: WatchedClient, max: 2 });
    const { engine, id, token } = await ripe({ store: postgresStore(pool) });
    sent.length = 0;
    await refreshAll(engine, id, token);
    const advances = sent.filter((text) => /set generation = generation \+ 1/.test(text));
    expect(advances).toHaveLength(refreshes);
    // Each repetition of an expression binds its values again.
    for (const text of new Set(advances)) {
      expect(new Set(text.match(/\$\d+/g)).size).toBeLessThanOrEqual(18);
    }
    // Everything else is the confirmation by the test, the change log and the connection that listens.
    const others = sent
      .filter((text) => /rpcsession_sessions/.test(text))
      .filter((text) => {
        return !advances.includes(text) && !/\bused\b/.test(text);
      });
    expect(others).toEqual([]);
    expect(sent.filter((text) => /^(begin|commit|start)/i.test(text))).toEqual([]);
    await engine.close();
  });
});

it.skipIf(redisMissing)("feat:D18 the common refresh on Redis is one script", async () => {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const client = await redis.connect();
  const { engine, id, token } = await ripe({ store: redisStore(client) });
  const calls = async (): Promise<number> => {
    const stats = await client.info("commandstats");
    return Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0);
  };
  const before = await calls();
  await refreshAll(engine, id, token);
  // One for the refresh and one for the confirmation of the test. The change log is read meanwhile.
  const logReads = (await calls()) - before - 2 * refreshes;
  expect(logReads).toBeGreaterThanOrEqual(-1);
  expect(logReads).toBeLessThan(refreshes / 2);
  await engine.close();
});
