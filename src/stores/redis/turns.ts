/** How many replies one turn of the event loop handles at least. One reply to a refresh takes about 50 µs. */
const perTurn = 8;

/**
 * Spreads the work after replies over turns of the event loop.
 *
 * Redis answers many commands at once, and a client sends new commands at the end of a turn. If one turn
 * handled all replies, Redis would wait for this process, and then this process for Redis.
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];
  /** Replies of this turn that have been let through. */
  #taken = 0;
  #isScheduled = false;

  /** Returns a promise of the caller's turn; undefined if the caller may go on at once. */
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
    // With a fixed number, replies would pile up while turns are long.
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
