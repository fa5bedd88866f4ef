// Runs once before the tests of the project `apps`: packs the library as a release does.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** The folder that all applications of a run live in. */
    appsFolder: string;
    /** The packed library, a path. */
    tarball: string;
    /** Why no application can be installed here; empty if they can. */
    appsMissing: string;
  }
}

const root = join(import.meta.dirname, "../..");

export default function setup(project: TestProject): () => void {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-apps-"));
  const npm = (args: readonly string[], seconds: number) =>
    execFileSync("npm", args, {
      cwd: root,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      timeout: seconds * 1000,
    });
  const missing = registryMissing(() => npm(["ping"], 60));
  if (missing !== "") {
    console.warn(`tests of applications are skipped: ${missing}`);
  }
  // `npm pack` builds the library first (the script prepack), and prints the file's name last.
  const printed =
    missing === "" ? npm(["pack", "--silent", "--pack-destination", folder], 600) : "";
  project.provide("appsFolder", folder);
  project.provide("tarball", join(folder, printed.trim().split("\n").at(-1) ?? ""));
  project.provide("appsMissing", missing);
  return () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** Starting a foreign program may be repeated once: a registry may not answer at first. */
function registryMissing(ping: () => void): string {
  for (let left = 1; ; left--) {
    try {
      ping();
      return "";
    } catch {
      if (left === 0) {
        return "the npm registry does not answer; connect this machine to it and run them again";
      }
    }
  }
}
