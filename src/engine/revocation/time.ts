import type { Clock } from "../../base/clock.ts";
import type { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";

/** The time at which something began, by both clocks. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

interface StalenessOptions {
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Milliseconds. */
  readonly maxStaleness: number;
}

/** The age of the last completed read of the change log. */
export class Staleness {
  readonly #options: StalenessOptions;
  #proof: Moment | undefined;
  /** Whether the present outage has been reported. */
  #reported = false;

  constructor(options: StalenessOptions) {
    this.#options = options;
  }

  moment(): Moment {
    const { clock } = this.#options;
    return { monotonic: clock.monotonic(), wall: clock.now() };
  }

  /** When the last completed read began; undefined before the first. */
  get provenAt(): Moment | undefined {
    return this.#proof;
  }

  age(monotonic: number = this.#options.clock.monotonic()): number {
    return this.#proof === undefined
      ? Number.POSITIVE_INFINITY
      : // The monotonic clock may stop while the machine sleeps; the wall clock may be set back.
        Math.max(monotonic - this.#proof.monotonic, this.#options.clock.now() - this.#proof.wall);
  }

  isStale(monotonic?: number): boolean {
    return this.age(monotonic) > this.#options.maxStaleness;
  }

  /** Records a completed read that began at `began`. */
  proven(began: Moment): void {
    const staleFor = this.age();
    this.#proof = began;
    if (this.#reported && !this.isStale()) {
      this.#reported = false;
      this.#options.emit({ type: "feedRecovered", staleFor });
    }
  }

  /** Records a failed read; emits an event once the log has become stale. */
  failed(error: SessionError): void {
    if (!this.#reported && this.#proof !== undefined && this.isStale()) {
      this.#reported = true;
      this.#options.emit({ type: "feedStale", staleFor: this.age(), error });
    }
  }
}

/** An answer counts as a reading of the store's clock if it took less than this many milliseconds. */
const trustedRoundTrip = 1_000;

/** Estimates the store's clock without asking the store. */
export class StoreTime {
  readonly #clock: Clock;
  /** Store time minus monotonic time; undefined before the first reading. */
  #ahead: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Milliseconds since 1970; this machine's clock before the first reading. */
  now(): number {
    return this.#ahead === undefined ? this.#clock.now() : this.#clock.monotonic() + this.#ahead;
  }

  /** Converts a value that `now` has just returned to monotonic time. */
  toMonotonic(now: number): number {
    return this.#ahead === undefined ? this.#clock.monotonic() : now - this.#ahead;
  }

  /**
   * Learns from a time that the store returned to a question asked at the monotonic time `asked`.
   * A slow answer says little, for example when the process was suspended meanwhile. If the first
   * answer is slow, it is used anyway, as if it had arrived late: a clock that runs ahead would
   * expire valid tokens early.
   */
  learn(storeTime: number, asked: number): void {
    const answered = this.#clock.monotonic();
    if (answered - asked < trustedRoundTrip) {
      this.#ahead = storeTime - (asked + answered) / 2;
    } else {
      this.#ahead ??= storeTime - answered;
    }
  }
}
