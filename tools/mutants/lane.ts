import { spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { type Mutation, mutate } from "./mutations.ts";
import type { TestFile } from "./nearest-tests.ts";

/** A mutation of one file. */
export interface Mutant extends Mutation {
  /** The path from the root of the tree. */
  readonly file: string;
}

/** How a run of tests ended. */
export interface TestRun {
  readonly outcome: "passed" | "failed" | "timed out";
  /** The test files that failed, as far as the test runner reported them. */
  readonly failed: readonly string[];
}

const checkLimitMs = 120_000;
/** The time limit of one test on an idle machine. */
const testLimitMs = 30_000;
/** Characters of the output of a program. The compiler reports many errors at once. */
const outputLimit = 200_000;

/** One copy of the tree. It runs one program at a time. */
export class Lane {
  readonly root: string;
  readonly #environment: NodeJS.ProcessEnv;
  /** How much longer than on an idle machine tests may take. */
  #patience = 1;

  /** @param temporary the folder for the temporary files of the programs */
  constructor(root: string, temporary: string) {
    this.root = root;
    // A test runner that starts another one passes its own settings on.
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

  /** Returns those of the mutants that type-check. Each must change another file. */
  async typeChecked(mutants: readonly Mutant[]): Promise<readonly Mutant[]> {
    const compiler = ["typescript/bin/tsc", "--noEmit", "-p", "tsconfig.mutants.json"] as const;
    const { code, output } = await this.#mutated(mutants, () =>
      this.#run(checkLimitMs, ...compiler, "--pretty", "false"),
    );
    if (code === 0) {
      return mutants;
    }
    const wrong = new Set([...output.matchAll(/^(\S+)\(\d+,\d+\): /gm)].map(([, file]) => file));
    const others = mutants.filter(({ file }) => !wrong.has(file));
    if (mutants.length - others.length === wrong.size && wrong.size > 0) {
      return others;
    }
    // A mutant causes an error in a file that it does not change. Only a check of each tells which.
    const alone = mutants.length > 1 ? mutants : [];
    const checked: (readonly Mutant[])[] = [];
    for (const mutant of alone) {
      checked.push(await this.typeChecked([mutant]));
    }
    return checked.flat();
  }

  async listTests(): Promise<TestFile[]> {
    const { output } = await this.#vitest(checkLimitMs, "list", "--filesOnly", "--json=list.json");
    try {
      const listed = JSON.parse(readFileSync(join(this.root, "list.json"), "utf8")) as {
        file: string;
        projectName?: string;
      }[];
      return listed
        .filter(({ file }) => !file.endsWith("-d.ts"))
        .map(({ file, projectName }) => ({
          file: relative(this.root, file),
          slow: projectName === "slow",
        }));
    } catch (error) {
      throw new Error(`the tests could not be listed: ${output}`, { cause: error });
    }
  }

  /** Runs test files on the sources as they are, or on a mutant until a test fails. */
  async test(tests: readonly TestFile[], mutant?: Mutant): Promise<TestRun> {
    const idle = tests.reduce((sum, { slow }) => sum + (slow ? 20_000 : 4_000), 20_000);
    const limit = idle * this.#patience;
    const report = join(this.root, "report.json");
    rmSync(report, { force: true });
    const options = [
      ...["--maxWorkers=1", "--reporter=json", `--outputFile=${report}`],
      // A test that hangs has noticed the mutant.
      `--testTimeout=${testLimitMs * this.#patience}`,
    ];
    const run = (...more: string[]) =>
      this.#vitest(limit, "run", ...options, ...more, ...tests.map(({ file }) => file));
    const { code } = await (mutant === undefined
      ? run()
      : this.#mutated([mutant], () => run("--bail=1")));
    if (code === 0) {
      return { outcome: "passed", failed: [] };
    }
    return { outcome: code === 124 ? "timed out" : "failed", failed: this.#failedIn(report) };
  }

  /** Doubles the time limits of tests, up to eight times what they need on an idle machine. */
  waitLonger(): void {
    if (this.#patience === 8) {
      throw new Error("the tests do not end without a mutation; see which one hangs");
    }
    this.#patience *= 2;
  }

  #failedIn(report: string): string[] {
    try {
      const { testResults } = JSON.parse(readFileSync(report, "utf8")) as {
        testResults: {
          name: string;
          message: string;
          assertionResults: { status: string }[];
        }[];
      };
      // After the first failure all files that did not run count as failed, but without a reason.
      return testResults
        .filter(
          ({ message, assertionResults }) =>
            message !== "" || assertionResults.some(({ status }) => status === "failed"),
        )
        .map(({ name }) => relative(this.root, name));
    } catch {
      // The test runner was killed, or broke down.
      return [];
    }
  }

  /** Writes the mutants for the time of the action. */
  async #mutated<T>(mutants: readonly Mutant[], action: () => Promise<T>): Promise<T> {
    const sources = mutants.map(({ file }) => readFileSync(join(this.root, file), "utf8"));
    const write = (text: (mutant: Mutant, source: string) => string): void => {
      for (const [i, mutant] of mutants.entries()) {
        writeFileSync(join(this.root, mutant.file), text(mutant, sources[i] ?? ""));
      }
    };
    write((mutant, source) => mutate(source, mutant));
    try {
      return await action();
    } finally {
      write((_, source) => source);
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
        output = (output + data.toString()).slice(-outputLimit);
      });
    }
    return new Promise<{ code: number; output: string }>((resolve, reject) => {
      child.on("error", reject);
      child.on("exit", (code) => resolve({ code: code ?? 1, output }));
    });
  }
}
