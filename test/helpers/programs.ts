import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import { onTestFinished } from "vitest";
import { freePort } from "../servers/port.ts";

const examples = join(import.meta.dirname, "../../examples");

/** Runs programs of `examples` in a temporary folder and on a free port until the test is over. */
export async function examplePrograms(env: Readonly<Record<string, string>> = {}) {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-example-"));
  const servers: ChildProcess[] = [];
  onTestFinished(() => {
    for (const server of servers) {
      server.kill();
    }
    rmSync(folder, { recursive: true, force: true });
  });
  const port = await freePort();
  const options = {
    cwd: folder,
    env: { ...process.env, PORT: String(port), NODE_OPTIONS: "", ...env },
  };
  const args = (program: string) => ["--conditions=@rpc-session/source", join(examples, program)];
  return {
    port,
    /** Starts a server and resolves when it listens. */
    async serve(program: string): Promise<void> {
      const server = spawn(process.execPath, args(program), {
        ...options,
        stdio: ["ignore", "ignore", "pipe"],
      });
      servers.push(server);
      const failed = new Promise<never>((_, reject) => {
        const said: Buffer[] = [];
        server.stderr.on("data", (chunk: Buffer) => said.push(chunk));
        server.once("exit", () =>
          reject(new Error(`${program}: ${Buffer.concat(said).toString()}`)),
        );
      });
      await Promise.race([listening(port), failed]);
      failed.catch(() => {});
    },
    /** Runs a program and resolves to its output. */
    async run(program: string): Promise<string> {
      return (await promisify(execFile)(process.execPath, args(program), options)).stdout;
    },
  };
}

async function listening(port: number): Promise<void> {
  for (;;) {
    const there = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "localhost");
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      socket.once("error", () => resolve(false));
    });
    if (there) {
      return;
    }
    await setTimeout(20);
  }
}
