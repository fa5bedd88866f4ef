import { setTimeout as pause } from "node:timers/promises";
import type { Pool } from "pg";
import { systemClock } from "../../src/base/clock.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import {
  type OlderStatement,
  olderStatements,
  olderTables,
} from "../../test/stores/older-schema.ts";
import { createPool } from "../../test/stores/postgres-fixture.ts";
import { requireService, type Scenario } from "./scenario.ts";

const sessions = 2_600_000;
/** How many connections of servers of the older version work at the same time. */
const clients = 8;

/**
 * Migrates 2.6 million sessions from version 0.1, while the statements of its servers run. Measures
 * how long it takes, how many of their statements fail (each has 5 s), and how long the slowest took.
 */
export const migration: Scenario = async (options) => {
  requireService(postgresMissing);
  const server = await startPostgres();
  const url = server.url("public");
  const pool = createPool({ connectionString: url, max: clients, statement_timeout: 5_000 });
  const admin = createPool({ connectionString: url, max: 1 });
  try {
    // 1. The tables of version 0.1, with all sessions.
    await admin.query(olderTables("postgres", 3));
    await fill(admin);
    options.log(`${sessions} sessions in tables of version 0.1`);

    // 2. Its servers serve, first alone.
    const load = new Load(pool);
    load.start();
    await pause(options.quick ? 3_000 : 10_000);
    const alone = load.take();

    // 3. A new server starts and migrates.
    const store = postgresStore(url, { connections: 4 });
    const began = performance.now();
    await store.open({ clock: systemClock });
    const took = performance.now() - began;
    const meanwhile = load.take();
    await load.stop();
    await store.close();
    options.log(
      `statements of older servers: ${alone.times.length} before, the slowest took ${Math.max(...alone.times).toFixed()} ms; ${meanwhile.times.length} during the migration${failures(meanwhile)}`,
    );
    return {
      migration_s: Math.round(took / 100) / 10,
      migration_statements: meanwhile.times.length,
      migration_failed: sum([...alone.failed.values(), ...meanwhile.failed.values()]),
      migration_slowest_ms: Math.round(Math.max(...meanwhile.times)),
    };
  } finally {
    await Promise.all([pool.end(), admin.end()]);
    await server.stop();
  }
};

function failures({ failed }: Measured): string {
  return [...failed].map(([op, count]) => `; "${op}" failed ${count} times`).join("");
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, one) => all + one, 0);
}

/** Adds sessions of the size that browsers make. */
async function fill(admin: Pool): Promise<void> {
  const { rows } = await admin.query<{ readonly name: string; readonly def: string }>(
    "select indexname as name, indexdef as def from pg_indexes where tablename = 'rpcsession_sessions' and indexname <> 'rpcsession_sessions_pkey'",
  );
  // To make the indexes afterwards takes less time.
  for (const { name } of rows) {
    await admin.query(`drop index ${name}`);
  }
  await admin.query(`insert into rpcsession_sessions (id, user_id, tenant_id, transport, salt, secret_id, generation, rotated_at, created_at, auth_time, idle_expires_at, expires_at, claims, claims_version, data, version, device, last_seen_at)
    select left(md5(n::text), 22), gen_random_uuid()::text, case when n % 2 = 0 then 'tenant-' || n % 1000 end,
      'cookie', md5(n::text) || left(md5('salt' || n), 11), 'c2VjcmV0', 0, 1000, 1000 + n, 1000,
      8000000000000, 9000000000000, '{"role":"admin","plan":"pro","org":"acme"}', 0, '{}', 0,
      '{"userAgent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36","ip":"203.0.113.195"}', 1000
    from generate_series(1, ${sessions}) as n`);
  for (const { def } of rows) {
    await admin.query(def);
  }
  await admin.query("analyze rpcsession_sessions");
}

interface Measured {
  /** Milliseconds for each statement of a call. */
  readonly times: number[];
  /** What failed, by what it was for. */
  readonly failed: Map<string, number>;
}

/** Runs everything that servers of version 0.1 do, on all connections of a pool. */
class Load {
  readonly #pool: Pool;
  readonly #statements: readonly OlderStatement[] = olderStatements("postgres", 3);
  #measured: Measured = { times: [], failed: new Map() };
  #stopped = false;
  #running: Promise<unknown> = Promise.resolve();

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  start(): void {
    this.#running = Promise.all(
      Array.from({ length: clients }, async (_, client) => {
        for (let round = 0; !this.#stopped; round++) {
          await this.#serve(`c${client}-${round}-`);
        }
      }),
    );
  }

  /** Returns what was measured since the last call. */
  take(): Measured {
    const measured = this.#measured;
    this.#measured = { times: [], failed: new Map() };
    return measured;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** One user signs in, refreshes, signs out and so on. */
  async #serve(owner: string): Promise<void> {
    for (const { op, text, values } of this.#statements) {
      // Servers remove ended sessions in the background. No call waits for that.
      if (op === "clean") {
        continue;
      }
      const own = values.map((value) =>
        typeof value === "string" && /^(?:old-|olga$)/.test(value) ? owner + value : value,
      );
      const began = performance.now();
      try {
        await this.#pool.query(text, own);
      } catch {
        const { failed } = this.#measured;
        failed.set(op, (failed.get(op) ?? 0) + 1);
      }
      this.#measured.times.push(performance.now() - began);
    }
  }
}
