import type { Action, Schedule } from "./actions.ts";
import { Tally, type Violation } from "./tally.ts";

/** How a schedule is made shorter. */
export interface ShortenOptions {
  /** Milliseconds. */
  readonly within: number;
  readonly fails: (schedule: Schedule, tally: Tally) => Promise<Violation | undefined>;
}

/**
 * Looks for the shortest schedule that still ends in the same kind of violation: leaves out ever
 * smaller parts. Every step means something in any schedule, so what is left is always valid.
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
    // It ended there; what came after it was never played.
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
