import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { pgbouncerMissing, startPgbouncer } from "../servers/pgbouncer.ts";
import { postgresMissing, startPostgres, type TestPostgres } from "../servers/postgres.ts";
import { createPool, createSchema } from "../stores/postgres-fixture.ts";
import {
  ask,
  type FeedServer,
  issue,
  lastAccepted,
  promptly,
  pushed,
  startServer,
} from "./servers.ts";

const missing = postgresMissing ?? pgbouncerMissing;
const skipped = missing === undefined ? "" : ` (skipped: ${missing})`;

/** Milliseconds between two reads of the log where nothing is pushed, and what a busy machine adds. */
const polled = 500 + 5_000;
/** Polling alone would take half of it. */
const maxStaleness = "60s";

describe.skipIf(missing)(`PostgreSQL through PgBouncer${skipped}`, () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(() => server?.stop());

  async function behind(options: Parameters<typeof startPgbouncer>[1]) {
    const schema = await createSchema(server);
    // PgBouncer refuses the search path in a URL, so it is the one of a role.
    const { name, admin } = schema;
    await admin.query(
      `create role ${name} superuser login; alter role ${name} set search_path = ${name}`,
    );
    const url = schema.url.replace("//postgres@", `//${name}@`);
    const pooler = await startPgbouncer(url, options);
    const servers: FeedServer[] = [];
    return {
      ...schema,
      pooler,
      async start(store: Parameters<typeof startServer>[0]) {
        const started = await startServer(store, { maxStaleness });
        servers.push(started);
        return started;
      },
      async [Symbol.asyncDispose]() {
        await Promise.all(servers.map((each) => each.close()));
        await pooler.stop();
        await schema[Symbol.asyncDispose]();
      },
    };
  }

  it.each([
    ["the connection used last first", false],
    ["each connection in turn", true],
  ])(
    "sec:V01 transaction mode with %s: a URL works, and leaves nothing behind",
    async (_, roundRobin) => {
      const poolSize = 3;
      await using world = await behind({ mode: "transaction", poolSize, roundRobin });
      const { pooler } = world;
      // Other clients of the pooler, so that its connections change hands.
      const strangers = Array.from({ length: 4 }, () => new Client(pooler.url));
      const heard: string[] = [];
      for (const stranger of strangers) {
        await stranger.connect();
        stranger.on("notification", ({ channel }) => heard.push(channel));
      }
      let busy = true;
      const traffic = strangers.map(async (stranger) => {
        while (busy) {
          await stranger.query("select pg_sleep(0.002)");
        }
      });
      const here = await world.start(postgresStore(pooler.url, { connections: 4 }));
      const there = await world.start(postgresStore(pooler.url, { connections: 4 }));
      for (const each of [here, there]) {
        await expect.poll(() => each.health().push).toBe("polling");
      }
      const all = await Promise.all(Array.from({ length: 20 }, () => issue(here)));
      for (const issued of all) {
        expect(await ask(there, issued)).toBe("accepted");
      }
      await here.revokeAll({ userId: "alice" });
      for (const issued of all) {
        expect(await lastAccepted(there, issued)).toBeLessThan(polled);
      }
      busy = false;
      await Promise.all(traffic);
      expect(heard).toEqual([]);
      expect(await stateOf(strangers.slice(0, poolSize))).toEqual(
        Array.from({ length: poolSize }, () => ({
          listens: 0,
          prepared: 0,
          limit: "0",
          lock: "0",
        })),
      );
      for (const stranger of strangers) {
        await stranger.end();
      }
    },
  );

  it("sec:V01 transaction mode limits the statements of each transaction", async () => {
    await using world = await behind({ mode: "transaction", poolSize: 3 });
    const { pooler } = world;
    const here = await world.start(postgresStore(pooler.url));
    const issued = await issue(here);
    const locker = await world.connect();
    await locker.query("begin; select 1 from rpcsession_sessions for update");
    await expect(here.revoke(issued.id)).rejects.toMatchObject({
      reason: "AUTH_UNAVAILABLE",
      cause: { message: expect.stringContaining("statement timeout") },
    });
    await locker.end();
    await here.revoke(issued.id);
    expect(await ask(here, issued)).toBe("SESSION_REVOKED");
  });

  it("transaction mode with `listen`, a URL past the pooler, pushes", async () => {
    await using world = await behind({ mode: "transaction", poolSize: 3 });
    const { pooler, url } = world;
    const here = await world.start(postgresStore(pooler.url, { listen: url }));
    const pool = createPool({ connectionString: pooler.url });
    const there = await world.start(postgresStore(pool, { listen: url }));
    await pushed(here, there);
    const issued = await issue(here);
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    const another = await issue(here);
    await there.revoke(another.id);
    expect(await lastAccepted(here, another)).toBeLessThan(promptly);
    await pool.end();
  });

  it("sec:V01 transaction mode with a pool of the user polls, and says so", async () => {
    await using world = await behind({ mode: "transaction", poolSize: 3 });
    const { pooler } = world;
    const pool = createPool({ connectionString: pooler.url });
    const here = await world.start(postgresStore(pool));
    const there = await world.start(postgresStore(pool));
    await expect.poll(() => there.health().push).toBe("polling");
    const issued = await issue(here);
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(polled);
    await pool.end();
  });

  it("session mode pushes, and may prepare statements", async () => {
    await using world = await behind({ mode: "session", poolSize: 30 });
    const { pooler } = world;
    const here = await world.start(postgresStore(pooler.url, { prepare: true }));
    const there = await world.start(postgresStore(pooler.url));
    await pushed(here, there);
    for (let i = 0; i < 3; i++) {
      const issued = await issue(here);
      await here.revoke(issued.id);
      expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    }
  });
});

/** What each connection of the pooler holds. Their transactions overlap, so each gets another one. */
async function stateOf(clients: readonly Client[]): Promise<unknown[]> {
  const states: unknown[] = [];
  for (const client of clients) {
    await client.query("begin");
    const { rows } = await client.query(
      `select (select count(*)::int from pg_listening_channels()) as listens,
        (select count(*)::int from pg_prepared_statements) as prepared,
        current_setting('statement_timeout') as limit,
        current_setting('lock_timeout') as lock`,
    );
    states.push(rows[0]);
  }
  for (const client of clients) {
    await client.query("commit");
  }
  return states;
}
