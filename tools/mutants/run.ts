import { spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { Copies } from "./copies.ts";
import { type Mutation, mutate, mutationsOf } from "./mutations.ts";
import { ImportGraph, nearestTests, type TestFile } from "./nearest-tests.ts";

export interface RunOptions {
  /** The tree. It is only read. */
  readonly root: string;
  /** The number of mutants to test. */
  readonly count: number;
  /** The same seed and the same sources give the same mutants. */
  readonly seed: number;
  /** The most test files for one mutant. Default 24. */
  readonly tests?: number;
  /** Whether a file of `src/` may be mutated. All may by default. */
  readonly includes?: (file: string) => boolean;
  /** Receives a line about each step. */
  readonly report?: (line: string) => void;
}

/** A mutation of one file. */
export interface Mutant extends Mutation {
  /** The path from the root of the tree. */
  readonly file: string;
}

export interface RunResult {
  readonly mutants: number;
  readonly killed: number;
  /** Mutants that no test noticed. */
  readonly survived: readonly Pick<Mutant, "file" | "line" | "change">[];
}

/** These tests run first. They kill most mutants. */
const first = 6;
/** A test file that takes longer without a mutation is left out. */
const slowestMs = 15_000;
const typeCheckLimitMs = 120_000;
const baselineLimitMs = 600_000;

/**
 * Changes a rule of `src/` at random, runs the nearest tests, and repeats that. A mutant is killed
 * if a test fails or does not end in time. Mutants that do not type-check are replaced by others.
 */
export async function runMutants(options: RunOptions): Promise<RunResult> {
  const { root, count, seed, report = () => {} } = options;
  const lanes = Math.min(4, availableParallelism());
  using copies = new Copies(root, lanes);
  const all = copies.roots.map((copy) => new Lane(copy, copies.temporary));
  const [one] = all as [Lane, ...Lane[]];

  // 1. Choose mutants that type-check.
  const candidates = shuffled(allMutants(one.root, options.includes), seed);
  const mutants: Mutant[] = [];
  while (mutants.length < count && candidates.length > 0) {
    const batch = candidates.splice(0, lanes);
    const correct = await Promise.all(
      batch.map((mutant, i) => (all[i] as Lane).typeChecks(mutant)),
    );
    mutants.push(...batch.filter((_, i) => correct[i]).slice(0, count - mutants.length));
  }
  report(`chose ${mutants.length} mutants`);

  // 2. Find the nearest tests of each, and run them without a mutation.
  const graph = new ImportGraph(one.root);
  const distances = new Map<string, Map<string, number>>();
  const distancesFrom = (test: string): Map<string, number> => {
    const known = distances.get(test) ?? graph.distancesFrom(test);
    distances.set(test, known);
    return known;
  };
  const tests = await one.listTests();
  const nearest = new Map(
    mutants.map(({ file }) => [
      file,
      nearestTests(file, tests, distancesFrom).slice(0, options.tests ?? 24),
    ]),
  );
  const usable = await one.baseline([...new Set([...nearest.values()].flat())], report);

  // 3. Run the tests of each mutant. Every lane takes the next one.
  const survived: Mutant[] = [];
  const waiting = mutants.entries();
  await Promise.all(
    all.map(async (each) => {
      for (const [index, mutant] of waiting) {
        const its = (nearest.get(mutant.file) ?? []).filter((test) => usable.has(test));
        const outcome = await each.test(mutant, its, usable);
        if (outcome === "survived") {
          survived.push(mutant);
        }
        report(`${index + 1}/${mutants.length} ${outcome}: ${describeMutant(mutant)}`);
      }
    }),
  );

  survived.sort((a, b) => mutants.indexOf(a) - mutants.indexOf(b));
  return {
    mutants: mutants.length,
    killed: mutants.length - survived.length,
    survived: survived.map(({ file, line, change }) => ({ file, line, change })),
  };
}

function describeMutant({ file, line, change }: Mutant): string {
  return `${file}:${line} ${change}`;
}

/** One copy of the tree, which runs one program at a time. */
class Lane {
  readonly root: string;
  readonly #environment: NodeJS.ProcessEnv;

  constructor(root: string, temporary: string) {
    this.root = root;
    // A test runner that starts another one gives it its own settings.
    const inherited = Object.entries(process.env).filter(
      ([name]) => !/^(VITEST.*|NODE_ENV|TEST|DEV|PROD|MODE|SSR|BASE_URL)$/.test(name),
    );
    this.#environment = { ...Object.fromEntries(inherited), TMPDIR: temporary, NO_COLOR: "1" };
    writeFileSync(
      join(root, "tsconfig.mutants.json"),
      JSON.stringify({
        extends: "./tsconfig.json",
        compilerOptions: { incremental: true, tsBuildInfoFile: "mutants.tsbuildinfo" },
        include: ["src", "gen"],
      }),
    );
  }

  async typeChecks(mutant: Mutant): Promise<boolean> {
    const { code } = await this.#with(mutant, () =>
      this.#run(typeCheckLimitMs, "typescript/bin/tsc", "--noEmit", "-p", "tsconfig.mutants.json"),
    );
    return code === 0;
  }

  async listTests(): Promise<TestFile[]> {
    const { output } = await this.#vitest(
      typeCheckLimitMs,
      "list",
      "--filesOnly",
      "--json=list.json",
    );
    try {
      const listed = JSON.parse(readFileSync(join(this.root, "list.json"), "utf8")) as {
        file: string;
        projectName?: string;
      }[];
      return listed.map(({ file, projectName }) => ({
        file: relative(this.root, file),
        slow: projectName === "slow",
      }));
    } catch (error) {
      throw new Error(`the tests could not be listed: ${output}`, { cause: error });
    }
  }

  /** Returns the tests that pass without a mutation, with their time in milliseconds. */
  async baseline(
    tests: readonly string[],
    report: (line: string) => void,
  ): Promise<Map<string, number>> {
    if (tests.length === 0) {
      return new Map();
    }
    const json = ["--reporter=json", "--outputFile=baseline.json"];
    const { output } = await this.#vitest(baselineLimitMs, "run", ...json, ...tests);
    let results: readonly TestResult[];
    try {
      const text = readFileSync(join(this.root, "baseline.json"), "utf8");
      results = (JSON.parse(text) as { testResults: TestResult[] }).testResults;
    } catch (error) {
      throw new Error(`the tests without a mutation did not run: ${output}`, { cause: error });
    }
    const usable = new Map<string, number>();
    for (const { name, status, startTime, endTime, assertionResults } of results) {
      const test = relative(this.root, name);
      const took = endTime - startTime;
      if (status !== "passed") {
        report(`left out ${test}: it fails without a mutation`);
      } else if (took > slowestMs) {
        report(`left out ${test}: it takes ${Math.round(took / 1_000)} seconds`);
      } else if (assertionResults.some((each) => each.status === "passed")) {
        usable.set(test, took);
      }
    }
    report(`${usable.size} of ${tests.length} test files pass without a mutation`);
    return usable;
  }

  async test(
    mutant: Mutant,
    tests: readonly string[],
    times: ReadonlyMap<string, number>,
  ): Promise<"killed" | "timed out" | "survived"> {
    return this.#with(mutant, async () => {
      for (const some of [tests.slice(0, first), tests.slice(first)]) {
        if (some.length === 0) {
          continue;
        }
        const usual = some.reduce((sum, test) => sum + (times.get(test) ?? 0), 0);
        const limit = 15_000 + 3 * usual;
        const { code } = await this.#vitest(limit, "run", "--bail=1", "--maxWorkers=1", ...some);
        if (code !== 0) {
          return code === 124 ? "timed out" : "killed";
        }
      }
      return "survived";
    });
  }

  /** Writes the mutant for the time of the action. */
  async #with<T>(mutant: Mutant, action: () => Promise<T>): Promise<T> {
    const path = join(this.root, mutant.file);
    const source = readFileSync(path, "utf8");
    writeFileSync(path, mutate(source, mutant));
    try {
      return await action();
    } finally {
      writeFileSync(path, source);
    }
  }

  #vitest(limit: number, command: string, ...args: string[]) {
    return this.#run(limit, "vitest/vitest.mjs", command, "--typecheck=false", ...args);
  }

  /** Runs a program of a package. The code is 124 if it did not end in time. */
  #run(limit: number, program: string, ...args: string[]) {
    const path = join(this.root, "node_modules", program);
    const guard = join(import.meta.dirname, "guard.ts");
    const child = spawn(process.execPath, [guard, String(limit), process.execPath, path, ...args], {
      cwd: this.root,
      env: this.#environment,
      stdio: ["pipe", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data: Buffer) => {
        output = (output + data.toString()).slice(-4_000);
      });
    }
    return new Promise<{ code: number; output: string }>((resolve, reject) => {
      child.on("error", reject);
      child.on("exit", (code) => resolve({ code: code ?? 1, output }));
    });
  }
}

interface TestResult {
  readonly name: string;
  readonly status: string;
  readonly startTime: number;
  readonly endTime: number;
  readonly assertionResults: readonly { readonly status: string }[];
}

function allMutants(root: string, includes: (file: string) => boolean = () => true): Mutant[] {
  return readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .map((path) => `src/${path}`)
    .filter((file) => file.endsWith(".ts") && includes(file))
    .sort()
    .flatMap((file) =>
      mutationsOf(readFileSync(join(root, file), "utf8")).map((mutation) => ({
        ...mutation,
        file,
      })),
    );
}

/** Returns the list in an order that depends on the seed alone. */
function shuffled<T>(list: readonly T[], seed: number): T[] {
  const random = mulberry32(seed);
  return list
    .map((value) => ({ value, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

/** Returns pseudo-random numbers from 0 up to but not including 1. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
