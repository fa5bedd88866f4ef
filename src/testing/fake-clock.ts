import { type Duration, durationMs } from "../base/checks.ts";
import type { Clock } from "../base/clock.ts";

/** A clock that stands still until a test moves it. */
export interface FakeClock extends Clock {
  /** Moves both clocks forward and runs the timers that fall due, each at its time. */
  advance(by: Duration): void;
  /**
   * Sets the wall clock, as an administrator would. Timers and monotonic time are not affected.
   * @param ms milliseconds since 1970
   */
  setNow(ms: number): void;
}

/**
 * Creates a clock for tests.
 *
 * ```ts
 * const clock = createFakeClock();
 * const sessions = testSessions({ clock });
 * clock.advance("15m"); // access tokens issued before have expired
 * ```
 *
 * @param start milliseconds since 1970; default 2026-01-01T00:00:00Z
 */
export function createFakeClock(start: number = Date.UTC(2026, 0, 1)): FakeClock {
  let wall = start;
  let monotonic = 0;
  const timers = new Set<{ readonly at: number; readonly action: () => void }>();
  return {
    now: () => wall,
    monotonic: () => monotonic,
    after(ms, action) {
      const timer = { at: monotonic + ms, action };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    advance(by) {
      const end = monotonic + durationMs("advance", by);
      for (;;) {
        const next = [...timers].sort((a, b) => a.at - b.at)[0];
        const at = Math.min(next?.at ?? end, end);
        wall += Math.max(0, at - monotonic);
        monotonic = Math.max(monotonic, at);
        if (next === undefined || next.at > end) {
          return;
        }
        timers.delete(next);
        next.action();
      }
    },
    setNow(ms) {
      wall = ms;
    },
  };
}
