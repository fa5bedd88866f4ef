import type { Clock } from "../clock.ts";

const firstMs = 10_000;
const longestMs = 300_000;

/** Holds back what failed: 10 s at first, doubling to 5 min, until it succeeds. */
export class Backoff {
  readonly #clock: Clock;
  #step = 0;
  #until = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How long it is still held back, in milliseconds; 0 when it is not. */
  get remaining(): number {
    return Math.max(0, this.#until - this.#clock.monotonic());
  }

  /** It failed. While it is held back already, more failures of the same moment add nothing. */
  failed(): number {
    if (this.remaining === 0) {
      this.#step = Math.min(this.#step === 0 ? firstMs : this.#step * 2, longestMs);
      this.#until = this.#clock.monotonic() + this.#step;
    }
    return this.remaining;
  }

  /** It succeeded. */
  reset(): void {
    this.#step = 0;
    this.#until = Number.NEGATIVE_INFINITY;
  }
}
