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
  /** Called when the store has lost changes since the last read; rejects to be called again. */
  readonly restore: () => Promise<void>;
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
  #lostAt: number | undefined;
  #reading = false;
  #wokenMeanwhile = false;
  #stopFollowing = (): void => {};
  #cancelRetry = (): void => {};
  #cancelTrust = (): void => {};

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
    this.#cancelTrust();
  }

  async #read(): Promise<void> {
    const { store, revocations, window } = this.#options;
    const first = this.#cursor === undefined;
    const { entries, cursor, now, lostAt } = await store.changes(this.#cursor, window);
    for (const entry of entries) {
      revocations.apply(entry);
    }
    this.#cursor = cursor;
    revocations.prune(now);
    if (lostAt !== undefined && lostAt !== this.#lostAt) {
      this.#doubt(lostAt + window - now);
      // A feed that only begins to read knows nothing that the store does not.
      if (!first) {
        await this.#options.restore();
      }
      this.#lostAt = lostAt;
    }
  }

  /** Trusts the log no more until every token of before the loss is dead. */
  #doubt(ms: number): void {
    const { revocations, clock } = this.#options;
    if (ms > 0) {
      revocations.doubt(true);
      this.#cancelTrust();
      this.#cancelTrust = clock.after(ms, () => revocations.doubt(false));
    }
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
