import type { ContractClock } from "../../src/testing/store-contract/index.ts";

/** A clock that stands still. Its pauses end in the next turn of the event loop. */
export function stillClock(): ContractClock {
  let time = 1_800_000_000_000;
  return {
    now: () => time,
    monotonic: () => time,
    after(_ms, action) {
      const turn = setImmediate(action);
      return () => clearImmediate(turn);
    },
    advance(ms) {
      time += ms;
    },
  };
}
