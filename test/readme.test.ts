import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import { renderReadme } from "../tools/readme.ts";

const root = join(import.meta.dirname, "..");
const folder = mkdtempSync(join(tmpdir(), "rpc-session-readme-"));
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) {
    child.kill();
  }
  rmSync(folder, { recursive: true, force: true });
});

describe("the README", () => {
  it("shows the programs and the wire as they are (else: npm run readme)", async () => {
    expect(readFileSync(join(root, "README.md"), "utf8")).toBe(await renderReadme());
  });

  it("its programs print what it says", async () => {
    const port = await freePort();
    const options = { cwd: folder, env: { ...process.env, PORT: String(port), NODE_OPTIONS: "" } };
    const program = (name: string): string[] => [
      "--conditions=@rpc-session/source",
      join(root, "examples/minimal", name),
    ];
    children.push(spawn(process.execPath, program("server.ts"), { ...options, stdio: "ignore" }));
    await listening(port);
    const { stdout } = await promisify(execFile)(process.execPath, program("client.ts"), options);
    expect(stdout).toBe("[ 'hello' ]\n[unauthenticated] the call needs a session\n");
  });
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
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
    await new Promise((resolve) => setImmediate(resolve));
  }
}
