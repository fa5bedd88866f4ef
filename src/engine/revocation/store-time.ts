import type { Clock } from "../../base/clock.ts";

/** The store's clock, as far as it is known without asking. */
export interface StoreTime {
  /** Milliseconds since 1970; carried on since the last look. */
  now(): number;
  /** What the monotonic clock showed at a time that `now` told since the last look. */
  toMonotonic(now: number): number;
  /** Takes note of a time that the store told, asked at a moment of the monotonic clock. */
  look(told: number, asked: number): void;
}

/** Milliseconds that an answer may take for its time to count. */
const trustedRoundTrip = 1_000;

/**
 * An answer that took long says little of the time, as when the process was suspended meanwhile. The
 * first one has to do; it is taken as late, since a clock ahead would end good tokens early.
 */
export function createStoreTime(clock: Clock): StoreTime {
  /** The store's clock less the monotonic one. */
  let ahead: number | undefined;
  return {
    now: () => clock.monotonic() + (ahead ?? 0),
    toMonotonic: (now) => now - (ahead ?? 0),
    look(told, asked) {
      const answered = clock.monotonic();
      if (answered - asked < trustedRoundTrip) {
        ahead = told - (asked + answered) / 2;
      } else {
        ahead ??= told - answered;
      }
    },
  };
}
