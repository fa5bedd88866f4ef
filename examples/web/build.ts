import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "vite";

/** The files of a page by path, ready to be served. */
export type PageFiles = ReadonlyMap<string, PageFile>;

interface PageFile {
  readonly type: string;
  readonly body: string | Uint8Array;
}

const types: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
};

export interface BuildOptions {
  /** Whether the page brings its server along. Default false: it calls the server it came from. */
  readonly isStatic?: boolean;
}

/** Bundles the page with Vite, in memory. All its URLs are relative. */
export async function buildPage({ isStatic = false }: BuildOptions = {}): Promise<PageFiles> {
  const root = join(import.meta.dirname, "page");
  const built = await build({
    root,
    configFile: false,
    logLevel: "warn",
    base: "./",
    resolve: {
      // In this repository the library is used from its sources. An app needs no conditions.
      conditions: ["@rpc-session/source", "module", "browser", "import", "default"],
      alias: isStatic ? { "./network.ts": join(import.meta.dirname, "static/network.tsx") } : {},
    },
    worker: { format: "es" },
    build: { write: false },
  });
  const files = new Map<string, PageFile>();
  for (const output of [built].flat()) {
    for (const file of "output" in output ? output.output : []) {
      const type = types[file.fileName.split(".").at(-1) ?? ""] ?? "application/octet-stream";
      files.set(`/${file.fileName}`, {
        type,
        body: file.type === "chunk" ? file.code : file.source,
      });
    }
  }
  const icon = await readFile(join(root, "public/icon.svg"), "utf8");
  files.set("/icon.svg", { type: types.svg ?? "", body: icon });
  return files;
}
