import type { Clock } from "../base/clock.ts";

/** When work that failed is done again. */
export interface Retries {
  readonly clock: Clock;
  /** The milliseconds before each further attempt; when they are used up, the error is let through. */
  readonly pauses: readonly number[];
  /** Whether an error says that nothing was changed and that another attempt may succeed. */
  readonly again: (error: unknown) => boolean;
}

/** Does a unit of work, which must do all or nothing, and again after each pause while it is told to. */
export async function retried<T>(
  { clock, pauses, again }: Retries,
  work: () => Promise<T> | T,
): Promise<T> {
  for (const pause of pauses) {
    try {
      return await work();
    } catch (error) {
      if (!again(error)) {
        throw error;
      }
    }
    await new Promise<void>((resolve) => {
      clock.after(pause, resolve, true);
    });
  }
  return work();
}
