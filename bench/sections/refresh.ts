import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { Pool } from "pg";
import { systemClock } from "../../src/base/clock.ts";
import { Engine } from "../../src/engine/engine.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { loadSqlite, openSqlite } from "../../src/stores/sqlite/driver.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { redisMissing, startRedis } from "../../test/servers/redis.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Cell, Findings, HeadlineKey } from "../lib/report.ts";
import { pairedRatio, spreadOf } from "../lib/stats.ts";
import { issuer } from "../lib/tokens.ts";
import { countStatements, cpuOf, p50OfEach, writesPerLife } from "./refresh-costs.ts";

const inFlight = 32;
const secret = "the secret of the benchmark, long enough";

/** A store, and the minimal work of a refresh on it. */
interface StoreBench {
  readonly store: SessionStore;
  /**
   * Advances a row by one conditional write, on the same connections and with the same durability;
   * undefined for the memory store.
   */
  readonly floor: ((id: string, generation: number) => Promise<boolean>) | undefined;
  /** How many statements were sent; undefined where they are not counted. */
  readonly statements?: () => number;
  close(): Promise<void>;
}

/** Calls per second in each round. */
interface Rates {
  readonly signIn: number[];
  readonly refresh: number[];
  readonly floor: number[];
  readonly floorSigned: number[];
  /** Microseconds of CPU; only of the memory store, where nothing else works. */
  readonly refreshCpu: number[];
  readonly signatureCpu: number[];
  /** Milliseconds, one at a time; the write includes a signature. */
  readonly refreshP50: number[];
  readonly writeP50: number[];
  readonly statements: number[];
}

const openers = {
  memory: openMemory,
  sqlite: openSqliteBench,
  postgres: openPostgresBench,
  redis: openRedisBench,
} as const;
type StoreName = keyof typeof openers;

/** Measures the sign-ins and refreshes per second of each store. */
export async function refreshSection(options: BenchOptions): Promise<Findings> {
  const notes: string[] = [
    `refresh: ${inFlight} refreshes in flight, each of which advances its session and writes a new token. The floors are one conditional write on as many connections with the same settings, prepared where the database can, alone and with one ES256 signature.`,
  ];
  notes.push(await writesPerLife());
  const rates = new Map<StoreName, Rates>();
  for (const name of Object.keys(openers) as StoreName[]) {
    const opened = await openers[name]();
    if (typeof opened === "string") {
      notes.push(`refresh on ${name}: not measured: ${opened}`);
      continue;
    }
    rates.set(name, await measure(opened, options));
    await opened.close();
  }
  return { tables: [tableOf(rates)], headline: headlineOf(rates), notes };
}

function tableOf(rates: ReadonlyMap<StoreName, Rates>): Findings["tables"][number] {
  const cells = (name: StoreName): Cell[] => {
    const found = rates.get(name);
    const cell = (values: readonly number[] | undefined): Cell =>
      values === undefined || values.length === 0 ? null : spreadOf(values);
    return [
      ...[found?.signIn, found?.refresh, found?.floor, found?.floorSigned].map(cell),
      pairedRatio(found?.refresh, found?.floorSigned),
    ];
  };
  return {
    title: "store",
    columns: [
      "sign-ins/s",
      "refreshes/s",
      "floor: one write/s",
      "floor: write + signature/s",
      "refresh ÷ that floor",
    ],
    rows: (Object.keys(openers) as StoreName[]).map((name) => ({ name, cells: cells(name) })),
  };
}

function headlineOf(rates: ReadonlyMap<StoreName, Rates>): Findings["headline"] {
  const headline: Partial<Record<HeadlineKey, number | null>> = {};
  for (const [name, { refresh, floorSigned }] of rates) {
    headline[`refresh_per_s_${name}`] = spreadOf(refresh).median;
    if (name !== "memory") {
      headline[`refresh_vs_floor_${name}`] = pairedRatio(refresh, floorSigned);
    }
  }
  const memory = rates.get("memory");
  headline.refresh_cpu_vs_signature = pairedRatio(memory?.refreshCpu, memory?.signatureCpu);
  const postgres = rates.get("postgres");
  headline.refresh_p50_vs_write = pairedRatio(postgres?.refreshP50, postgres?.writeP50);
  const statements = postgres?.statements ?? [];
  headline.statements_per_refresh = statements.length === 0 ? null : spreadOf(statements).median;
  const signIns = rates.get("postgres")?.signIn;
  headline.sign_in_per_s_postgres = signIns === undefined ? null : spreadOf(signIns).median;
  return headline;
}

