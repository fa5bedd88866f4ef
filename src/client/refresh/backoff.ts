import type { Clock } from "../../base/clock.ts";

/** How long a {@link Backoff} holds back, in milliseconds. */
export interface Pauses {
  readonly first: number;
  readonly longest: number;
  /** The greatest part of a pause that is taken off at random; 0 to 1. */
  readonly jitter: number;
}

const refreshPauses: Pauses = { first: 10_000, longest: 300_000, jitter: 0 };

/** Holds back what failed: 10 s at first, doubling to 5 min, until it succeeds. */
export class Backoff {
  readonly #clock: Clock;
  readonly #pauses: Pauses;
  #step = 0;
  #until = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, pauses: Pauses = refreshPauses) {
    this.#clock = clock;
    this.#pauses = pauses;
  }

  /** How long it is still held back, in milliseconds; 0 when it is not. */
  get remaining(): number {
    return Math.max(0, this.#until - this.#clock.monotonic());
  }

  /** It failed. While it is held back already, more failures of the same moment add nothing. */
  failed(): number {
    if (this.remaining === 0) {
      const { first, longest, jitter } = this.#pauses;
      this.#step = Math.min(this.#step === 0 ? first : this.#step * 2, longest);
      this.#until = this.#clock.monotonic() + this.#step * (1 - jitter * Math.random());
    }
    return this.remaining;
  }

  /** It succeeded. */
  reset(): void {
    this.#step = 0;
    this.#until = Number.NEGATIVE_INFINITY;
  }
}
