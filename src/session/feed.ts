import type { Clock } from "../clock.ts";
import type { Revocations } from "./revocations.ts";
import type { Change, SessionStore } from "./store.ts";

/** Follows the change log of the store, so that revocation is known without reading the store. */
export interface Feed {
  /** Reads the log up to now and follows it from then on. Rejects when the store is out of reach. */
  open(): Promise<void>;
  /** Makes a change known that this process wrote itself, at once. */
  apply(change: Change): void;
  /** The store's clock, as of the last read and carried on since; milliseconds since 1970. */
  storeNow(): number;
  /** Milliseconds since the start of the last read of the log that succeeded. */
  staleness(): number;
  /** Reads the log now, or joins the read that runs. Rejects when the store is out of reach. */
  catchUp(): Promise<void>;
  close(): void;
}

/** What a feed is made of. */
export interface FeedOptions {
  readonly store: SessionStore;
  readonly revocations: Revocations;
  readonly clock: Clock;
  /** Milliseconds an entry can matter. */
  readonly window: number;
  /** Milliseconds after a read until the next one, woken or not. */
  readonly pollEvery: number;
  /** Called when the store has lost changes since the last read; rejects to be called again. */
  readonly restore: () => Promise<void>;
}

const retryMs = 1_000;
/** Milliseconds that a read may take for its time to count. */
const trustedRoundTrip = 1_000;

/**
 * Follows the log: at once where the store wakes it, which is in this process, and by polling for
 * what others wrote. The log is the truth, the wake-up only a hint; a read that fails is tried again
 * every second.
 */
export function createFeed(options: FeedOptions): Feed {
  return new FollowedLog(options);
}

class FollowedLog implements Feed {
  readonly #options: FeedOptions;
  #cursor: string | undefined;
  /** The store's clock less the monotonic one. */
  #storeAhead = 0;
  /** When the last read that succeeded began; monotonic milliseconds. */
  #freshAt = 0;
  #reading = false;
  #running: Promise<void> | undefined;
  #closed = false;
  #wokenMeanwhile = false;
  #stopFollowing = (): void => {};
  #lostAt: number | undefined;
  #cancelNext = (): void => {};
  #cancelTrust = (): void => {};

  constructor(options: FeedOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    // Woken from before the first read on, so that nothing falls between the two.
    this.#stopFollowing();
    this.#stopFollowing = this.#options.store.onChange(() => this.#follow());
    try {
      await this.catchUp();
      this.#readAfter(this.#options.pollEvery);
    } catch (error) {
      // Another try makes another feed: this one must not listen on.
      this.close();
      throw error;
    }
  }

  apply(change: Change): void {
    this.#options.revocations.apply(change);
  }

  storeNow(): number {
    return this.#options.clock.monotonic() + this.#storeAhead;
  }

  staleness(): number {
    return this.#options.clock.monotonic() - this.#freshAt;
  }

  catchUp(): Promise<void> {
    if (this.#closed) {
      return Promise.reject(new Error("closed"));
    }
    this.#running ??= this.#read().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  close(): void {
    this.#closed = true;
    this.#stopFollowing();
    this.#cancelNext();
    this.#cancelTrust();
  }

  async #read(): Promise<void> {
    const { store, revocations, window } = this.#options;
    const started = this.#options.clock.monotonic();
    const first = this.#cursor === undefined;
    const { entries, cursor, now, lostAt } = await store.changes(this.#cursor, window);
    for (const entry of entries) {
      revocations.apply(entry);
    }
    this.#setClock(now, { started, first });
    revocations.prune();
    if (lostAt !== undefined && lostAt !== this.#lostAt) {
      this.#doubt(lostAt + window - this.storeNow());
      // A feed that only begins to read knows nothing that the store does not.
      if (!first) {
        await this.#options.restore();
      }
      this.#lostAt = lostAt;
    }
    // Last: a store may tell of its loss to a cursor of before only.
    this.#cursor = cursor;
    this.#freshAt = started;
  }

  /**
   * A read that took long says little of the time, as when the process was suspended meanwhile. The
   * first one has to do; it is taken as late, since a clock ahead would end good tokens early.
   */
  #setClock(now: number, read: { readonly started: number; readonly first: boolean }): void {
    const ended = this.#options.clock.monotonic();
    if (ended - read.started < trustedRoundTrip) {
      this.#storeAhead = now - (read.started + ended) / 2;
    } else if (read.first) {
      this.#storeAhead = now - ended;
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
    if (this.#closed) {
      return;
    }
    if (this.#reading) {
      this.#wokenMeanwhile = true;
      return;
    }
    this.#reading = true;
    void this.catchUp()
      .then(
        () => this.#options.pollEvery,
        () => retryMs,
      )
      .then((pause) => {
        this.#reading = false;
        this.#readAfter(pause);
        if (this.#wokenMeanwhile) {
          this.#wokenMeanwhile = false;
          this.#follow();
        }
      });
  }

  #readAfter(pause: number): void {
    this.#cancelNext();
    if (!this.#closed) {
      this.#cancelNext = this.#options.clock.after(pause, () => this.#follow());
    }
  }
}
