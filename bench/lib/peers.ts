import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "..");

/** Installs what rpc-session is measured beside, unless it is there. */
export function installPeers(): void {
  if (existsSync(join(folder, "node_modules"))) {
    return;
  }
  console.log("installing the peers (npm ci in bench/) ...");
  const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], {
    cwd: folder,
    stdio: ["ignore", "inherit", "inherit"],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    throw new Error("npm ci in bench/ failed");
  }
}

/**
 * Loads a package of bench/package.json. Its types are not looked at, as `npm run typecheck` runs
 * without it; the caller says what it uses of it.
 */
export async function loadPeer<T>(specifier: string): Promise<T> {
  return (await import(specifier)) as T;
}

/** The versions of the peers, for the report. */
export function peerVersions(): string {
  const { dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  return Object.entries(dependencies)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
}
