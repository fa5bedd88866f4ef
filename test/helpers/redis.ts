import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect as connectSocket, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "redis";

/** Why tests with Redis cannot run here; undefined where they can. */
export const redisMissing: string | undefined = findMissing();

function findMissing(): string | undefined {
  const { error, stdout } = spawnSync("redis-server", ["--version"], { encoding: "utf8" });
  if (error === undefined && stdout.includes("v=")) {
    return undefined;
  }
  const message = "redis-server is missing; on Debian: apt-get install redis-server";
  console.warn(`tests with Redis are skipped: ${message}`);
  return message;
}

/** A Redis server of our own, on a socket in a folder of its own. Nothing is kept on disk. */
export interface TestRedis {
  /** Where it listens. */
  readonly socket: string;
  /** A connected client; it is destroyed with the server. */
  connect(): Promise<TestRedisClient>;
  /** Ends the process with SIGKILL: what is not on disk is lost, and nothing listens. */
  kill(): Promise<void>;
  /** Starts it after `kill`; resolves when its clients are connected again. */
  start(): Promise<void>;
  /** Stops the process where it is; what is sent to it waits. */
  pause(): void;
  resume(): void;
  stop(): Promise<void>;
}

export type TestRedisClient = ReturnType<typeof newClient>;

/** @param args arguments of redis-server beside those that every test needs */
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

/** A port that nothing listens on. */
export async function freePort(): Promise<string> {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, "close");
  return String(port);
}

/** Waits until a client that lost its connection has another one. */
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
  const server = spawn("redis-server", [...fixed, ...nothingKept, ...args], { stdio: "ignore" });
  for (let attempt = 0; attempt < 500; attempt++) {
    if (await answers(socket)) {
      return server;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  server.kill("SIGKILL");
  throw new Error("redis-server did not start");
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectSocket(path);
    socket.setEncoding("utf8");
    socket.once("connect", () => socket.write("PING\r\n"));
    // While it loads its files it listens, and answers -LOADING.
    socket.once("data", (answer) => {
      socket.destroy();
      resolve(String(answer).startsWith("+PONG"));
    });
    socket.once("error", () => resolve(false));
  });
}
