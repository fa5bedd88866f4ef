/** Replies that are handled in one turn of the event loop, at least. After a refresh, each takes about 50 µs. */
const perTurn = 8;

/**
 * Spreads the work after replies over turns of the event loop.
 *
 * Redis answers many commands at once, and a client sends new ones at the end of a turn. If all replies were
 * handled in the same turn, Redis would have nothing to do meanwhile, and then this process.
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];
  /** Replies of this turn that have been let through. */
  #taken = 0;
  #isScheduled = false;

  /** Waits for a turn. Undefined if that is now. */
  take(): Promise<void> | undefined {
    if (!this.#isScheduled) {
      this.#schedule();
    }
    if (this.#taken < perTurn) {
      this.#taken++;
      return undefined;
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #schedule(): void {
    this.#isScheduled = true;
    setImmediate(() => this.#begin());
  }

  #begin(): void {
    // A part of all that wait, so that long turns do not make them wait longer and longer.
    const ready = this.#waiting.splice(0, Math.max(perTurn, Math.ceil(this.#waiting.length / 4)));
    this.#taken = ready.length;
    this.#isScheduled = false;
    if (ready.length > 0) {
      this.#schedule();
    }
    for (const proceed of ready) {
      proceed();
    }
  }
}
