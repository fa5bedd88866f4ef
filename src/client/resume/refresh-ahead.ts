import type { SessionCore } from "../state/session-core.ts";

/** Milliseconds between two tries, at least. */
const soonest = 5_000;
const unknownLife = 60_000;

/**
 * Refreshes ahead of the access token's end for as long as somebody needs it without calling: when
 * an open stream ends with its token, the next one opens at once.
 *
 * @returns a function that stops it
 */
export function refreshAhead({ local, refresher, options }: SessionCore): () => void {
  let cancel = (): void => {};
  let stopped = false;
  const wait = (least = 0): void => {
    const dueIn = local.dueIn(options.earlyRefresh) ?? unknownLife;
    cancel = options.clock.after(Math.max(dueIn, least), look);
  };
  const look = (): void => {
    const isDue = (local.dueIn(options.earlyRefresh) ?? 1) <= 0;
    const refreshed = isDue && refresher.can() ? refresher.runEarly() : undefined;
    // Whether it succeeded or not: not again at once.
    void Promise.resolve(refreshed).then(() => {
      if (!stopped) {
        wait(soonest);
      }
    });
  };
  wait();
  return () => {
    stopped = true;
    cancel();
  };
}
