import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { StoreKind } from "./options.ts";
import type { Answers, Order } from "./server.ts";

/** One server process with a client for it. */
export interface Server {
  readonly notes: Client<typeof NotesService>;
  readonly session: Client<typeof SessionService>;
  /** Creates sessions and returns their access tokens. */
  issue(count: number): Promise<readonly string[]>;
  /** Returns the number of store reads so far that a call may have waited for. */
  countReads(): Promise<number>;
  stop(): void;
}

export interface ServerOptions {
  readonly store: StoreKind;
  /** A URL, or the path of a socket. */
  readonly at: string;
  readonly secret: string;
}

export async function startServer(options: ServerOptions): Promise<Server> {
  const file = fileURLToPath(new URL("server.ts", import.meta.url));
  const child = spawn(process.execPath, ["--conditions=@rpc-session/source", file], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const kill = (): void => void child.kill("SIGKILL");
  process.once("exit", kill);
  const { port } = await ask(child, { type: "start", ...options });
  const baseUrl = `http://127.0.0.1:${port}`;
  // Streams have connections of their own, so that the measured calls do not queue behind them.
  const [forCalls, forStreams] = [
    new Http2SessionManager(baseUrl),
    new Http2SessionManager(baseUrl),
  ];
  const over = (sessionManager: Http2SessionManager) =>
    createConnectTransport({ baseUrl, httpVersion: "2", sessionManager });
  const { watchNotes } = createClient(NotesService, over(forStreams));
  return {
    notes: { ...createClient(NotesService, over(forCalls)), watchNotes },
    session: createClient(SessionService, over(forCalls)),
    issue: (count) => ask(child, { type: "issue", count }),
    countReads: () => ask(child, { type: "countReads" }),
    stop() {
      forCalls.abort();
      forStreams.abort();
      process.off("exit", kill);
      kill();
    },
  };
}

async function ask<O extends Order>(child: ChildProcess, order: O): Promise<Answers[O["type"]]> {
  child.send(order);
  const ended = once(child, "exit").then(() => {
    throw new Error("a server exited unexpectedly");
  });
  const [answer] = await Promise.race([once(child, "message"), ended]);
  ended.catch(() => {});
  return answer as Answers[O["type"]];
}
