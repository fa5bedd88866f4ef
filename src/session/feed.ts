import type { Clock } from "../clock.ts";
import type { Revocations } from "./revocations.ts";
import type { Change, SessionStore } from "./store.ts";

/** Follows the change log of the store, so that revocation is known without reading the store. */
export interface Feed {
  /** Reads the log up to now and follows it from then on. Rejects when the store is out of reach. */
  open(): Promise<void>;
  /** Makes a change known that this process wrote itself, at once. */
  apply(change: Change): void;
  close(): void;
}

/** What a feed is made of. */
export interface FeedOptions {
  readonly store: SessionStore;
  readonly revocations: Revocations;
  readonly clock: Clock;
  /** Milliseconds an entry can matter. */
  readonly window: number;
}

const retryMs = 1_000;

/**
 * Follows the log wherever the store wakes it: in this process at once. The log is the truth, the
 * wake-up only a hint; a read that fails is tried again every second.
 */
export function createFeed(options: FeedOptions): Feed {
  const { store, revocations, clock, window } = options;
  let cursor: string | undefined;
  let reading: Promise<void> | undefined;
  let wokenMeanwhile = false;
  let stopFollowing = (): void => {};
  let cancelRetry = (): void => {};

  const read = async (): Promise<void> => {
    const { entries, cursor: next, now } = await store.changes(cursor, window);
    for (const entry of entries) {
      revocations.apply(entry);
    }
    cursor = next;
    revocations.prune(now);
  };

  const follow = (): void => {
    if (reading !== undefined) {
      wokenMeanwhile = true;
      return;
    }
    reading = read()
      .catch(() => {
        cancelRetry = clock.after(retryMs, follow);
      })
      .finally(() => {
        reading = undefined;
        if (wokenMeanwhile) {
          wokenMeanwhile = false;
          follow();
        }
      });
  };

  return {
    async open() {
      // Woken from before the first read on, so that nothing falls between the two.
      stopFollowing();
      stopFollowing = store.onChange(follow);
      await read();
    },
    apply: (change) => revocations.apply(change),
    close() {
      stopFollowing();
      cancelRetry();
    },
  };
}
