import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { type Schedule, schedules } from "./actions.ts";
import { play } from "./play.ts";
import { removals } from "./rules.ts";
import { shorten } from "./shorten.ts";
import { Tally, Violation } from "./tally.ts";
import { World, type WorldOptions } from "./world.ts";

/** The options of a run. */
export interface ModelOptions {
  /** The minimum number of steps; a violation ends the run earlier. */
  readonly steps: number;
  readonly seed: number;
  readonly store?: "memory" | "sqlite";
  /** The name of a rule to remove; see `removals`. */
  readonly without?: string | undefined;
  /** Replays a failure, together with the seed that was printed with it. */
  readonly path?: string | undefined;
  /** See `WorldOptions.anyCrash`. */
  readonly anyCrash?: boolean;
  /** Whether one server mints tokens of format 1 and the other one of format 2. */
  readonly mixedFormats?: boolean;
  /** Milliseconds to spend on shortening a failing schedule. Default: 20,000. */
  readonly shrinkFor?: number;
  /** Called from time to time. */
  readonly progress?: (tally: Tally) => void;
}

/** The result of a run. */
export interface ModelReport {
  readonly tally: Tally;
  readonly failure: ModelFailure | undefined;
}

/** A violation and the shortest schedule found that leads to it. */
export interface ModelFailure {
  readonly violation: Violation;
  readonly seed: number;
  readonly path: string;
  readonly schedule: Schedule;
}

/** The maximum steps of one schedule: enough for many generations and several thieves. */
const scheduleMax = 2_000;
/** The number of schedules between two checks of the step count. */
const batch = 10;

/** Plays random schedules until all steps are played or a violation is found. */
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
  const play = (schedule: Schedule, tally: Tally) =>
    playSchedule(worldOf(options, part.folder, { schedule, tally }));
  const { path = "" } = options;
  const details = await fc.check(
    fc.asyncProperty(schedules(scheduleMax), (schedule) => play(schedule, part.tally)),
    // `shorten` does this better: it drops all steps after the violation at once.
    { seed: part.seed, path, numRuns: batch, endOnFailure: true },
  );
  const { counterexample, counterexamplePath, errorInstance } = details;
  if (!details.failed || counterexample === null) {
    return undefined;
  }
  if (!(errorInstance instanceof Violation)) {
    throw new Error("the model itself failed; see the cause", { cause: errorInstance });
  }
  part.tally.violations[errorInstance.kind] += 1;
  const shortest = await shorten(counterexample[0], {
    within: options.shrinkFor ?? 20_000,
    fails: (schedule, tally) => failureOf(play(schedule, tally)),
  });
  const { seed } = part;
  return { violation: errorInstance, ...shortest, seed, path: counterexamplePath ?? "" };
}

async function failureOf(work: Promise<void>): Promise<Violation | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof Violation) {
      return error;
    }
    throw error;
  }
}

function worldOf(
  { without, anyCrash = false, mixedFormats = false, store = "memory" }: ModelOptions,
  folder: string,
  rest: Pick<WorldOptions, "tally" | "schedule">,
): WorldOptions {
  const removal = without === undefined ? undefined : removals[without];
  if (without !== undefined && removal === undefined) {
    throw new TypeError(
      `unknown rule "${without}"; the rules are ${Object.keys(removals).join(", ")}`,
    );
  }
  const formats = mixedFormats ? ([1, 2] as const) : ([2, 2] as const);
  return { ...rest, removal, anyCrash, formats, store: newStore(store, folder) };
}

function newStore(kind: "memory" | "sqlite", folder: string): SessionStore {
  return kind === "memory"
    ? memoryStore()
    : sqliteStore(join(mkdtempSync(join(folder, "s")), "db"));
}

async function playSchedule(options: WorldOptions): Promise<void> {
  const world = new World(options);
  await withSeededRandom(async () => {
    await world.open();
    try {
      for (const action of options.schedule.actions) {
        await play(world, action);
      }
    } finally {
      await world.close();
    }
    world.check();
  });
}

/** The engine adds jitter to lifetimes; a fixed seed makes schedules reproducible. */
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
