import { parseArgs } from "node:util";

/** How much is measured. */
export interface BenchOptions {
  readonly quick: boolean;
  /** Rounds of measurements that take milliseconds. */
  readonly rounds: number;
  /** Rounds of measurements that take seconds. */
  readonly fewRounds: number;
  /** The sections to run, by name; all of them when empty. */
  readonly only: readonly string[];
  /** Whether the tables of docs/benchmarks.md are written. */
  readonly write: boolean;
}

/** @throws TypeError if an option is unknown */
export function readBenchOptions(args: readonly string[]): BenchOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { quick: { type: "boolean", default: false } },
  });
  const { quick } = values;
  return {
    quick,
    rounds: quick ? 9 : 21,
    fewRounds: quick ? 5 : 15,
    only: positionals,
    write: positionals.length === 0,
  };
}
