import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

it("feat:Q4 a process that only waits to open its stream again does not exit", async () => {
  const program = join(import.meta.dirname, "resume-program.ts");
  const node = ["--conditions=@rpc-session/source", program];
  const { stdout } = await promisify(execFile)(process.execPath, node, { timeout: 120_000 });
  expect(stdout).toBe("message of attempt 2");
});
