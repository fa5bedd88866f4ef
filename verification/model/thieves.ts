import { type SessionLedger, times } from "./ledger.ts";
import type { Tally } from "./tally.ts";

/** Measures how long thieves stay undetected. */
export class Thieves {
  readonly #tally: Tally;
  /** When a thief first refreshed a stolen session, in access token lifetimes; see `pause`. */
  readonly #since = new Map<SessionLedger, number>();
  #lives = 0;

  constructor(tally: Tally) {
    this.#tally = tally;
  }

  /** Time in access token lifetimes. Nobody can be detected in a long pause, so it counts as one lifetime. */
  pause(ms: number): void {
    this.#lives += Math.min(1, ms / times.access);
  }

  used(ledger: SessionLedger): void {
    if (!this.#since.has(ledger) && ledger.endedBy === undefined) {
      this.#since.set(ledger, this.#lives);
    }
  }

  sessionEnded(ledger: SessionLedger): void {
    const since = this.#since.get(ledger);
    if (since === undefined) {
      return;
    }
    this.#since.delete(ledger);
    if (ledger.endedBy === "theft") {
      this.#tally.foundAfter.push(this.#lives - since);
    } else {
      this.#tally.endedOtherwise += 1;
    }
  }

  scheduleEnded(): void {
    this.#tally.unfound += this.#since.size;
  }
}
