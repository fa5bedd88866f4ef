import type { Clock } from "../../src/base/clock.ts";

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

  /**
   * Moves on, and then runs the timers that are due, once each: as on a machine that slept. To wake
   * every server every few seconds of a night would take longer than all the rest.
   */
  advance(ms: number): void {
    this.#elapsed += ms;
    const due = [...this.#timers].filter(({ at }) => at <= this.#elapsed);
    for (const timer of due.toSorted((a, b) => a.at - b.at)) {
      this.#timers.delete(timer);
      timer.action();
    }
  }
}
