// A server under load gets SIGTERM, and another one goes on. Both are processes that share a store.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { Agent } from "node:http";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { createSessionClient, memoryTokens, type TransportParts } from "rpc-session/client";
import { describe, expect, it, onTestFinished } from "vitest";
import { InboxService } from "../../examples/gen/inbox/v1/inbox_pb.ts";
import { range } from "../client/helpers/watching.ts";
import { postgresMissing, startPostgres } from "../servers/postgres.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { createSchema } from "./postgres-fixture.ts";
import { createSqlite } from "./sqlite-fixture.ts";

const stores = [
  { kind: "sqlite", missing: undefined, open: openSqlite },
  { kind: "postgres", missing: postgresMissing, open: openPostgres },
  { kind: "redis", missing: redisMissing, open: openRedis },
] as const;

const wires = ["Connect, HTTP/1.1", "Connect, HTTP/2", "gRPC", "gRPC-Web"] as const;
type StopWire = (typeof wires)[number];
const overHttp1: ReadonlySet<StopWire> = new Set(["Connect, HTTP/1.1", "gRPC-Web"]);

/** Clients that sign in again and again over each wire, and clients that watch. */
const clientsPerWire = 4;

describe.each(stores)(
  "a server that is stopped under load, on $kind",
  ({ kind, missing, open }) => {
    it.skipIf(missing)(
      "feat:O10 no call fails but those that HTTP/2 refuses unseen, streams go on at the other server, and nothing is lost",
      async () => {
        // 1. Two servers behind a balancer that asks for readiness. Only the first is there at first.
        const place = await open();
        const old = await startServer(kind, place, "old");
        const servers = [old];
        const ports = await balance(servers);

        // 2. Load: sign-ins with their writes, and streams, over every protocol.
        const load = new Load(ports);
        const watchers = wires.flatMap((wire) =>
          Array.from({ length: clientsPerWire }, () => load.watch(wire)),
        );
        for (const wire of wires) {
          for (let i = 0; i < clientsPerWire; i++) {
            load.signInRepeatedly(wire);
          }
        }
        await expect.poll(() => watchers.every(({ numbers }) => numbers.length > 5)).toBe(true);
        await expect.poll(() => load.signIns.filter(({ done }) => done).length).toBeGreaterThan(50);

        // 3. The other server comes, and the first one is stopped.
        servers.push(await startServer(kind, place, "new"));
        // What `preStop` is for: no connection is on its way to the first one any more.
        await ports.settled();
        const exited = once(old.child, "exit");
        // Calls over HTTP/1.1 that are on their way arrive only after the streams have gone.
        const held = ports.holdBack();
        old.child.kill("SIGTERM");
        await expect.poll(() => watchers.every(({ texts }) => texts.has("new"))).toBe(true);
        await expect.poll(held.calls).toBe(overHttp1.size * clientsPerWire);
        held.letGo();
        expect(await exited).toEqual([0, null]);

        // 4. Every call has succeeded, except those that HTTP/2 refused before they ran. Calls go on.
        const after = load.signIns.length;
        await expect
          .poll(() => load.signIns.filter(({ done }) => done).length)
          .toBeGreaterThan(after);
        await load.stop();
        const seen = load.signIns.filter(({ error }) => !wasRefusedUnseen(error));
        expect(seen.filter(({ error }) => error !== undefined)).toEqual([]);
        expect(seen.filter(({ done }) => !done)).toEqual([]);

        // 5. No message was lost or repeated, and no stream saw a failure.
        for (const { numbers, interruptions, error } of watchers) {
          expect(error).toBeUndefined();
          expect(numbers).toEqual(range(numbers.length));
          expect(interruptions).toEqual([]);
        }

        // 6. Every session that was answered is there.
        const answered = load.signIns.filter(({ done }) => done);
        for (const signIn of answered.slice(-50)) {
          expect(await signIn.firstMessage()).toBe(1);
        }
      },
    );
  },
);

/**
 * Whether a call reached its HTTP/2 connection after the server had closed it, and so may be sent again:
 * it was refused "prior to any processing having occurred" (RFC 9113 section 8.7).
 */
function wasRefusedUnseen(error: unknown): boolean {
  return error instanceof ConnectError && error.rawMessage.includes("NGHTTP2_REFUSED_STREAM");
}

interface Stoppable {
  readonly child: ChildProcess;
  readonly h1: number;
  readonly h2: number;
  readonly health: number;
}

async function startServer(kind: string, place: string, name: string): Promise<Stoppable> {
  const program = join(import.meta.dirname, "stopping-server.ts");
  const child = fork(program, [kind, place, name], {
    execArgv: ["--conditions=@rpc-session/source"],
  });
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
  });
  const [ports] = (await once(child, "message")) as [Omit<Stoppable, "child">];
  return { child, ...ports };
}

