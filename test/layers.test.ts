import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, it } from "vitest";

// The layers, outermost last. A room may import rooms of the layers it names, and itself.
const ground = ["gen", "base"];
const rooms: Readonly<Record<string, readonly string[]>> = {
  gen: [],
  base: ["gen"],
  tokens: ground,
  jwt: ground,
  session: [...ground, "tokens", "jwt"],
  stores: [...ground, "tokens", "jwt", "session"],
  server: [...ground, "tokens", "jwt", "session"],
  http: [...ground, "tokens", "jwt", "session"],
  client: ground,
  assembly: [...ground, "tokens", "jwt", "session", "server", "http"],
  testing: [
    ...ground,
    "tokens",
    "jwt",
    "session",
    "stores",
    "server",
    "http",
    "client",
    "assembly",
  ],
  cli: [...ground, "tokens", "jwt", "session", "stores", "server", "http", "assembly"],
  compat: [...ground, "tokens", "jwt", "session", "stores", "server", "http", "assembly"],
};
const baseFiles = new Set([
  "errors",
  "secrets",
  "clock",
  "events",
  "logger",
  "schema",
  "duration",
  "json",
  "members",
  "transport",
  "wire",
]);
const assemblyFiles = new Set(["index", "create-sessions", "options", "option-readers", "verify"]);

// Packages beside the host's own, and where each may enter.
const packages: Readonly<Record<string, readonly string[]>> = {
  "@bufbuild/protobuf": Object.keys(rooms),
  "@connectrpc/connect": ["server", "client", "testing"],
  jose: ["jwt", "session"],
  pg: ["stores"],
  cookie: ["tokens"],
  "@standard-schema/spec": ["base"],
};
const nodeRooms = new Set(["stores", "testing", "cli"]);

interface Import {
  readonly from: string;
  readonly specifier: string;
}

const importPattern =
  /^(?:import|export|\})[^"\n]*\bfrom "([^"]+)"|^import "([^"]+)"|\bimport\("([^"]+)"\)/gm;

const root = join(import.meta.dirname, "..");
const files = sources("src").concat(sources("gen"));
const imports: Import[] = files.flatMap((from) =>
  [...readFileSync(join(root, from), "utf8").matchAll(importPattern)].map((match) => ({
    from,
    specifier: match[1] ?? match[2] ?? match[3] ?? "",
  })),
);

describe("the layers", () => {
  it("arrows point down", () => {
    const wrong = imports
      .filter(({ specifier }) => specifier.startsWith("."))
      .map(({ from, specifier }) => ({ from, to: resolve(from, specifier) }))
      .filter(({ from, to }) => {
        const [room, target] = [roomOf(from), roomOf(to)];
        return room !== target && !rooms[room]?.includes(target);
      });
    expect(wrong).toEqual([]);
  });

  it("packages enter by their own rooms", () => {
    const wrong = imports
      .filter(({ specifier }) => !specifier.startsWith(".") && !specifier.startsWith("node:"))
      .filter(({ from, specifier }) => !packages[packageOf(specifier)]?.includes(roomOf(from)));
    expect(wrong).toEqual([]);
  });

  it("node: enters by stores and testing, behind one seam in secrets, and as types in http", () => {
    const wrong = imports
      .filter(({ specifier }) => specifier.startsWith("node:"))
      .filter(({ from }) => !nodeRooms.has(roomOf(from)) && from !== "src/base/crypto.ts")
      .filter(({ from }) => from !== "src/http/index.ts");
    expect(wrong).toEqual([]);
  });

  it("no imports go in a circle, type imports included", () => {
    const graph = new Map<string, string[]>(files.map((file) => [file, []]));
    for (const { from, specifier } of imports.filter((i) => i.specifier.startsWith("."))) {
      graph.get(from)?.push(resolve(from, specifier));
    }
    expect(findCycle(graph)).toEqual([]);
  });

  it("only respond writes cookies and token headers", () => {
    const writers = files.filter(
      (file) =>
        file.startsWith("src/server/") &&
        /append\("set-cookie"|set\(header\.(access|refresh)Token/.test(
          readFileSync(join(root, file), "utf8"),
        ),
    );
    expect(writers).toEqual(["src/server/response/tokens.ts"]);
  });
});

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => join(folder, file));
}

function resolve(from: string, specifier: string): string {
  return relative(root, join(root, dirname(from), specifier));
}

function roomOf(file: string): string {
  const [top, second = ""] = file.split("/");
  if (top === "gen") {
    return "gen";
  }
  const name = second.replace(/\.ts$/, "");
  if (!second.endsWith(".ts")) {
    return second;
  }
  return baseFiles.has(name) ? "base" : assemblyFiles.has(name) ? "assembly" : `unknown ${file}`;
}

function packageOf(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

function findCycle(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): string[] => {
    if (path.includes(file)) {
      return [...path.slice(path.indexOf(file)), file];
    }
    if (done.has(file)) {
      return [];
    }
    for (const next of graph.get(file) ?? []) {
      const cycle = visit(next, [...path, file]);
      if (cycle.length > 0) {
        return cycle;
      }
    }
    done.add(file);
    return [];
  };
  for (const file of graph.keys()) {
    const cycle = visit(file, []);
    if (cycle.length > 0) {
      return cycle;
    }
  }
  return [];
}
