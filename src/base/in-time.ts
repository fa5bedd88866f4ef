import type { Clock } from "./clock.ts";

/** How long work may take. */
export interface TimeLimit {
  readonly clock: Clock;
  /** Milliseconds. */
  readonly ms: number;
  /** Whether a caller waits for it, so that the process must live on. Default false. */
  readonly keepAlive?: boolean;
  /** What it rejects with when it took longer. */
  readonly late: () => Error;
}

/**
 * The work, or a rejection when it takes too long. Time that a clock jumps over, as a test's does,
 * is not held against it: nobody could have answered meanwhile.
 */
export function inTime<T>(work: Promise<T>, { clock, ms, keepAlive, late }: TimeLimit): Promise<T> {
  return new Promise((resolve, reject) => {
    let ranMeanwhile = false;
    void Promise.resolve().then(() => {
      ranMeanwhile = true;
    });
    let cancel = (): void => {};
    const limit = (wait: number): void => {
      cancel = clock.after(
        wait,
        () => (ranMeanwhile ? reject(late()) : limit(2 * wait)),
        keepAlive,
      );
    };
    limit(ms);
    work.then(resolve, reject).finally(() => cancel());
  });
}