/** Leads each new connection to the last server that is ready; the connections that exist stay. */
async function balance(servers: readonly Stoppable[]) {
  const leading = new Set<Promise<void>>();
  const http1 = new Set<Socket>();
  const isReady = async ({ health }: Stoppable): Promise<boolean> => {
    const answer = await fetch(`http://127.0.0.1:${health}/ready`, {
      headers: { connection: "close" },
    }).catch(() => undefined);
    await answer?.arrayBuffer();
    return answer?.status === 200;
  };
  const listen = async (protocol: "h1" | "h2"): Promise<number> => {
    const sockets = new Set<Socket>();
    const lead = async (socket: Socket): Promise<void> => {
      const ready = await Promise.all(servers.map(isReady));
      const chosen = servers[ready.lastIndexOf(true)];
      if (chosen === undefined) {
        socket.destroy();
        return;
      }
      const onward = connect(chosen[protocol], "127.0.0.1");
      sockets.add(onward);
      onward.on("error", () => socket.destroy());
      onward.on("close", () => socket.destroy());
      socket.on("close", () => onward.destroy());
      socket.pipe(onward).pipe(socket);
      if (protocol === "h1") {
        http1.add(socket);
      }
      await once(onward, "connect").catch(() => {});
    };
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      const led = lead(socket).finally(() => leading.delete(led));
      leading.add(led);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => {
      server.close();
      for (const socket of sockets) {
        socket.destroy();
      }
    });
    return (server.address() as AddressInfo).port;
  };
  const settled = () => Promise.all(leading);
  /** Lets nothing more arrive on the present connections over HTTP/1.1, until it is let go. */
  const holdBack = () => {
    const held = [...http1];
    for (const socket of held) {
      socket.pause();
    }
    return {
      /** How many connections have a call that is held. */
      calls: () => held.filter(({ readableLength }) => readableLength > 0).length,
      letGo() {
        for (const socket of held) {
          socket.resume();
        }
      },
    };
  };
  return { h1: await listen("h1"), h2: await listen("h2"), settled, holdBack };
}

interface SignIn {
  done: boolean;
  error: unknown;
  /** Opens a stream with the tokens of the sign-in. */
  firstMessage(): Promise<number | undefined>;
}

interface Watcher {
  readonly numbers: number[];
  readonly texts: Set<string>;
  readonly interruptions: unknown[];
  error: unknown;
}

/** Clients over every wire, each with a connection of its own. */
class Load {
  readonly signIns: SignIn[] = [];
  readonly #ports: { readonly h1: number; readonly h2: number };
  readonly #abort = new AbortController();
  readonly #running: Promise<void>[] = [];

  constructor(ports: { readonly h1: number; readonly h2: number }) {
    this.#ports = ports;
  }

  signInRepeatedly(wire: StopWire): void {
    const make = this.#transports(wire);
    const run = async (): Promise<void> => {
      while (!this.#abort.signal.aborted) {
        await this.#signIn(make);
      }
    };
    this.#running.push(run());
  }

  async #signIn(make: (parts: TransportParts) => Transport): Promise<void> {
    const session = createSessionClient({ transport: make, tokens: memoryTokens() });
    const client = createClient(InboxService, session.transport);
    const entry: SignIn = {
      ...{ done: false, error: undefined },
      async firstMessage() {
        for await (const { number } of client.watch({ after: 0 })) {
          return number;
        }
        return undefined;
      },
    };
    this.signIns.push(entry);
    await client.signIn({ user: "ada" }).then(
      () => {
        entry.done = true;
      },
      (error: unknown) => {
        entry.error = error;
      },
    );
  }

  watch(wire: StopWire): Watcher {
    const session = createSessionClient({
      transport: this.#transports(wire),
      tokens: memoryTokens(),
    });
    const client = createClient(InboxService, session.transport);
    const watcher: Watcher = {
      ...{ numbers: [], texts: new Set<string>(), interruptions: [], error: undefined },
    };
    const run = async (): Promise<void> => {
      await client.signIn({ user: "bob" });
      const messages = session.resume((after, call) => client.watch({ after }, call), {
        start: 0,
        cursor: ({ number }) => number,
        onInterrupted: (error) => watcher.interruptions.push(error),
      });
      for await (const { number, text } of messages) {
        watcher.numbers.push(number);
        watcher.texts.add(text);
        if (this.#abort.signal.aborted) {
          break;
        }
      }
    };
    this.#running.push(
      run().catch((error: unknown) => {
        watcher.error = error;
      }),
    );
    return watcher;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await Promise.all(this.#running);
  }

  #transports(wire: StopWire): (parts: TransportParts) => Transport {
    const { h1, h2 } = this.#ports;
    if (overHttp1.has(wire)) {
      const agent = new Agent({ keepAlive: true });
      onTestFinished(() => agent.destroy());
      const create = wire === "gRPC-Web" ? createGrpcWebTransport : createConnectTransport;
      const baseUrl = `http://127.0.0.1:${h1}`;
      return (parts) => create({ baseUrl, httpVersion: "1.1", nodeOptions: { agent }, ...parts });
    }
    const baseUrl = `http://127.0.0.1:${h2}`;
    const sessionManager = new Http2SessionManager(baseUrl);
    onTestFinished(() => sessionManager.abort());
    const create = wire === "gRPC" ? createGrpcTransport : createConnectTransport;
    return (parts) => create({ baseUrl, httpVersion: "2", sessionManager, ...parts });
  }
}

async function openSqlite(): Promise<string> {
  const fixture = await createSqlite();
  onTestFinished(() => fixture.close());
  return fixture.file;
}

async function openPostgres(): Promise<string> {
  const server = await startPostgres();
  onTestFinished(() => server.stop());
  const schema = await createSchema(server);
  onTestFinished(() => schema.admin.end());
  return schema.url;
}

async function openRedis(): Promise<string> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  return redis.socket;
}