async function measure(
  { store, floor, statements }: StoreBench,
  { quick, fewRounds }: BenchOptions,
): Promise<Rates> {
  const engine = await new Engine({
    issuer,
    audience: issuer,
    store,
    secret,
    // As short as possible, so that every refresh of a used session advances it.
    lifetimes: readLifetimes(
      { access: "1h" },
      { clientTimeout: "1ms", overlap: "2ms", settle: "0ms" },
    ),
    clockSkew: 60_000,
    clock: systemClock,
    emit: () => {},
  }).open();
  const count = quick ? 320 : 960;
  const rates: Rates = {
    ...{ signIn: [], refresh: [], floor: [], floorSigned: [], refreshCpu: [], signatureCpu: [] },
    ...{ refreshP50: [], writeP50: [], statements: [] },
  };
  const signed = await signer();
  const indexes = Array.from({ length: count }, (_, i) => i);
  let holders: readonly Holder[] = [];
  for (let round = -1; round < Math.min(fewRounds, 11); round++) {
    const created: Holder[] = [];
    const found = {
      signIn: await perSecond(indexes, async (i) => void created.push(await signIn(engine, i))),
      refresh: 0,
      floor: 0,
      floorSigned: 0,
    };
    holders = holders.length === 0 ? created : holders;
    await useAll(store, holders);
    const sent = statements?.() ?? 0;
    found.refresh = await perSecond(holders, (holder) => refresh(engine, holder));
    const perRefresh = ((statements?.() ?? 0) - sent) / holders.length;
    await useAll(store, holders);
    const few = holders.slice(0, 160);
    const costs = { refreshCpu: 0, signatureCpu: 0, refreshP50: 0, writeP50: 0 };
    if (floor === undefined) {
      costs.refreshCpu = await cpuOf(holders, (holder) => refresh(engine, holder));
      costs.signatureCpu = await cpuOf(holders, signed);
    } else {
      const advance = async (holder: Holder): Promise<void> => {
        if (!(await floor(holder.id, holder.floor++))) {
          throw new Error("the write of the floor did not advance its row");
        }
      };
      found.floor = await perSecond(holders, advance);
      found.floorSigned = await perSecond(holders, async (holder) => {
        await advance(holder);
        await signed();
      });
      [costs.refreshP50, costs.writeP50] = await p50OfEach(few, [
        (holder) => refresh(engine, holder),
        async (holder) => {
          await advance(holder);
          await signed();
        },
      ]);
    }
    if (round >= 0) {
      rates.signIn.push(found.signIn);
      rates.refresh.push(found.refresh);
      if (floor === undefined) {
        rates.refreshCpu.push(costs.refreshCpu);
        rates.signatureCpu.push(costs.signatureCpu);
      } else {
        rates.refreshP50.push(costs.refreshP50);
        rates.writeP50.push(costs.writeP50);
        if (statements !== undefined) {
          rates.statements.push(perRefresh);
        }
        rates.floor.push(found.floor);
        rates.floorSigned.push(found.floorSigned);
      }
    }
  }
  await engine.settled();
  await engine.close();
  return rates;
}

/** A client: its session, its refresh token, and the generation of its row of the floor. */
interface Holder {
  readonly id: string;
  token: string;
  generation: number;
  floor: number;
}

async function signIn(engine: Engine, i: number): Promise<Holder> {
  const { record, refreshToken } = await engine.creator.create({
    userId: `user-${i}`,
    tenantId: null,
    claims: { role: "admin", plan: "pro", org: "acme" },
    data: {},
    device: {},
    transport: "header",
    replaces: null,
  });
  return { id: record.id, token: refreshToken, generation: 0, floor: 0 };
}

/** Uses the tokens of every session, so that the next refresh advances it; not measured. */
async function useAll(store: SessionStore, holders: readonly Holder[]): Promise<void> {
  await perSecond(holders, async ({ id, generation }) => {
    await store.confirm([{ session: id, generation, settle: 0 }]);
  });
  await wait(10);
}

