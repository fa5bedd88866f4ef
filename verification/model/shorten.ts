import type { Action, Schedule } from "./actions.ts";
import { Tally, type Violation } from "./tally.ts";

/** How to shorten a schedule. */
export interface ShortenOptions {
  /** Milliseconds. */
  readonly within: number;
  readonly fails: (schedule: Schedule, tally: Tally) => Promise<Violation | undefined>;
}

/**
 * Searches for the shortest schedule with the same kind of violation by removing ever smaller
 * parts. Every step is valid in any schedule, so every remainder is a valid schedule.
 */
export async function shorten(
  schedule: Schedule,
  { within, fails }: ShortenOptions,
): Promise<{ readonly schedule: Schedule; readonly violation?: Violation }> {
  const until = performance.now() + within;
  let violation: Violation | undefined;
  let best: readonly Action[] = schedule.actions;
  const attempt = async (actions: readonly Action[]): Promise<boolean> => {
    const tally = new Tally();
    const found = await fails({ ...schedule, actions }, tally);
    if (found === undefined || (violation !== undefined && found.kind !== violation.kind)) {
      return false;
    }
    violation = found;
    // The run ended there; the later steps were never played.
    best = actions.slice(0, tally.steps);
    return true;
  };
  await attempt(best);
  for (let size = Math.ceil(best.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < best.length && performance.now() < until; ) {
      const shorter = [...best.slice(0, at), ...best.slice(at + size)];
      at += (await attempt(shorter)) ? 0 : size;
    }
  }
  return { schedule: { ...schedule, actions: best }, ...(violation && { violation }) };
}
