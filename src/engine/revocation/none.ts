import type { Clock } from "../../base/clock.ts";
import type { Revocations } from "./log.ts";

/** For services without a store: no revocation is ever reported, and no answer is ever stale. */
export class NoRevocations implements Revocations {
  readonly #clock: Clock;
  readonly unsure = false;
  readonly history = undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  storeNow(): number {
    return this.#clock.now();
  }

  lookUp(): undefined {
    return undefined;
  }

  get(): undefined {
    return undefined;
  }

  claimsVersionOf(): undefined {
    return undefined;
  }

  staleness(): number {
    return 0;
  }

  async catchUp(): Promise<void> {}

  async catchUpTo(): Promise<void> {}

  watch(): () => void {
    return () => {};
  }

  isClosed(): boolean {
    return false;
  }
}
