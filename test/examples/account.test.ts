import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

it("examples/account: typed claims, step-up, devices, and signing out the others", async () => {
  const program = join(import.meta.dirname, "../../examples/account/main.ts");
  const run = promisify(execFile);
  const { stdout } = await run(process.execPath, ["--conditions=@rpc-session/source", program]);
  expect(
    stdout
      .trimEnd()
      .split("\n")
      .map((line) => line.trimEnd()),
  ).toEqual([
    "role: reader",
    "publish: PermissionDenied",
    "role: editor",
    "publish: ok",
    "device: phone",
    "device: laptop (this one)",
    "change password: PermissionDenied",
    "change password: done, sessions signed out: 1",
    "phone: Unauthenticated",
    "laptop: ok",
  ]);
});
