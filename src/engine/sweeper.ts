import type { Clock } from "../base/clock.ts";
import { randomId } from "../base/crypto.ts";
import type { SigningKeys } from "./keys/stored.ts";
import type { SessionStore } from "./store.ts";

interface SweeperOptions {
  readonly store: SessionStore;
  readonly keys: Pick<SigningKeys, "removeDead">;
  readonly clock: Clock;
}

/** Average milliseconds between two sweeps; varied by a quarter, so that servers spread out. */
const sweepEvery = 60_000;
/** Milliseconds for which the lease is held: longer than the longest pause between two batches. */
const leaseTtl = 120_000;
/** Rows per batch: few enough that a concurrent write waits for a few milliseconds at most. */
const batchSize = 500;
/** Milliseconds between two batches, which leave the store to regular calls. */
const batchPause = 100;

/**
 * Removes outdated rows in the background. Of all servers that share a store, one holds a lease and
 * sweeps every minute, in batches if there is much to remove. If it dies or hangs, another server
 * takes over within four minutes. No call waits for the sweeper or fails because of it; a failed
 * batch is repeated by the next sweep.
 */
export class Sweeper {
  readonly #options: SweeperOptions;
  readonly #holder = randomId(12);
  #batch: Promise<void> = Promise.resolve();
  #cancelNext = (): void => {};
  #closed = false;

  constructor(options: SweeperOptions) {
    this.#options = options;
  }

  start(): void {
    this.#batchAfter(untilNextSweep());
  }

  /** Stops; waits for the batch in progress, if any. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelNext();
    await this.#batch;
  }

  #batchAfter(pause: number): void {
    if (!this.#closed) {
      this.#cancelNext = this.#options.clock.after(pause, () => {
        this.#batch = this.#run();
      });
    }
  }

  async #run(): Promise<void> {
    // A failure is most likely an outage, which calls report already.
    const next = await this.#sweepBatch().catch(untilNextSweep);
    this.#batchAfter(next);
  }

  /** Returns the milliseconds until the next batch is due. */
  async #sweepBatch(): Promise<number> {
    const { store, keys } = this.#options;
    // Renewed for each batch, so that it does not expire in a long sweep.
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
