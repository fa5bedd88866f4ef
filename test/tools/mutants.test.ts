import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { Copies } from "../../tools/mutants/copies.ts";
import { Lane, type Mutant } from "../../tools/mutants/lane.ts";
import { mutate, mutationsOf } from "../../tools/mutants/mutations.ts";
import { ImportGraph, NearestTests } from "../../tools/mutants/nearest-tests.ts";
import { candidates, runMutants } from "../../tools/mutants/run.ts";

describe("the mutations of a source", () => {
  it.each([
    ["a comparison", "const a = b < c;", ["const a = b <= c;", "const a = b > c;"]],
    ["a logical operator", "const a = b ?? c;", ["const a = b || c;"]],
    ["one of two conditions", "const a = b && c;", ["const a = b;", "const a = c;"]],
    ["a sum", "a += b;", ["a -= b;"]],
    ["a condition", "if (a) b;", ["if (!(a)) b;"]],
    ["a statement", "a();", [";"]],
    ["an `await`", "const a = await b;", ["const a = b;"]],
    ["a boolean", "const a = true;", ["const a = false;"]],
    ["a number", "const a = 5;", ["const a = 6;", "const a = 4;"]],
    ["a time", "const a = 60_000;", ["const a = 120000;", "const a = 30000;"]],
    ["the ends of a pattern", "const a = /^b$/u;", ["const a = /b$/u;", "const a = /^b/u;"]],
    ["the order of arguments", "f(a, b);", ["f(b, a);"]],
    ["the last argument", "f(a, b);", ["f(a);"]],
    ["a call to its opposite", "const a = b.some(c);", ["const a = b.every(c);"]],
    ["a chain of calls", "const a = b.trim();", ["const a = b;"]],
    ["a loop", "for (;;) { if (a) break; }", ["for (;;) { if (a) ; }"]],
    ["an element", "const a = [b, c];", ["const a = [c];", "const a = [b];"]],
    ["a member", "const a = { b, c };", ["const a = { c };", "const a = { b };"]],
    ["a kind", 'const a = { k: "x" }, b = { k: "y" };', ['const a = { k: "y" }, b = { k: "y" };']],
    ["a throw", "function f() { throw a; }", ["function f() { ; }"]],
    ["a block", "function f() { a(); b(); }", ["function f() {}"]],
    ["a cleanup", "try { a(); } finally { b(); c(); }", ["try { a(); } finally {}"]],
  ])("change %s", (_, source, expected) => {
    const mutants = mutationsOf(source).map((mutation) => mutate(source, mutation));
    expect(mutants).toEqual(expect.arrayContaining(expected));
  });

  it("leave types, imports and the messages of errors as they are", () => {
    const source = `
      import { a } from "./a.ts";
      export type B = "b" | "c" | 5;
      const d: B | true = a as B;
      const e = new TypeError("f" + 5);
      /** True and 5. */`;
    expect(mutationsOf(source)).toEqual([]);
  });

  it("leave the default of an element as it is, because the element is there", () => {
    const mutants = mutationsOf("const a = b[c] ?? 7;").map(({ after }) => after);
    expect(mutants).not.toContain("8");
  });

  it("leave `??` before an object as it is, because the left side is an object too", () => {
    const mutants = mutationsOf("const a = b ?? new Set();").map(({ after }) => after);
    expect(mutants).not.toContain("b || new Set()");
  });

  it("name the line and the change", () => {
    expect(mutationsOf("const a = 1;\nconst b = x && y;")).toContainEqual(
      expect.objectContaining({ line: 2, change: "x && y → x || y" }),
    );
  });
});

it("the nearest tests and those with words of the changed line come first, slow ones only in their own room", () => {
  const root = project({
    "src/jwt/a.ts": "export const overlap = 1;",
    "src/index.ts": 'export * from "./jwt/a.ts";',
    "test/flow/far.test.ts": 'import { overlap } from "sample"; import type {} from "./b.ts";',
    "test/flow/only-types.test.ts": 'import type { overlap } from "../../src/jwt/a.ts";',
    "test/jwt/a.test.ts": 'import * as a from "../../src/jwt/a.ts";',
    "test/jwt/b.test.ts": 'import * as a from "../../src/jwt/a.ts";',
    "test/jwt/program.ts": 'import "sample";',
    "test/jwt/program.test.ts": 'start(join(import.meta.dirname, "program.ts"));',
    "test/jwt/other.test.ts": 'import {} from "node:child_process";',
    "test/stores/slow.test.ts": 'import { overlap } from "../../src/jwt/a.ts";',
  });
  const tests = [
    "jwt/a",
    "jwt/b",
    "jwt/program",
    "jwt/other",
    "flow/far",
    "flow/only-types",
    "stores/slow",
  ].map((name) => ({
    file: `test/${name}.test.ts`,
    slow: name === "stores/slow",
  }));
  const nearest = new NearestTests(root, tests, new ImportGraph(root));
  expect(nearest.of({ file: "src/jwt/a.ts", line: 1 }).map(({ file }) => file)).toEqual([
    "test/jwt/a.test.ts",
    "test/flow/far.test.ts",
    "test/jwt/b.test.ts",
    "test/jwt/program.test.ts",
  ]);
});

