import { type Clock, systemClock } from "../../base/clock.ts";
import type { StreamWatch } from "../../engine/revocation/stream-watch.ts";

/** Milliseconds that a read of the log has to answer, after this process was asleep. */
const answerTime = 5_000;

/** Tells when the change log has been silent for so long that open streams must not go on. */
export interface Freshness {
  /** Reads the log by itself where it is late. To be called now and then. */
  look(): void;
  /** Whether nothing was heard for `patience` milliseconds, although it was asked. */
  isLost(patience: number): boolean;
}

/**
 * A process that was asleep finds its log late as well; it reads once more before it gives up.
 * @param max milliseconds; the greatest patience there is
 */
export function createFreshness(watch: StreamWatch, clock: Clock, max: number): Freshness {
  /** The question that is not answered yet, and since when it could have been. */
  let asked: { since: number } | undefined;
  const isLate = (): boolean => watch.staleness() >= max / 2;
  return {
    look() {
      if (!isLate()) {
        asked = undefined;
      } else if (asked === undefined) {
        const question = { since: Number.POSITIVE_INFINITY };
        asked = question;
        const turn = (): void => {
          question.since = Math.min(question.since, clock.monotonic());
        };
        // A turn of the event loop, no time: without one no answer can have come.
        systemClock.after(0, turn);
        watch.catchUp().then(turn, turn);
      }
    },
    isLost: (patience) =>
      watch.staleness() >= patience &&
      asked !== undefined &&
      clock.monotonic() - asked.since >= answerTime,
  };
}
