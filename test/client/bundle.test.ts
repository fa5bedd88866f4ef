import { readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { gzipSync } from "node:zlib";
// Comes with the test runner.
import { rolldown } from "rolldown";
import { expect, it } from "vitest";

const root = resolve(import.meta.dirname, "../..");
const allowed = /^(gen\/|src\/client\/|src\/base\/(errors|clock|checks|json|wire|events)\.ts$)/;
// Standard Schema contains only types.
const packages = /^(@bufbuild\/protobuf|@connectrpc\/connect|@standard-schema\/spec)(\/|$)/;

/** Every module that `entry` reaches by relative imports, with what each imports from packages. */
function reach(entry: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const open = [entry];
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (found.has(file)) {
      continue;
    }
    const text = readFileSync(file, "utf8");
    const names = [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map(
      (match) => match[1] ?? "",
    );
    const here = dirname(file);
    open.push(...names.filter((name) => name.startsWith(".")).map((name) => resolve(here, name)));
    found.set(
      file,
      names.filter((name) => !name.startsWith(".")),
    );
  }
  return found;
}

const modules = reach(resolve(root, "src/client/index.ts"));

it("reaches only gen, src/client and the allowed files of src/base", () => {
  const paths = [...modules.keys()].map((file) => relative(root, file));
  expect(paths.length).toBeGreaterThan(20);
  expect(paths.filter((path) => !allowed.test(path))).toEqual([]);
});

it("imports no packages besides protobuf, Connect and the types of Standard Schema", () => {
  const names = [...modules.values()].flat();
  expect(names.filter((name) => !packages.test(name))).toEqual([]);
});

it("uses no Node.js globals", () => {
  const sources = [...modules.keys()].filter((file) => file.includes("/src/"));
  const using = sources.filter((file) =>
    /\b(Buffer|process|require)[.(]/.test(readFileSync(file, "utf8")),
  );
  expect(using).toEqual([]);
});

it("has no import cycles, type imports included", () => {
  const edges = new Map(
    [...modules.keys()].map((file) => {
      const text = readFileSync(file, "utf8");
      const names = [...text.matchAll(/from\s*"(\.[^"]+)"/g)].map((match) => match[1] ?? "");
      return [file, names.map((name) => resolve(dirname(file), name))];
    }),
  );
  const done = new Set<string>();
  const visit = (file: string, path: string[]): void => {
    expect(
      path.map((step) => relative(root, step)),
      "a cycle",
    ).not.toContain(relative(root, file));
    if (!done.has(file)) {
      for (const next of edges.get(file) ?? []) {
        visit(next, [...path, file]);
      }
      done.add(file);
    }
  };
  for (const file of edges.keys()) {
    visit(file, []);
  }
});

it("takes at most 16 kB, minified and compressed, beside protobuf and Connect", async () => {
  const bundle = await rolldown({
    input: resolve(root, "src/client/index.ts"),
    platform: "browser",
    external: packages,
  });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  const code = output.map((chunk) => ("code" in chunk ? chunk.code : "")).join("");
  expect(code).toContain("createSessionClient");
  expect(gzipSync(code).length).toBeLessThanOrEqual(16_000);
});