const sample = {
  "src/noticed.ts": "export const same = (a: number, b: number): boolean => a === b;",
  "src/unnoticed.ts": "export const differ = (a: number, b: number): boolean => a !== b;",
  "src/typed.ts": 'export function kind(): "only" { return "only"; }',
  "test/broken.test.ts": `
    import { expect, it } from "vitest";
    import { differ } from "../src/unnoticed.ts";
    it("fails in any case", () => expect(differ(1, 1)).toBe(undefined));`,
  "test/noticed.test.ts": `
    import { expect, it } from "vitest";
    import { same } from "../src/noticed.ts";
    it("tells numbers apart", () => expect(same(1, 2)).toBe(false));`,
};

it("the order of the mutants depends on the seed", () => {
  const root = project(sample);
  const orders = [1, 1, 2].map((seed) => candidates(root, seed).map(({ file }) => file));
  expect(orders[0]).toHaveLength(3);
  expect(orders[1]).toEqual(orders[0]);
  expect(orders[2]).not.toEqual(orders[0]);
});

// Runs the type checker and a test runner a few times.
it("a mutant that no test notices survives, and the tree stays as it is", {
  timeout: 120_000,
}, async () => {
  const root = project(sample);
  const before = readTree(root);
  const lines: string[] = [];
  const result = await runMutants({ root, count: 5, seed: 1, report: (line) => lines.push(line) });
  const survivor = { file: "src/unnoticed.ts", line: 1, change: "a !== b → a === b" };
  expect(result).toEqual({ mutants: 2, killed: 1, survived: [survivor] });
  expect(lines).toContainEqual(
    expect.stringMatching(/^\d\/2 killed: src\/noticed.ts:1 a === b → a !== b$/),
  );
  expect(lines).toContain("left out test/broken.test.ts: it fails without a mutation");
  expect(readTree(root)).toEqual(before);
});

it("mutants that do not type-check are found, also where another file shows it", {
  timeout: 120_000,
}, async () => {
  const root = project({
    "src/list.ts": "export const list = [1, 2] as const;",
    "src/second.ts": 'import { list } from "./list.ts";\nexport const second: 2 = list[1];',
    "src/sum.ts": "export const sum = (a: number, b: number): number => a + b;",
    "gen/none.ts": "export {};",
  });
  const lane = new Lane(root, root);
  const [less, wrong] = candidates(root, 1, (file) => file === "src/list.ts")
    .filter(({ after }) => ["0", "3"].includes(after))
    .sort((a, b) => a.start - b.start);
  const [sum] = candidates(root, 1, (file) => file === "src/sum.ts");
  expect(await lane.typeChecked([less, sum] as Mutant[])).toEqual([less, sum]);
  expect(await lane.typeChecked([wrong, sum] as Mutant[])).toEqual([sum]);
  expect(readTree(root)).toMatchObject({ "src/list.ts": "export const list = [1, 2] as const;" });
});

it("mutants can be chosen by file, and tested one at a time", { timeout: 120_000 }, async () => {
  const { "test/broken.test.ts": _, ...files } = sample;
  const options = { root: project(files), count: 5, seed: 1, lanes: 1 };
  const result = await runMutants({ ...options, includes: (file) => file === "src/noticed.ts" });
  expect(result).toEqual({ mutants: 1, killed: 1, survived: [] });
});

it("the copies are removed at the end, and those of a killed run at the next start", () => {
  const ended = spawnSync(process.execPath, ["--version"]).pid;
  const abandoned = mkdtempSync(join(tmpdir(), `rpc-mutants-${ended}-`));
  const copies = new Copies(project(sample), 2);
  expect(existsSync(abandoned)).toBe(false);
  expect(copies.roots.map((root) => existsSync(join(root, "src/noticed.ts")))).toEqual([
    true,
    true,
  ]);
  copies[Symbol.dispose]();
  expect(copies.roots.map((root) => existsSync(root))).toEqual([false, false]);
});

describe("a guarded program", () => {
  const guard = join(import.meta.dirname, "../../tools/mutants/guard.ts");
  const start = (limit: number, program: string) =>
    spawn(process.execPath, [guard, String(limit), process.execPath, "-e", program], {
      stdio: ["pipe", "pipe", "inherit"],
    });

  it("gives its exit code", async () => {
    expect(await once(start(60_000, "process.exit(3)"), "exit")).toEqual([3, null]);
  });

  it("ends at its time limit", async () => {
    expect(await once(start(500, "for (;;);"), "exit")).toEqual([124, null]);
  });

  it("ends with its parent", async () => {
    const child = start(60_000, "console.log('started'); for (;;);");
    await once(child.stdout, "data");
    child.stdin.end();
    // The output closes when the program has ended as well.
    expect(await once(child, "close")).toEqual([124, null]);
  });
});

/** Returns the names and the contents of the files of a project. */
function readTree(root: string): Record<string, string> {
  const names = readdirSync(root, { recursive: true, encoding: "utf8" });
  const files = names.filter(
    (name) => !name.startsWith("node_modules") && statSync(join(root, name)).isFile(),
  );
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(root, name), "utf8")]));
}

/** Writes a project named `sample` into a temporary folder and returns its path. */
function project(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), "mutants-test-"));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const compilerOptions = {
    ...{ module: "nodenext", target: "es2024", strict: true, noEmit: true },
    ...{ allowImportingTsExtensions: true, types: [] },
  };
  const all = {
    "package.json": JSON.stringify({
      ...{ name: "sample", type: "module" },
      exports: { ".": { "@sample/source": "./src/index.ts" } },
    }),
    "tsconfig.json": JSON.stringify({ compilerOptions }),
    ...files,
  };
  for (const [path, text] of Object.entries(all)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  symlinkSync(join(import.meta.dirname, "../../node_modules"), join(root, "node_modules"));
  return root;
}
