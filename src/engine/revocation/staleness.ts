import type { Clock } from "../../base/clock.ts";
import type { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";

/** When something began, by both clocks. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

/** How old what this process knows of the change log is. */
export interface Staleness {
  now(): Moment;
  /** Milliseconds since the start of the last read of the log that was completed. */
  age(): number;
  /**
   * Whether that is longer than a call may be let through on.
   * @param monotonic where the clock was read already
   */
  isStale(monotonic?: number): boolean;
  /** Takes note of a read that began then and is complete. */
  proven(began: Moment): void;
  /** Takes note of a read that failed: when the feed is stale by then, that is an event. */
  failed(error: SessionError): void;
  /** When the last completed read began; undefined before the first. */
  readonly provenAt: Moment | undefined;
}

/** What a staleness is made of. */
export interface StalenessOptions {
  readonly clock: Clock;
  /** Milliseconds. */
  readonly maxStaleness: number;
  readonly emit: SessionEventListener;
}

export function createStaleness({ clock, maxStaleness, emit }: StalenessOptions): Staleness {
  let proof: Moment | undefined;
  let told = false;
  const age = (monotonic = clock.monotonic()): number =>
    proof === undefined
      ? Number.POSITIVE_INFINITY
      : // Monotonic time may stand still while the machine sleeps; the wall clock may be set back.
        Math.max(monotonic - proof.monotonic, clock.now() - proof.wall);
  const isStale = (monotonic?: number): boolean => age(monotonic) > maxStaleness;
  return {
    now: () => ({ monotonic: clock.monotonic(), wall: clock.now() }),
    age,
    isStale,
    proven(began) {
      const staleFor = age();
      proof = began;
      if (told && !isStale()) {
        told = false;
        emit({ type: "feedRecovered", staleFor });
      }
    },
    failed(error) {
      if (!told && proof !== undefined && isStale()) {
        told = true;
        emit({ type: "feedStale", staleFor: age(), error });
      }
    },
    get provenAt() {
      return proof;
    },
  };
}
