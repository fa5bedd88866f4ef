import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { until } from "../client/helpers/watching.ts";

interface Running {
  readonly child: ChildProcess;
  readonly port: number;
  /** The most calls that were inside a handler at once. */
  inside: number;
}

async function start(file: string, issuer: string): Promise<Running> {
  const child = fork(join(import.meta.dirname, "sigterm-program.ts"), [file, issuer], {
    execArgv: ["--conditions=@rpc-session/source"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  const running: Running = { child, port, inside: 0 };
  child.on("message", (message: { inside?: number }) => {
    running.inside = message.inside ?? running.inside;
  });
  return running;
}

/** A proxy that sends new connections to the server that `target` names. */
async function balancer(target: () => number): Promise<number> {
  const sockets = new Set<Socket>();
  const proxy = createServer((incoming) => {
    const outgoing = connect(target(), "127.0.0.1");
    for (const [from, to] of [
      [incoming, outgoing],
      [outgoing, incoming],
    ] as const) {
      sockets.add(from);
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  onTestFinished(() => {
    proxy.close();
    for (const socket of sockets) {
      socket.destroy();
    }
  });
  const address = proxy.address();
  return typeof address === "object" ? (address?.port ?? 0) : 0;
}

it("feat:O10 a server that receives SIGTERM finishes 100 calls, and its streams go on at another one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "sigterm-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const issuer = "http://localhost:8080";
  const file = join(folder, "sessions.db");
  const [first, second] = [await start(file, issuer), await start(file, issuer)];
  let target = first;
  const port = await balancer(() => target.port);
  const session = createSessionClient({
    tokens: memoryTokens(),
    transport: (parts) =>
      createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: "1.1", ...parts }),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "ada", password: "" });

  // 1. A stream and 100 calls are under way.
  const seen: string[] = [];
  const leave = new AbortController();
  const watching = (async () => {
    const stream = session.resume((_, call) => notes.watchNotes({}, call), {
      signal: leave.signal,
    });
    for await (const { note } of stream) {
      seen.push(note?.text ?? "");
    }
  })().catch(() => {});
  await until(() => seen.length === 1);
  const calls = Array.from({ length: 100 }, (_, i) => notes.addNote({ note: { text: `n${i}` } }));
  await until(() => first.inside === 100);

  // 2. The server is told to stop, and new connections go to the other one.
  target = second;
  const exited = once(first.child, "exit");
  first.child.kill("SIGTERM");

  // 3. All calls succeed, and what they wrote is there. The stream goes on.
  const outcomes = await Promise.allSettled(calls);
  expect(outcomes.filter(({ status }) => status === "rejected")).toEqual([]);
  expect(await exited).toEqual([0, null]);
  await until(() => seen.length === 2);
  expect(seen).toEqual([String(first.child.pid), String(second.child.pid)]);
  await session.refresh();
  expect((await notes.listNotes({})).notes).toHaveLength(100);
  leave.abort();
  await watching;
});
