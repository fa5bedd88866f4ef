import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "..");

/** Installs the libraries that rpc-session is compared with, unless they are installed. */
export function installPeers(): void {
  if (existsSync(join(folder, "node_modules"))) {
    return;
  }
  console.log("installing the libraries to compare with (npm ci in bench/) ...");
  const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], {
    cwd: folder,
    stdio: ["ignore", "inherit", "inherit"],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    throw new Error("npm ci in bench/ failed; see its output above");
  }
}

/**
 * Loads a package of bench/package.json. The caller describes the part that it uses, because
 * `npm run typecheck` runs without the package.
 */
export async function loadPeer<T>(specifier: string): Promise<T> {
  return (await import(specifier)) as T;
}

/** Returns the versions of the libraries compared with, for the report. */
export function peerVersions(): string {
  const { dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  return Object.entries(dependencies)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
}
