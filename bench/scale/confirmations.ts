import { Pool, type QueryResult } from "pg";
import { systemClock } from "../../src/base/clock.ts";
import { Confirmations } from "../../src/engine/refresh/confirmations.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";
import { forEach, typicalSession } from "./sessions.ts";
import { sessionIdOf } from "./tokens.ts";

const servers = 20;
const sessions = 100;
/** Each server uses each session within this time. */
const spread = 3_000;

/** What it costs to find out which generations clients have received. */
export async function confirmations({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  const writes = await secondRound();
  log(`1,000,000 sessions in one process, second round: ${writes} statements per call`);
  const { statements, rows } = await onServers(quick ? 5 : 20);
  log(`${servers} servers: ${statements} statements and ${rows} changed rows per generation`);
  return {
    confirms_per_generation_20_servers: statements,
    confirmed_rows_per_generation_20_servers: rows,
    writes_second_round_1e6: writes,
  };
}

/** Statements for each use, when a process sees a million sessions for the second time. */
async function secondRound(): Promise<number> {
  const count = 1_000_000;
  let statements = 0;
  const confirm: SessionStore["confirm"] = async (uses) => {
    statements += 1;
    return uses.map(() => true);
  };
  const all = new Confirmations({
    ...{ store: { confirm } as unknown as SessionStore, clock: systemClock, settle: 0 },
  });
  const round = async (): Promise<number> => {
    const before = statements;
    for (let i = 0; i < count; i++) {
      // As a verified token that is no longer cached: an object of its own each time.
      all.used({ sid: sessionIdOf(i), gen: 1, transport: "header" }, []);
      if (i % 1_000 === 0) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    await all.settled();
    return (statements - before) / count;
  };
  await round();
  return await round();
}

/** Statements and changed rows for each generation, if every server sees every session. */
async function onServers(rounds: number): Promise<{ statements: number; rows: number }> {
  const server = await startPostgres();
  const url = server.url("public");
  const owner = postgresStore(url);
  await owner.open({ clock: systemClock });
  const ids: string[] = [];
  for (let i = 0; i < sessions; i++) {
    const session = typicalSession({ transport: "header" });
    ids.push(session.id);
    await owner.insert(session);
  }
  const counts = { statements: 0, rows: 0 };
  const opened = await Promise.all(
    Array.from({ length: servers }, async () => {
      const pool = new Pool({ connectionString: url, max: 2 });
      count(pool, counts);
      const store = postgresStore(pool);
      await store.open({ clock: systemClock });
      return { pool, store, all: new Confirmations({ store, clock: systemClock, settle: 0 }) };
    }),
  );

  for (let generation = 1; generation <= rounds; generation++) {
    for (const id of ids) {
      const write = { kind: "advance", id, generation: generation - 1, idle: 86_400_000 } as const;
      await owner.refresh({ ...write, secretId: "c2VjcmV0" });
    }
    await forEach(opened, servers, async ({ all }) => {
      for (const id of ids.toSorted(() => Math.random() - 0.5)) {
        all.used({ sid: id, gen: generation, transport: "header" }, []);
        await new Promise((resolve) => setTimeout(resolve, spread / sessions));
      }
    });
    // Each server gathers for ten seconds at most.
    await new Promise((resolve) => setTimeout(resolve, 11_000));
    await Promise.all(opened.map(({ all }) => all.settled()));
    const open = await Promise.all(ids.map((id) => owner.load(id)));
    if (open.some(({ record }) => record?.confirmedAt == null)) {
      throw new Error("A generation was not confirmed.");
    }
  }
  await Promise.all(opened.map(({ store, pool }) => store.close().then(() => pool.end())));
  await owner.close();
  await server.stop();
  const generations = rounds * sessions;
  return { statements: counts.statements / generations, rows: counts.rows / generations };
}

/** Counts what servers ask about sessions: not the change log, which they read as well. */
function count(pool: Pool, counts: { statements: number; rows: number }): void {
  // The database stops before the pool knows.
  pool.on("error", () => {});
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    const counted = (text: string, result: QueryResult | undefined): void => {
      counts.statements += 1;
      counts.rows += text.includes("set confirmed_at") ? (result?.rowCount ?? 0) : 0;
    };
    client.query = ((...args: unknown[]) => {
      const text = typeof args[0] === "string" ? args[0] : JSON.stringify(args[0]);
      if (!text.includes("rpcsession_sessions")) {
        return query(...args);
      }
      const done = args.at(-1);
      if (typeof done === "function") {
        const callback = (error: unknown, result: QueryResult): void => {
          counted(text, result);
          done(error, result);
        };
        return query(...args.slice(0, -1), callback);
      }
      return (query(...args) as Promise<QueryResult>).then((result) => {
        counted(text, result);
        return result;
      });
    }) as typeof client.query;
  });
}
