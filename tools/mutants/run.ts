import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Copies } from "./copies.ts";
import { Lane, type Mutant, type TestRun } from "./lane.ts";
import { mutationsOf } from "./mutations.ts";
import { ImportGraph, NearestTests, type TestFile } from "./nearest-tests.ts";

export interface RunOptions {
  /** The tree. It is only read. */
  readonly root: string;
  /** The number of mutants to test. */
  readonly count: number;
  /** The same seed and the same sources give the same mutants. */
  readonly seed: number;
  /** The most test files for one mutant. Default 100. */
  readonly tests?: number;
  /** The number of mutants that are tested at the same time. Default: one for each core, up to 4. */
  readonly lanes?: number;
  /** Whether a file of `src/` may be mutated. All may by default. */
  readonly includes?: (file: string) => boolean;
  /** Receives a line about each step. */
  readonly report?: (line: string) => void;
}

export interface RunResult {
  readonly mutants: number;
  readonly killed: number;
  /** Mutants that no test noticed. */
  readonly survived: readonly Pick<Mutant, "file" | "line" | "change">[];
}

/**
 * Changes a rule of `src/` at random, runs the nearest tests, and repeats that. A mutant is killed
 * if a test fails or does not end in time. Mutants that do not type-check are replaced by others.
 */
export async function runMutants(options: RunOptions): Promise<RunResult> {
  const { root, count, seed, report = () => {} } = options;
  const lanes = options.lanes ?? Math.min(4, availableParallelism());
  using copies = new Copies(root, lanes);
  const all = copies.roots.map((copy) => new Lane(copy, copies.temporary));
  const [one] = all as [Lane, ...Lane[]];

  // 1. Choose mutants that type-check.
  const mutants: Mutant[] = [];
  let untried = candidates(one.root, seed, options.includes);
  while (mutants.length < count && untried.length > 0) {
    const batch = firstOfEachFile(untried.slice(0, 2 * (count - mutants.length)));
    const correct = await one.typeChecked(batch);
    mutants.push(...correct.slice(0, count - mutants.length));
    untried = untried.filter((mutant) => !batch.includes(mutant));
  }
  report(`chose ${mutants.length} mutants`);

  // 2. Find the nearest tests of each.
  const nearest = new NearestTests(root, await one.listTests(), new ImportGraph(root));
  const testsOf = mutants.map((mutant) => nearest.of(mutant).slice(0, options.tests ?? 100));

  // 3. Run the tests of each mutant. Every lane takes the next one.
  const survived: Mutant[] = [];
  const health = new Health(report);
  const waiting = mutants.entries();
  await Promise.all(
    all.map(async (lane) => {
      for (const [index, mutant] of waiting) {
        const outcome = await outcomeOf(mutant, testsOf[index] ?? [], { lane, health });
        if (outcome === "survived") {
          survived.push(mutant);
        }
        const { file, line, change } = mutant;
        report(`${index + 1}/${mutants.length} ${outcome}: ${file}:${line} ${change}`);
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

function firstOfEachFile(mutants: readonly Mutant[]): Mutant[] {
  return [...new Map(mutants.toReversed().map((mutant) => [mutant.file, mutant])).values()];
}

/** How many tests run together: the nearest kill most mutants. The rest run last. */
const parts = [3, 9, 28, Number.POSITIVE_INFINITY];

async function outcomeOf(
  mutant: Mutant,
  tests: readonly TestFile[],
  { lane, health }: { readonly lane: Lane; readonly health: Health },
): Promise<"killed" | "timed out" | "survived"> {
  const waiting = [...tests];
  for (const size of parts) {
    const part = waiting.splice(0, size);
    // Runs again without the tests that turn out to be broken.
    for (;;) {
      const usable = part.filter((test) => !health.isBroken(test));
      if (usable.length === 0) {
        break;
      }
      const run = await lane.test(usable, mutant);
      if (run.outcome === "passed") {
        break;
      }
      if (await health.confirms(run, usable, lane)) {
        return run.outcome === "failed" ? "killed" : run.outcome;
      }
    }
  }
  return "survived";
}

/** Which tests pass on the sources as they are. A test that fails there kills nothing. */
class Health {
  readonly #passing = new Set<string>();
  readonly #broken = new Set<string>();
  readonly #report: (line: string) => void;

  constructor(report: (line: string) => void) {
    this.#report = report;
  }

  isBroken({ file }: TestFile): boolean {
    return this.#broken.has(file);
  }

  /** Whether tests that failed on a mutant, or did not end, pass on the sources as they are. */
  async confirms(run: TestRun, tests: readonly TestFile[], lane: Lane): Promise<boolean> {
    const suspects = tests.filter(({ file }) => !run.failed.length || run.failed.includes(file));
    const unknown = suspects.filter(({ file }) => !this.#passing.has(file));
    // On a busy machine, tests that pass may need more time than they have.
    const again = run.outcome === "timed out" ? suspects : unknown;
    if (again.length === 0) {
      return true;
    }
    const { outcome, failed } = await lane.test(again);
    if (outcome === "timed out") {
      lane.waitLonger();
      return false;
    }
    const failing = again.filter(
      ({ file }) => outcome === "failed" && (!failed.length || failed.includes(file)),
    );
    for (const test of again) {
      (failing.includes(test) ? this.#broken : this.#passing).add(test.file);
    }
    for (const { file } of failing) {
      this.#report(`left out ${file}: it fails without a mutation`);
    }
    return failing.length === 0;
  }
}

/** Returns every mutant of `src/`, in an order that depends on the sources and the seed alone. */
export function candidates(
  root: string,
  seed: number,
  includes: (file: string) => boolean = () => true,
): Mutant[] {
  const all = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .map((path) => `src/${path}`)
    .filter((file) => file.endsWith(".ts") && includes(file))
    .sort()
    .flatMap((file) =>
      mutationsOf(readFileSync(join(root, file), "utf8")).map((mutation) => ({
        ...mutation,
        file,
      })),
    );
  const random = mulberry32(seed);
  return all
    .map((mutant) => ({ mutant, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ mutant }) => mutant);
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
