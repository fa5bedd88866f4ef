// The temporary store of a run and its faults.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Client, Pool } from "pg";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import {
  type PairMember,
  PostgresPairs,
  postgresPairMissing,
} from "../../test/servers/postgres-pair.ts";
import { redisMissing, startRedis } from "../../test/servers/redis.ts";
import type { SoakOptions } from "./options.ts";
import { type StoreProxy, startProxy } from "./proxy.ts";
import type { Random } from "./random.ts";
import { sleep } from "./windows.ts";

/** A store with its faults. The promise of a fault resolves when the fault is over. */
export interface SoakStore {
  /** The URL for the servers; it leads through the proxy if there is one. */
  readonly url: string;
  readonly faults: Readonly<Record<string, () => Promise<void>>>;
  stop(): Promise<void>;
}

export async function startStore(
  { store, failover }: Pick<SoakOptions, "store" | "failover">,
  random: Random,
): Promise<SoakStore> {
  switch (store) {
    case "sqlite":
      return startSqlite(random);
    case "postgres":
      return failover ? startPostgresPair(random) : startPostgresStore(random);
    case "redis":
      return startRedisStore(random);
  }
}

function startSqlite(random: Random): SoakStore {
  const folder = mkdtempSync(join(tmpdir(), "rpcsession-soak-"));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  process.once("exit", remove);
  const url = join(folder, "sessions.db");
  return {
    url,
    faults: {
      // The counterpart of SIGSTOP for a server: another process holds the write lock.
      async lock() {
        const other = new DatabaseSync(url);
        other.exec("pragma busy_timeout = 100");
        try {
          other.exec("begin immediate");
          await sleep(random.between(300, 1_200));
          other.exec("rollback");
        } catch {
          // A server got the lock first; the next fault follows soon.
        }
        other.close();
      },
    },
    async stop() {
      process.off("exit", remove);
      remove();
    },
  };
}

async function startPostgresStore(random: Random): Promise<SoakStore> {
  if (postgresMissing !== undefined) {
    throw new Error(postgresMissing);
  }
  const server = await startPostgres();
  const direct = new URL(server.url("public"));
  const proxy = await startProxy({ host: "127.0.0.1", port: Number(direct.port) }, random);
  const admin = new Pool({ connectionString: direct.href, max: 1, connectionTimeoutMillis: 3_000 });
  admin.on("error", () => {});
  const pid = server.process.pid ?? 0;
  const signalAll = (signal: NodeJS.Signals): void => {
    for (const one of [pid, ...childrenOf(pid)]) {
      signalOne(one, signal);
    }
  };
  // A suspended process does not react to signals that end it.
  process.prependOnceListener("exit", () => signalAll("SIGCONT"));
  const url = new URL(direct);
  url.port = String(proxy.port);
  return {
    url: url.href,
    faults: {
      ...proxyFaults(proxy, random),
      async terminate() {
        await admin.query(
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'rpc-session' and random() < 0.7",
        );
      },
      async freeze() {
        signalAll("SIGSTOP");
        await sleep(random.between(600, 1_200));
        signalAll("SIGCONT");
      },
    },
    async stop() {
      signalAll("SIGCONT");
      proxy.close();
      await admin.end();
      await server.stop();
    },
  };
}

/**
 * A primary and a standby that has each commit before it is acknowledged, so that a failover loses nothing
 * that a client knows of. After a failover the new primary gets a standby of its own.
 */
async function startPostgresPair(random: Random): Promise<SoakStore> {
  if (postgresPairMissing !== undefined) {
    throw new Error(postgresPairMissing);
  }
  const pairs = new PostgresPairs();
  const target = { host: "127.0.0.1", port: 0 };
  const proxy = await startProxy(target, random);
  const withStandby = async (primary: PairMember) => {
    const standby = await primary.standby();
    // After the copy, which must not wait for a standby of its own.
    await run(primary, "alter system set synchronous_standby_names = '*'");
    await run(primary, "select pg_reload_conf()");
    return { primary, standby };
  };
  let pair = await withStandby(await pairs.primary());
  target.port = pair.primary.port;
  const url = new URL(pair.primary.url());
  url.port = String(proxy.port);
  return {
    url: url.href,
    faults: {
      async failover() {
        const { primary, standby } = pair;
        primary.kill();
        standby.promote();
        target.port = standby.port;
        proxy.cut(1);
        pair = await withStandby(standby);
      },
      ...proxyFaults(proxy, random),
      async terminate() {
        await run(
          pair.primary,
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'rpc-session' and random() < 0.7",
        );
      },
    },
    async stop() {
      proxy.close();
      await pairs[Symbol.asyncDispose]();
    },
  };
}

async function run(member: PairMember, statement: string): Promise<void> {
  const client = new Client({ connectionString: member.url() });
  await client.connect();
  await client.query(statement);
  await client.end();
}

async function startRedisStore(random: Random): Promise<SoakStore> {
  if (redisMissing !== undefined) {
    throw new Error(redisMissing);
  }
  const server = await startRedis();
  // kill() is synchronous up to its first await, which is enough in an exit handler.
  const kill = (): void => void server.kill();
  process.once("exit", kill);
  const proxy = await startProxy({ path: server.socket }, random);
  return {
    url: `redis://127.0.0.1:${proxy.port}`,
    faults: {
      ...proxyFaults(proxy, random),
      async freeze() {
        server.pause();
        await sleep(random.between(600, 1_200));
        server.resume();
      },
    },
    async stop() {
      process.off("exit", kill);
      proxy.close();
      await server.stop();
    },
  };
}

function proxyFaults(proxy: StoreProxy, random: Random): SoakStore["faults"] {
  const share = (): number => (random.chance(0.3) ? 1 : 0.5);
  return {
    async cut() {
      proxy.cut(share());
    },
    async stall() {
      const end = proxy.stall(share());
      // Long enough that abandoned requests are decided after the overlap.
      await sleep(random.between(300, 3_000));
      end();
    },
    async swallow() {
      const end = proxy.swallow(share());
      await sleep(random.between(300, 1_200));
      end();
    },
  };
}

function childrenOf(pid: number): number[] {
  const { stdout } = spawnSync("pgrep", ["-P", String(pid)], { encoding: "utf8" });
  return (stdout ?? "").split("\n").filter(Boolean).map(Number);
}

function signalOne(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // The process has ended in the meantime.
  }
}
