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
  return new FollowedLog(options);
}

class FollowedLog implements Feed {
  readonly #options: FeedOptions;
  #cursor: string | undefined;
  #reading = false;
  #wokenMeanwhile = false;
  #stopFollowing = (): void => {};
  #cancelRetry = (): void => {};

  constructor(options: FeedOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    // Woken from before the first read on, so that nothing falls between the two.
    this.#stopFollowing();
    this.#stopFollowing = this.#options.store.onChange(() => this.#follow());
    await this.#read();
  }

  apply(change: Change): void {
    this.#options.revocations.apply(change);
  }

  close(): void {
    this.#stopFollowing();
    this.#cancelRetry();
  }

  async #read(): Promise<void> {
    const { store, revocations, window } = this.#options;
    const { entries, cursor, now } = await store.changes(this.#cursor, window);
    for (const entry of entries) {
      revocations.apply(entry);
    }
    this.#cursor = cursor;
    revocations.prune(now);
  }

  #follow(): void {
    if (this.#reading) {
      this.#wokenMeanwhile = true;
      return;
    }
    this.#reading = true;
    this.#read()
      .catch(() => {
        this.#cancelRetry = this.#options.clock.after(retryMs, () => this.#follow());
      })
      .finally(() => {
        this.#reading = false;
        if (this.#wokenMeanwhile) {
          this.#wokenMeanwhile = false;
          this.#follow();
        }
      });
  }
}
