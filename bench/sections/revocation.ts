import { Pool } from "pg";
import { systemClock } from "../../src/base/clock.ts";
import { KnownChanges } from "../../src/engine/revocation/known.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { redisMissing, startRedis } from "../../test/servers/redis.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Findings } from "../lib/report.ts";
import { type Contestant, cpuRounds } from "../lib/rounds.ts";
import { type Spread, spreadOf } from "../lib/stats.ts";

const sessions = 10_000;
const inFlight = 32;

/** Measures the cost of checking whether a session was revoked. */
export async function revocationSection({ quick, fewRounds }: BenchOptions): Promise<Findings> {
  const notes: string[] = [];
  const closing: (() => Promise<void>)[] = [];
  const times = new Map<string, number[]>();
  const remote = async (name: string, look: (id: string) => Promise<unknown>) => {
    times.set(name, await oneAtATime(look, quick ? 200 : 1_000));
    return lookUps(name, quick ? 1_000 : 3_000, look);
  };
  const contestants: Contestant[] = [feedContestant()];
  if (postgresMissing === undefined) {
    const database = await openPostgres();
    closing.push(() => database.close());
    contestants.push(await remote(names.postgres, (id) => database.look(id)));
  } else {
    notes.push(`revocation by PostgreSQL: not measured: ${postgresMissing}`);
  }
  if (redisMissing === undefined) {
    const database = await openRedis();
    closing.push(() => database.close());
    contestants.push(await remote(names.redis, (id) => database.look(id)));
  } else {
    notes.push(`revocation by Redis: not measured: ${redisMissing}`);
  }
  const found = await cpuRounds(contestants, fewRounds);
  for (const close of closing) {
    await close();
  }
  const cpu = (name: string): Spread | null => {
    const values = found.get(name);
    return values === undefined ? null : spreadOf(values.map((ns) => ns / 1000));
  };
  const wait = (name: string): Spread | string | null => {
    const values = times.get(name);
    return name === names.feed ? "none" : values === undefined ? null : spreadOf(values);
  };
  return {
    tables: [
      {
        title: "revocation check, per call",
        columns: ["µs CPU of the server's process", "µs of waiting, one call at a time"],
        rows: Object.values(names).map((name) => ({ name, cells: [cpu(name), wait(name)] })),
      },
    ],
    headline: {
      revocation_feed_ns: (cpu(names.feed)?.median ?? Number.NaN) * 1000,
      revocation_postgres_us: cpu(names.postgres)?.median ?? null,
      revocation_redis_us: cpu(names.redis)?.median ?? null,
    },
    notes,
  };
}

const names = {
  feed: "rpc-session, feed of 10,000 revocations",
  postgres: "PostgreSQL, by primary key, prepared",
  redis: "Redis GET",
} as const;

function idOf(i: number): string {
  return `session-id-${String(i).padStart(10, "0")}x`;
}

function feedContestant(): Contestant {
  const revocations = new KnownChanges({ clock: systemClock, window: 3_600_000 });
  for (let i = 0; i < sessions; i++) {
    revocations.apply({ kind: "revoked", session: idOf(i), endedBy: "revoked", at: Date.now() });
  }
  // These are not revoked, like nearly all sessions.
  const asked = Array.from({ length: sessions }, (_, i) => idOf(i + sessions));
  const ops = 50 * sessions;
  return {
    name: names.feed,
    ops,
    batch() {
      let revoked = 0;
      for (let i = 0; i < ops; i++) {
        const known = revocations.get(asked[i % sessions] ?? "") !== undefined;
        revoked += known || revocations.isOverfull ? 1 : 0;
      }
      if (revoked > 0) {
        throw new Error("a session that was not revoked is reported as revoked");
      }
    },
  };
}

function lookUps(name: string, ops: number, look: (id: string) => Promise<unknown>): Contestant {
  return {
    name,
    ops,
    async batch() {
      let next = 0;
      const lane = async (): Promise<void> => {
        while (next < ops) {
          await look(idOf(next++ % sessions));
        }
      };
      await Promise.all(Array.from({ length: inFlight }, lane));
    },
  };
}

async function oneAtATime(look: (id: string) => Promise<unknown>, count: number) {
  const times: number[] = [];
  for (let i = -20; i < count; i++) {
    const begun = performance.now();
    await look(idOf(Math.abs(i)));
    if (i >= 0) {
      times.push((performance.now() - begun) * 1000);
    }
  }
  return times;
}

async function openPostgres() {
  const server = await startPostgres();
  const pool = new Pool({ connectionString: server.url("public"), max: 10 });
  // It is stopped while connections are idle.
  pool.on("error", () => {});
  await pool.query("create table sessions (id text primary key, revoked_at bigint)");
  await pool.query("insert into sessions select * from unnest($1::text[])", [
    Array.from({ length: sessions }, (_, i) => idOf(i)),
  ]);
  await pool.query("analyze sessions");
  const text = "select revoked_at from sessions where id = $1";
  return {
    look: (id: string) => pool.query({ name: "look", text, values: [id] }),
    async close() {
      await pool.end();
      await server.stop();
    },
  };
}

async function openRedis() {
  const server = await startRedis();
  const client = await server.connect();
  for (let i = 0; i < sessions; i++) {
    await client.set(`session:${idOf(i)}`, "live");
  }
  return {
    look: (id: string) => client.get(`session:${id}`),
    close: () => server.stop(),
  };
}
