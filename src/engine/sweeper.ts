import type { Clock } from "../base/clock.ts";
import { randomId } from "../base/crypto.ts";
import type { SigningKeys } from "./keys/stored.ts";
import type { SessionStore } from "./store.ts";

/** Cleans the store in the background, from its creation on. */
export interface Sweeper {
  /** Ends it; waits for the batch under way, if any. */
  close(): Promise<void>;
}

/** What a sweeper is made of. */
export interface SweeperOptions {
  readonly store: SessionStore;
  readonly keys: Pick<SigningKeys, "removeDead">;
  readonly clock: Clock;
}

/** Milliseconds between two sweeps, on the average; a quarter more or less, so that servers spread. */
const sweepEvery = 60_000;
/** Milliseconds for which the one who sweeps goes on to be the one: longer than the longest pause. */
const leaseTtl = 120_000;
/** Rows per batch: few enough that a write waits for no more than some milliseconds. */
const batchSize = 500;
/** Milliseconds between two batches, for the calls that the store is there for. */
const batchPause = 100;

/**
 * Of all servers on a store, one at a time removes what is outdated: every minute, in batches while
 * there is much. When that one dies or hangs, another one takes over within four minutes. No call
 * waits for it or fails with it: what could not be done is done the next time.
 */
export function createSweeper(options: SweeperOptions): Sweeper {
  return new LeasedSweeper(options);
}

class LeasedSweeper implements Sweeper {
  readonly #options: SweeperOptions;
  readonly #holder = randomId(12);
  #batch: Promise<void> = Promise.resolve();
  #cancelNext = (): void => {};
  #closed = false;

  constructor(options: SweeperOptions) {
    this.#options = options;
    this.#batchAfter(untilNextSweep());
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelNext();
    await this.#batch;
  }

  #batchAfter(pause: number): void {
    if (!this.#closed) {
      this.#cancelNext = this.#options.clock.after(pause, () => {
        this.#batch = this.#sweepOn();
      });
    }
  }

  async #sweepOn(): Promise<void> {
    // The store is out of reach, most likely, and the calls tell of that.
    const next = await this.#sweepBatch().catch(untilNextSweep);
    this.#batchAfter(next);
  }

  /** Returns after how many milliseconds the next batch is due. */
  async #sweepBatch(): Promise<number> {
    const { store, keys } = this.#options;
    // For each batch, so that it never runs out over many.
    const mine = await store.lease("sweeper", this.#holder, leaseTtl);
    if (!mine || this.#closed) {
      return untilNextSweep();
    }
    if ((await store.prune(batchSize)) >= batchSize) {
      return batchPause;
    }
    await keys.removeDead();
    return untilNextSweep();
  }
}

function untilNextSweep(): number {
  return Math.round(sweepEvery * (0.75 + Math.random() / 2));
}
