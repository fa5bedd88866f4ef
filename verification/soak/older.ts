import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** Where a server of the soak test is, and was in version 0.1. */
const places = ["verification/soak/server.ts", "tools/soak/server.ts"];

/**
 * Unpacks an older version of this repository into a folder that is removed at the end.
 * @returns the program of its servers
 * @throws Error if this repository has no such commit, or the commit has no soak test
 */
export function unpackOlder(commit: string): string {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), "rpcsession-older-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const archive = spawnSync("git", ["archive", commit], { cwd: root, maxBuffer: 2 ** 30 });
  if (archive.status !== 0) {
    throw new Error(
      `this repository has no commit ${JSON.stringify(commit)}; a shallow clone lacks older ones (git fetch --unshallow)`,
    );
  }
  spawnSync("tar", ["-x", "-C", folder], { input: archive.stdout });
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const file = places.map((place) => join(folder, place)).find((place) => existsSync(place));
  if (file === undefined) {
    throw new Error(`the commit ${commit} has no soak test`);
  }
  return file;
}
