import { Client } from "pg";
import { postgresBackend } from "../../src/stores/postgres/connections.ts";
import { openPool } from "../../src/stores/postgres/pools.ts";
import { sql } from "../../src/stores/sql/statement.ts";
import { SqlStore } from "../../src/stores/sql/store.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";
import { forEach, SimulatedClock, typicalSession } from "./sessions.ts";

const sessions = 5_000;
const minute = 60_000;
/** Between two refreshes of a session, which each confirm once. */
const interval = 15 * minute;
/** The default `checkpoint_timeout`. The first change of a page after a checkpoint writes all of it. */
const checkpoint = 5 * minute;

/**
 * What active sessions cost on PostgreSQL: hours in which each session refreshes and confirms every
 * 15 minutes, on a simulated clock, with a checkpoint every 5 minutes.
 */
export async function updates({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  const server = await startPostgres({ durable: true });
  const url = server.url("public");
  const admin = new Client({ connectionString: url });
  await admin.connect();
  const clock = new SimulatedClock();
  const at = () => sql`cast(${clock.now()} as bigint)`;
  const store = new SqlStore(postgresBackend(() => openPool(url, { max: 10 }), at));
  await store.open({ clock });
  // Nobody waits for these commits, and all of their log is counted.
  await admin.query("alter system set synchronous_commit = off");
  await admin.query("select pg_reload_conf()");

  // 1. The sessions sign in, and the table has its size.
  const ids: string[] = [];
  await forEach(Array.from({ length: sessions }), 20, async () => {
    const session = typicalSession();
    ids.push(session.id);
    await store.insert(session);
  });
  const fresh = await bytesPerSession(admin);
  log(`${sessions} sessions, ${fresh.toFixed(0)} bytes each`);

  // 2. The hours pass. A third of the sessions refreshes between two checkpoints.
  const rounds = quick ? 20 : 64;
  const from = await walPosition(admin);
  for (let generation = 0; generation < rounds; generation++) {
    for (let part = 0; part < interval / checkpoint; part++) {
      await admin.query("checkpoint");
      clock.move(checkpoint);
      const some = ids.filter((_, i) => i % (interval / checkpoint) === part);
      await forEach(some, 20, async (id) => {
        const write = { kind: "advance", id, generation, idle: 14 * 86_400_000 } as const;
        await store.refresh({ ...write, secretId: "c2VjcmV0" });
        await store.confirm([{ session: id, generation: generation + 1, settle: 0 }]);
      });
    }
  }
  const wal = (await walPosition(admin)) - from;
  const hours = (rounds * interval) / 3_600_000;
  const used = await bytesPerSession(admin);

  // 3. The statistics are complete once the connections are closed. Confirmations touch no index either way, so
  // only refreshes count.
  await store.close();
  const refreshes = rounds * sessions;
  const { all, hot } = await updatesOf(admin, 2 * refreshes);
  const figures = {
    hot_ratio: (hot - (all - refreshes)) / refreshes,
    postgres_bytes_per_session: used,
    postgres_updates_per_session_hour: all / sessions / hours,
    postgres_wal_bytes_per_session_hour: wal / sessions / hours,
  };
  log(`${hours} h: ${hot} of ${all} updates changed no index`);
  await admin.end();
  await server.stop();
  return rounded(figures);
}

async function bytesPerSession(admin: Client): Promise<number> {
  const { rows } = await admin.query<{ readonly bytes: string }>(
    "select pg_total_relation_size('rpcsession_sessions') as bytes",
  );
  return Number(rows[0]?.bytes) / sessions;
}

async function walPosition(admin: Client): Promise<number> {
  const { rows } = await admin.query<{ readonly bytes: string }>(
    "select pg_current_wal_insert_lsn() - '0/0' as bytes",
  );
  return Number(rows[0]?.bytes);
}

/** Waits until the statistics include all updates. */
async function updatesOf(
  admin: Client,
  expected: number,
): Promise<{ readonly all: number; readonly hot: number }> {
  for (;;) {
    const { rows } = await admin.query<{ readonly all: string; readonly hot: string }>(
      "select n_tup_upd as all, n_tup_hot_upd as hot from pg_stat_user_tables where relid = 'rpcsession_sessions'::regclass",
    );
    const [all, hot] = [Number(rows[0]?.all), Number(rows[0]?.hot)];
    if (all >= expected) {
      return { all, hot };
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function rounded(figures: Figures): Figures {
  return Object.fromEntries(
    Object.entries(figures).map(([key, value]) => [key, Number(value.toPrecision(4))]),
  );
}
