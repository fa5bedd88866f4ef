// A temporary PgBouncer for one test file, in front of a PostgreSQL that a test started.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./port.ts";

/** Why tests with PgBouncer are skipped; undefined if one can be started. */
export const pgbouncerMissing: string | undefined = findMissing();

function findMissing(): string | undefined {
  const { error } = spawnSync("pgbouncer", ["--version"]);
  if (error === undefined) {
    return undefined;
  }
  const message = "pgbouncer is not installed; on Debian, run apt-get install pgbouncer";
  console.warn(`tests with PgBouncer are skipped: ${message}`);
  return message;
}

export interface TestPgbouncer {
  /** The URL of the database through the pooler. */
  readonly url: string;
  stop(): Promise<void>;
}

interface PgbouncerOptions {
  readonly mode: "session" | "transaction";
  /** Connections to the server, at most. */
  readonly poolSize: number;
  /** Whether the server connections take turns, instead of the one used last being used first. */
  readonly roundRobin?: boolean;
}

/** @param target the URL of the server; the pooler connects with its user */
export async function startPgbouncer(
  target: string,
  { mode, poolSize, roundRobin = false }: PgbouncerOptions,
): Promise<TestPgbouncer> {
  const { hostname, port: targetPort, username } = new URL(target);
  const folder = mkdtempSync(join(tmpdir(), "rpcsession-pgbouncer-"));
  const port = await freePort();
  writeFileSync(join(folder, "users.txt"), `"${username}" ""\n`);
  writeFileSync(
    join(folder, "pgbouncer.ini"),
    `[databases]
postgres = host=${hostname} port=${targetPort} dbname=postgres user=${username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
auth_file = ${join(folder, "users.txt")}
pool_mode = ${mode}
default_pool_size = ${poolSize}
max_client_conn = 500
server_round_robin = ${roundRobin ? 1 : 0}
`,
  );
  // PgBouncer refuses to run as root.
  const account = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  if (account.uid !== undefined) {
    chownSync(folder, account.uid, account.gid);
  }
  const pooler = spawn("pgbouncer", ["-q", join(folder, "pgbouncer.ini")], {
    ...account,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const kill = (): void => void pooler.kill("SIGKILL");
  process.once("exit", kill);
  await ready(pooler, port);
  return {
    url: `postgres://${username}@127.0.0.1:${port}/postgres`,
    async stop() {
      process.off("exit", kill);
      if (pooler.exitCode === null) {
        pooler.kill("SIGKILL");
        await once(pooler, "exit");
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Waits until the port accepts connections. */
async function ready(pooler: ReturnType<typeof spawn>, port: number): Promise<void> {
  let log = "";
  pooler.stderr?.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  for (;;) {
    const socket = connect(port, "127.0.0.1");
    const accepted = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (accepted) {
      return;
    }
    if (pooler.exitCode !== null) {
      throw new Error(`pgbouncer: ${log}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
