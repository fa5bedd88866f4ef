import type { Clock } from "../../src/clock.ts";

/** A wall clock that may be wrong. */
export interface Skew {
  /** Milliseconds ahead of the true time. */
  ahead: number;
}

interface Timer {
  readonly at: number;
  readonly action: () => void;
}

const start = Date.UTC(2026, 0, 1);

/** One time for the whole world. It stands still until told to move; every node sees its own wall. */
export class WorldTime {
  #elapsed = 0;
  readonly #timers = new Set<Timer>();

  /** The true time: that of the store. Milliseconds since 1970. */
  get now(): number {
    return start + this.#elapsed;
  }

  /** The clock of a node. */
  view(skew: Skew): Clock {
    return {
      now: () => this.now + skew.ahead,
      monotonic: () => this.#elapsed,
      after: (ms, action) => {
        const timer = { at: this.#elapsed + ms, action };
        this.#timers.add(timer);
        return () => this.#timers.delete(timer);
      },
    };
  }

  /** Moves on, and runs each timer at its time. What a timer begins in the background runs later. */
  advance(ms: number): void {
    const end = this.#elapsed + ms;
    for (let next = this.#due(end); next !== undefined; next = this.#due(end)) {
      this.#timers.delete(next);
      this.#elapsed = Math.max(this.#elapsed, next.at);
      next.action();
    }
    this.#elapsed = end;
  }

  #due(end: number): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.at <= end && (first === undefined || timer.at < first.at)) {
        first = timer;
      }
    }
    return first;
  }
}
