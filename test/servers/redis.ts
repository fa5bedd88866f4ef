import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "redis";

/** Why tests with Redis are skipped; undefined if a server can be started. */
export const redisMissing: string | undefined = findMissing();

function findMissing(): string | undefined {
  const { error, stdout } = spawnSync("redis-server", ["--version"], { encoding: "utf8" });
  if (error === undefined && stdout.includes("v=")) {
    return undefined;
  }
  const message = "redis-server is not installed; on Debian, run apt-get install redis-server";
  console.warn(`tests with Redis are skipped: ${message}`);
  return message;
}

/** A temporary Redis server on a Unix socket. It keeps nothing on disk. */
export interface TestRedis {
  /** The path of the socket it listens on. */
  readonly socket: string;
  /** Returns a connected client, which `stop` destroys. */
  connect(): Promise<TestRedisClient>;
  /** Ends the process with SIGKILL, so that its data is lost. */
  kill(): Promise<void>;
  /** Starts the server again after `kill`; resolves once its clients have reconnected. */
  start(): Promise<void>;
  /** Suspends the process with SIGSTOP: it accepts connections but does not answer. */
  pause(): void;
  resume(): void;
  stop(): Promise<void>;
}

export type TestRedisClient = ReturnType<typeof newClient>;

/** @param args further arguments of redis-server */
export async function startRedis(...args: string[]): Promise<TestRedis> {
  const folder = await mkdtemp(join(tmpdir(), "rpcsession-redis-"));
  const socket = join(folder, "redis.sock");
  const clients: TestRedisClient[] = [];
  let server = await spawnRedis(socket, folder, args);
  const kill = async (): Promise<void> => {
    if (server.exitCode === null && server.signalCode === null) {
      server.kill("SIGKILL");
      await once(server, "exit");
    }
  };
  return {
    socket,
    async connect() {
      const client = newClient(socket);
      clients.push(client);
      // Without a listener, a lost connection would end the process.
      client.on("error", () => {});
      await client.connect();
      return client;
    },
    kill,
    async start() {
      await rm(socket, { force: true });
      server = await spawnRedis(socket, folder, args);
      for (const client of clients) {
        await reconnected(client);
      }
    },
    pause: () => server.kill("SIGSTOP"),
    resume: () => server.kill("SIGCONT"),
    async stop() {
      for (const client of clients) {
        client.destroy();
      }
      await kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function newClient(path: string) {
  return createClient({
    socket: { path, tls: false, reconnectStrategy: () => 5 },
    disableOfflineQueue: true,
  });
}

/** Waits until a client has reconnected. */
export async function reconnected(client: TestRedisClient): Promise<void> {
  while (client.isOpen && !client.isReady) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function spawnRedis(
  socket: string,
  folder: string,
  args: readonly string[],
): Promise<ChildProcess> {
  const fixed = ["--port", "0", "--unixsocket", socket, "--dir", folder];
  const nothingKept = ["--save", "", "--appendonly", "no"];
  const server = spawn("redis-server", [...fixed, ...nothingKept, ...args], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let log = "";
  await new Promise<void>((resolve, reject) => {
    server.stdout.on("data", (chunk: Buffer) => {
      log += chunk.toString();
      // Only after it has loaded its files.
      if (/ready to accept connections/i.test(log)) {
        resolve();
      }
    });
    server.once("error", reject);
    server.once("exit", () => reject(new Error(`redis-server did not start: ${log}`)));
  });
  return server;
}
