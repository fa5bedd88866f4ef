import type { Clock } from "../../src/base/clock.ts";

/** A wall clock that may be wrong. */
export interface Skew {
  /** Milliseconds ahead of the correct time. */
  ahead: number;
}

interface Timer {
  readonly at: number;
  readonly action: () => void;
}

const start = Date.UTC(2026, 0, 1);

/** The time of the whole model. It moves only by `advance`; each node sees its own wall clock. */
export class WorldTime {
  #elapsed = 0;
  readonly #timers = new Set<Timer>();

  /** The correct time, which the store uses: milliseconds since 1970. */
  get now(): number {
    return start + this.#elapsed;
  }

  /** Returns the clock of a node. */
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
   * Advances the time, then runs each timer that is due once, as on a machine that was suspended.
   * Running every timer of every server through a whole night would dominate the run.
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
