import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { FirstCall } from "../children/first-call.ts";
import { askChild } from "../children/talk.ts";
import type { BenchOptions } from "../lib/options.ts";
import { loadPeer } from "../lib/peers.ts";
import type { Findings } from "../lib/report.ts";
import { rotated } from "../lib/rounds.ts";
import { spreadOf } from "../lib/stats.ts";

const bench = join(import.meta.dirname, "..");
const root = join(bench, "..");
const dist = join(root, "dist");

/** Measures the cost of starting: time, disk space and bundle size. */
export async function startupSection({ quick }: BenchOptions): Promise<Findings> {
  build();
  const kinds = ["bare", "sessions"] as const;
  const times = new Map<string, number[]>(kinds.map((kind) => [kind, []]));
  for (let round = -1; round < (quick ? 7 : 15); round++) {
    for (const kind of rotated(kinds, round)) {
      const child = join(bench, "children/first-call.ts");
      const { answered } = await askChild<FirstCall>(child, [dist, kind], { sources: false });
      if (round >= 0) {
        times.get(kind)?.push(answered);
      }
    }
  }
  const bundle = await bundleOf("client");
  const react = await bundleOf("react");
  const install = installedKilobytes();
  const total = Object.values(install).reduce((sum, size) => sum + size, 0);
  const first = (kind: string) => spreadOf(times.get(kind) ?? []);
  return {
    tables: [
      {
        title: "start-up, from the start of the process",
        columns: ["ms to the first answered call"],
        rows: [
          { name: "Connect alone", cells: [first("bare")] },
          {
            name: "with sessions in memory: keys created, signed in, verified",
            cells: [first("sessions")],
          },
        ],
      },
      {
        title: "size",
        columns: ["kB"],
        rows: [
          ...Object.entries(install).map(([name, size]) => ({
            name: `installed: ${name}`,
            cells: [size],
          })),
          { name: "client bundle, minified", cells: [bundle?.minified ?? null] },
          { name: "client bundle, minified, gzip", cells: [bundle?.gzip ?? null] },
          { name: "rpc-session/react, minified, gzip", cells: [react?.gzip ?? null] },
        ],
      },
    ],
    headline: {
      first_call_ms: first("sessions").median,
      install_kb: total,
      client_bundle_kb: bundle?.gzip ?? null,
      client_gzip_bytes: bundle === undefined ? null : bundle.gzip * 1000,
      react_gzip_bytes: react === undefined ? null : react.gzip * 1000,
    },
    notes: [
      bundle === undefined
        ? "client bundle: not measured, because rolldown is not installed"
        : `client bundle: without @connectrpc/connect and @bufbuild/protobuf, which every user has; ${forbiddenNote(bundle.forbidden)}.`,
    ],
  };
}

function forbiddenNote(forbidden: readonly string[]): string {
  return forbidden.length === 0
    ? "it contains neither jose nor node: modules"
    : `IT CONTAINS ${forbidden.join(", ")}`;
}

/** Builds the library in the form that is published. */
function build(): void {
  const { status } = spawnSync("npm", ["run", "--silent", "build"], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    throw new Error("the build failed; see its output above");
  }
}

/** Returns the disk space of `npm install rpc-session` without peer dependencies. */
function installedKilobytes(): Record<string, number> {
  const own = ["src", "gen", "proto"].map((folder) => sizeOf(join(root, folder)));
  const built = ["src", "gen"].map((folder) => sizeOf(join(dist, folder)));
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const sum = (sizes: readonly number[]): number => sizes.reduce((a, b) => a + b, 0) / 1000;
  return {
    "rpc-session with sources and source maps": sum([...own, ...built]),
    ...Object.fromEntries(
      Object.keys(dependencies).map((name) => [
        name,
        sum([sizeOf(join(root, "node_modules", name))]),
      ]),
    ),
  };
}

function sizeOf(folder: string): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name)).size)
    .reduce((a, b) => a + b, 0);
}

interface Bundle {
  readonly minified: number;
  readonly gzip: number;
  /** Modules that the bundle must not contain. */
  readonly forbidden: readonly string[];
}

/** The part of rolldown that is used here; it comes with the test runner. */
interface Rolldown {
  rolldown(options: object): Promise<{
    generate(options: object): Promise<{
      readonly output: readonly {
        readonly code?: string;
        readonly imports?: readonly string[];
        readonly moduleIds?: readonly string[];
      }[];
    }>;
  }>;
}

/** Bundles an entry point as for a browser. */
async function bundleOf(entry: "client" | "react"): Promise<Bundle | undefined> {
  const bundler = await loadPeer<Rolldown>("rolldown").catch(() => undefined);
  if (bundler === undefined) {
    return undefined;
  }
  const bundle = await bundler.rolldown({
    input: join(dist, `src/${entry}/index.js`),
    platform: "browser",
    external: [/^@connectrpc\/connect/, /^@bufbuild\/protobuf/, /^react$/, /^node:/],
  });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  const code = output.map((chunk) => chunk.code ?? "").join("");
  const parts = output.flatMap(({ imports = [], moduleIds = [] }) => [...imports, ...moduleIds]);
  return {
    minified: Buffer.byteLength(code) / 1000,
    gzip: gzipSync(code).length / 1000,
    forbidden: parts.filter((part) => /^node:|node_modules\/jose\//.test(part)),
  };
}
