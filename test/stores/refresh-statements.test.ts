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
    await using pool = createPool({
      connectionString: schema.url,
      Client: watchedClient(sent),
      max: 2,
    });
    const { engine, id, token } = await ripe({ store: postgresStore(pool) });
    sent.length = 0;
    await refreshAll(engine, id, token);
    const advances = sent.filter((text) => /set generation = generation \+ 1/.test(text));
    expect(advances).toHaveLength(refreshes);
    // Nine values of the write, and two of the sweeper's calendar: an expression that is repeated binds
    // its values once.
    for (const text of new Set(advances)) {
      expect(new Set(text.match(/\$\d+/g)).size).toBe(11);
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

describePostgres("common refreshes at the same time on PostgreSQL", (server) => {
  const count = 60;

  /** Sessions that each advance at the next refresh, on a store whose statements are known. */
  async function ripeSessions(url: string) {
    const sent: string[] = [];
    const pool = createPool({ connectionString: url, Client: watchedClient(sent), max: 10 });
    const { engine, id, token } = await ripe({ store: postgresStore(pool) });
    const others = await Promise.all(Array.from({ length: count - 1 }, () => engine.signIn()));
    const sessions = [{ id, token }, ...others];
    const uses = sessions.map((one) => ({ session: one.id, generation: 0, settle: 0 }));
    expect(await engine.store.confirm(uses)).toEqual(sessions.map(() => true));
    await new Promise((resolve) => setTimeout(resolve, 5));
    sent.length = 0;
    const advances = () => sent.filter((text) => /set generation = generation \+ 1/.test(text));
    return {
      engine,
      sessions,
      advances,
      async [Symbol.asyncDispose]() {
        await engine.close();
        await pool.end();
      },
    };
  }

  it("feat:D18 share statements, and each session gets its own next token", async () => {
    await using schema = await createSchema(server());
    await using ripened = await ripeSessions(schema.url);
    const { engine, sessions, advances } = ripened;
    const answers = await Promise.all(sessions.map(({ token }) => engine.exchange(token)));
    for (const [index, { record, refreshToken }] of answers.entries()) {
      expect([record.id, record.generation]).toEqual([sessions[index]?.id, 1]);
      expect(refreshToken).toMatch(new RegExp(`\\.${sessions[index]?.id}\\.1\\.`));
    }
    expect(advances().length).toBeLessThan(count / 3);
    // Another presentation of the former tokens is answered again, as one by one.
    const again = await Promise.all(sessions.map(({ token }) => engine.exchange(token)));
    expect(again.map(({ refreshToken }) => refreshToken)).toEqual(
      answers.map(({ refreshToken }) => refreshToken),
    );
  });

  it("a session whose row cannot be read fails no other session", async () => {
    await using schema = await createSchema(server());
    await using ripened = await ripeSessions(schema.url);
    const { engine, sessions, advances } = ripened;
    await schema.admin.query("update rpcsession_sessions set data = '{' where id = $1", [
      sessions[30]?.id,
    ]);
    const outcomes = await Promise.allSettled(sessions.map(({ token }) => engine.exchange(token)));
    const failed = outcomes.flatMap(({ status }, index) => (status === "rejected" ? [index] : []));
    expect(failed).toEqual([30]);
    // The others share their statements, and nothing is done twice.
    const types = new Set(
      engine.events.flatMap((event) =>
        event.type === "refreshed" || event.type === "recovered" ? [event.type] : [],
      ),
    );
    expect(types).toEqual(new Set(["refreshed"]));
    expect(advances().length).toBeLessThan(count / 3);
  });

  it("a session whose row is locked keeps no other session waiting", async () => {
    await using schema = await createSchema(server());
    await using ripened = await ripeSessions(schema.url);
    const { engine, sessions } = ripened;
    const locked = [0, 1, 30, 31, 59];
    const ids = locked.map((index) => sessions[index]?.id);
    await schema.admin.query("begin");
    await schema.admin.query("select 1 from rpcsession_sessions where id = any($1) for update", [
      ids,
    ]);
    const answers = sessions.map(({ token }) => engine.exchange(token));
    // The first two wait for their locks, so that the others are gathered until the time is up.
    const ticking = setInterval(() => engine.clock.advance("50ms"), 5);
    onTestFinished(() => clearInterval(ticking));
    const free = await Promise.all(answers.filter((_, index) => !locked.includes(index)));
    expect(free.map(({ record }) => record.generation)).toEqual(free.map(() => 1));
    await schema.admin.query("commit");
    const late = await Promise.all(locked.map(async (index) => answers[index]));
    expect(late.map((one) => [one?.record.id, one?.record.generation])).toEqual(
      ids.map((id) => [id, 1]),
    );
  });

  it("a session that another server ends at the same time does not advance", async () => {
    await using schema = await createSchema(server());
    await using ripened = await ripeSessions(schema.url);
    const { engine, sessions } = ripened;
    const ended = sessions.filter((_, index) => index % 3 === 0).map(({ id }) => id);
    await schema.admin.query("begin");
    await schema.admin.query(
      "update rpcsession_sessions set revoked_at = rotated_at + 1, ended_by = 'revoked' where id = any($1)",
      [ended],
    );
    const outcomes = Promise.allSettled(sessions.map(({ token }) => engine.exchange(token)));
    await schema.admin.query("commit");
    for (const [index, outcome] of (await outcomes).entries()) {
      expect(outcome.status, String(index)).toBe(index % 3 === 0 ? "rejected" : "fulfilled");
    }
    const { rows } = await schema.admin.query(
      "select distinct generation::int from rpcsession_sessions where revoked_at is not null",
    );
    expect(rows).toEqual([{ generation: 0 }]);
  });
});

/** A client of `pg` that notes the text of every statement. */
function watchedClient(sent: string[]): typeof Client {
  return class extends Client {
    constructor(config?: ClientConfig) {
      super(config);
      const query = this.query.bind(this) as (...args: unknown[]) => unknown;
      this.query = ((...given: unknown[]) => {
        sent.push(String((given[0] as { readonly text?: string })?.text ?? given[0]));
        return query(...given);
      }) as Client["query"];
    }
  };
}

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