async function refresh(engine: Engine, holder: Holder): Promise<void> {
  const { refreshToken } = await engine.refresher.refresh({
    token: holder.token,
    transport: "header",
  });
  if (refreshToken === undefined) {
    throw new Error("a refresh did not advance its session");
  }
  holder.token = refreshToken;
  holder.generation++;
}

async function perSecond<T>(all: readonly T[], work: (one: T) => Promise<void>): Promise<number> {
  const begun = performance.now();
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let one = all[next++]; one !== undefined; one = all[next++]) {
      await work(one);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return all.length / ((performance.now() - begun) / 1000);
}

/** Returns a function that makes one ES256 signature over as many bytes as an access token has. */
async function signer(): Promise<() => Promise<unknown>> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const { privateKey } = await crypto.subtle.generateKey(algorithm, false, ["sign", "verify"]);
  const data = new Uint8Array(600);
  return () => crypto.subtle.sign(algorithm, privateKey, data);
}

async function openMemory(): Promise<StoreBench> {
  return { store: memoryStore(), floor: undefined, close: async () => {} };
}

async function openSqliteBench(): Promise<StoreBench> {
  const folder = mkdtempSync(join(tmpdir(), "rpcsession-bench-"));
  const file = join(folder, "sessions.db");
  const store = sqliteStore(file);
  // A separate file, because the store does not share its connection; opened the same way.
  const database = openSqlite(loadSqlite("bench"), join(folder, "floor.db"));
  database.exec(floorTable("integer"));
  const insert = database.prepare("insert or ignore into floor (id, generation) values (?, 0)");
  const update = database.prepare(
    "update floor set generation = generation + 1, rotated_at = ? where id = ? and generation = ? and revoked_at is null returning *",
  );
  return {
    store,
    async floor(id, generation) {
      if (generation === 0) {
        insert.run(id);
      }
      return update.get(Date.now(), id, generation) !== undefined;
    },
    async close() {
      database.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function openPostgresBench(): Promise<StoreBench | string> {
  if (postgresMissing !== undefined) {
    return postgresMissing;
  }
  const server = await startPostgres({ durable: true });
  const pool = new Pool({ connectionString: server.url("public"), max: inFlight });
  // It is stopped while connections are idle.
  pool.on("error", () => {});
  await pool.query(floorTable("bigint"));
  const text =
    "update floor set generation = generation + 1, rotated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint where id = $1 and generation = $2 and revoked_at is null returning *";
  const statements = countStatements();
  return {
    // With a URL, as recommended: the store prepares its statements, as the floor does.
    store: postgresStore(server.url("public"), { connections: inFlight }),
    statements: statements.sent,
    async floor(id, generation) {
      if (generation === 0) {
        await pool.query("insert into floor (id, generation) values ($1, 0)", [id]);
      }
      const { rowCount } = await pool.query({ name: "floor", text, values: [id, generation] });
      return rowCount === 1;
    },
    async close() {
      statements.stop();
      await pool.end();
      await server.stop();
    },
  };
}

/** Creates a table whose rows are as wide as those of sessions. */
function floorTable(number: string): string {
  return `create table floor (id text primary key, user_id text default 'user', salt text default '${"s".repeat(24)}', generation ${number} not null, rotated_at ${number}, revoked_at ${number}, claims text default '{"role":"admin","plan":"pro","org":"acme"}', data text default '{}', device text default '{}')`;
}

async function openRedisBench(): Promise<StoreBench | string> {
  if (redisMissing !== undefined) {
    return redisMissing;
  }
  const server = await startRedis();
  const client = await server.connect();
  const script = `
    if redis.call('HGET', KEYS[1], 'revoked') then return 0 end
    if (redis.call('HGET', KEYS[1], 'generation') or '0') ~= ARGV[1] then return 0 end
    redis.call('HINCRBY', KEYS[1], 'generation', 1)
    redis.call('HSET', KEYS[1], 'rotated', redis.call('TIME')[1])
    return 1`;
  const sha = await client.scriptLoad(script);
  return {
    store: redisStore(client),
    async floor(id, generation) {
      const keys = [`floor:${id}`];
      return (await client.evalSha(sha, { keys, arguments: [String(generation)] })) === 1;
    },
    close: () => server.stop(),
  };
}
