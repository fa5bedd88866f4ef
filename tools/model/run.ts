import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import type { SessionStore } from "../../src/session/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { type Schedule, schedules } from "./actions.ts";
import { play } from "./play.ts";
import { removals } from "./rules.ts";
import { Tally, Violation } from "./tally.ts";
import { World, type WorldOptions } from "./world.ts";

/** What to run. */
export interface ModelOptions {
  /** At least this many steps are made, unless a violation ends the run. */
  readonly steps: number;
  readonly seed: number;
  readonly store?: "memory" | "sqlite";
  /** The name of a rule to take away. */
  readonly without?: string | undefined;
  /** Replays a failure, with the seed that was printed along with it. */
  readonly path?: string | undefined;
  /** See `WorldOptions.anyCrash`. */
  readonly anyCrash?: boolean;
  /** Called now and then. */
  readonly progress?: (tally: Tally) => void;
}

/** What a run came to. */
export interface ModelReport {
  readonly tally: Tally;
  readonly failure: ModelFailure | undefined;
}

/** A violation, and the shortest schedule that was found to lead to it. */
export interface ModelFailure {
  readonly violation: Error;
  readonly seed: number;
  readonly path: string;
  readonly schedule: Schedule;
}

/** Steps of one schedule at most: enough for many generations and more than one thief. */
const scheduleMax = 600;
/** Schedules between two looks at the number of steps. */
const batch = 20;
/** Milliseconds that are spent on making a failing schedule shorter. */
const shrinkFor = 10_000;

/** Plays random schedules until the steps are made or something happened that must never happen. */
export async function runModel(options: ModelOptions): Promise<ModelReport> {
  const tally = new Tally();
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-model-"));
  try {
    for (let part = 0; tally.steps < options.steps; part++) {
      const seed = options.path === undefined ? (options.seed + part * 7_919) | 0 : options.seed;
      const failure = await runPart(options, { tally, folder, seed });
      if (failure !== undefined || options.path !== undefined) {
        return { tally, failure };
      }
      options.progress?.(tally);
    }
    return { tally, failure: undefined };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Part {
  readonly tally: Tally;
  readonly folder: string;
  readonly seed: number;
}

async function runPart(options: ModelOptions, part: Part): Promise<ModelFailure | undefined> {
  let first: Violation | undefined;
  let giveUpAt = Number.POSITIVE_INFINITY;
  const property = fc.asyncProperty(schedules(scheduleMax), async (schedule) => {
    if (performance.now() > giveUpAt) {
      return;
    }
    // The schedules that make a failure shorter do not count.
    const tally = first === undefined ? part.tally : new Tally();
    try {
      await playSchedule(schedule, worldOf(options, part, { tally, thief: schedule.thief }));
    } catch (error) {
      if (first === undefined && error instanceof Violation) {
        first = error;
        tally.violations[error.kind] += 1;
      }
      giveUpAt = Math.min(giveUpAt, performance.now() + shrinkFor);
      throw error;
    }
  });
  const { seed, path = "" } = { ...part, ...options };
  const details = await fc.check(property, { seed: part.seed, path, numRuns: batch });
  const { counterexample, counterexamplePath, errorInstance } = details;
  return details.failed && counterexample !== null
    ? {
        violation:
          errorInstance instanceof Error ? errorInstance : new Error(String(errorInstance)),
        seed: path === "" ? part.seed : seed,
        path: counterexamplePath ?? "",
        schedule: counterexample[0],
      }
    : undefined;
}

function worldOf(
  { without, anyCrash = false, store = "memory" }: ModelOptions,
  { folder }: Part,
  rest: Pick<WorldOptions, "tally" | "thief">,
): WorldOptions {
  const removal = without === undefined ? undefined : removals[without];
  if (without !== undefined && removal === undefined) {
    throw new TypeError(`there is no rule ${without}; try ${Object.keys(removals).join(", ")}`);
  }
  return { ...rest, removal, anyCrash, store: newStore(store, folder) };
}

function newStore(kind: "memory" | "sqlite", folder: string): SessionStore {
  return kind === "memory"
    ? memoryStore()
    : sqliteStore(join(mkdtempSync(join(folder, "s")), "db"));
}

async function playSchedule({ actions }: Schedule, options: WorldOptions): Promise<void> {
  const world = new World(options);
  await withSeededRandom(async () => {
    await world.open();
    try {
      for (const action of actions) {
        await play(world, action);
      }
    } finally {
      await world.close();
    }
    world.check();
  });
}

/** The engine shortens lives at random; the same schedule must lead to the same end even so. */
async function withSeededRandom(act: () => Promise<void>): Promise<void> {
  const { random } = Math;
  let state = 1;
  Math.random = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return (state >>> 0) / 2 ** 32;
  };
  try {
    await act();
  } finally {
    Math.random = random;
  }
}
