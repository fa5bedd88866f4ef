import type { Clock } from "../../../src/base/clock.ts";

/** A clock that moves only when `advance` or `sleep` is called. */
export class FakeClock implements Clock {
  #ms = 1_000_000;
  /** How far the wall clock is ahead of the monotonic clock. */
  #ahead = 0;
  readonly #timers = new Set<{ at: number; action: () => void }>();

  now(): number {
    return this.#ms + this.#ahead;
  }

  monotonic(): number {
    return this.#ms;
  }

  after(ms: number, action: () => void): () => void {
    const timer = { at: this.#ms + ms, action };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** The number of timers that have not fired yet. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Moves only the wall clock: the machine sleeps, or somebody sets the clock. */
  sleep(ms: number): void {
    this.#ahead += ms;
  }

  advance(ms: number): void {
    this.#ms += ms;
    for (const timer of [...this.#timers].sort((a, b) => a.at - b.at)) {
      if (timer.at <= this.#ms && this.#timers.delete(timer)) {
        timer.action();
      }
    }
  }
}
