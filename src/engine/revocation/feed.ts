import type { Clock } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { inTime } from "../../base/promises.ts";
import type { Changes, LogEntry, SessionStore } from "../store.ts";
import type { Revocations } from "./revocations.ts";

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

/** Follows the change log of the store, so that revocation is known without reading the store. */
export interface Feed {
  /** Reads the log up to now and follows it from then on. Rejects when the store is out of reach. */
  open(): Promise<void>;
  /** Makes a change known that this process wrote itself, at once. */
  apply(change: LogEntry): void;
  /**
   * Whether what is known is older than `maxStaleness`, so that nothing may be let through on it.
   * @param now what `storeNow` told just now, to save a look at the clock
   */
  isStale(now?: number): boolean;
  /** Milliseconds since the start of the last read of the log that was completed. */
  staleness(): number;
  /**
   * Waits until the feed is not stale: for one read of the log, however many wait.
   * @throws SessionError `unavailable`
   */
  catchUp(): Promise<void>;
  /** The store's clock, as of the last read and carried on since; milliseconds since 1970. */
  storeNow(): number;
  /** When the last completed read began, by this machine's clock; undefined before the first. */
  readonly provenAt: number | undefined;
  /** Milliseconds that the newest entry took from its write to here, by the store's clock. */
  readonly lag: number;
  close(): void;
}

/** What a feed is made of. */
export interface FeedOptions {
  readonly store: SessionStore;
  readonly revocations: Revocations;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Milliseconds an entry can matter. */
  readonly window: number;
  /** Milliseconds. The log is read every half of it, woken or not. */
  readonly maxStaleness: number;
  /** Called when the store has lost changes since the last read. */
  readonly restore: () => void;
}

/** Milliseconds after a failed read until the next one, at most. */
const retryMs = 1_000;
/** Milliseconds after which a read without an answer is given up. */
const stuckAfter = 10_000;
/** Milliseconds of a read that may follow another one at once. */
const quick = 10;
/** Milliseconds that a call waits for a stale feed. */
const patience = 5_000;
/** Reads that a call waits for at most, where each takes so long that it proves nothing. */
const readsPerCall = 3;

/**
 * Follows the log: at once where the store wakes it, and by polling. The log is the truth, the
 * wake-up only a hint. A read proves that everything acknowledged before it began is known; once the
 * last proof is older than `maxStaleness`, calls wait for the next.
 */
export function createFeed(options: FeedOptions): Feed {
  return new FollowedLog(options);
}

class FollowedLog implements Feed {
  readonly #options: FeedOptions;
  readonly #staleness: Staleness;
  readonly #time: StoreTime;
  #cursor: string | undefined;
  #underWay: Promise<void> | undefined;
  #closed = false;
  #wokenMeanwhile = false;
  #lostAt: number | undefined;
  #stopFollowing = (): void => {};
  #cancelNext = (): void => {};
  #cancelTrust = (): void => {};
  lag = 0;

  constructor(options: FeedOptions) {
    this.#options = options;
    this.#staleness = createStaleness(options);
    this.#time = createStoreTime(options.clock);
  }

  async open(): Promise<void> {
    // Woken from before the first read on, so that nothing falls between the two.
    this.#stopFollowing();
    this.#stopFollowing = this.#options.store.onChange(() => this.#follow());
    try {
      // However long it takes: there may be much to read.
      this.#underWay = this.#read(this.#staleness.now());
      await this.#underWay;
      this.#goOn(this.#options.maxStaleness / 2);
    } catch (error) {
      // Another try makes another feed: this one must not listen on.
      this.close();
      throw error;
    }
  }

  apply(change: LogEntry): void {
    this.#options.revocations.apply(change);
  }

  isStale(now?: number): boolean {
    return this.#staleness.isStale(now === undefined ? now : this.#time.toMonotonic(now));
  }

  staleness(): number {
    return this.#staleness.age();
  }

  async catchUp(): Promise<void> {
    if (!this.isStale()) {
      return;
    }
    const late = (): SessionError => {
      const error = unavailable("the change log did not answer in time; try again");
      this.#staleness.failed(error);
      return error;
    };
    const { clock } = this.#options;
    await inTime(this.#untilFresh(), { clock, ms: patience, keepAlive: true, late });
  }

  storeNow(): number {
    return this.#time.now();
  }

  get provenAt(): number | undefined {
    return this.#staleness.provenAt?.wall;
  }

  close(): void {
    this.#closed = true;
    this.#stopFollowing();
    this.#cancelNext();
    this.#cancelTrust();
  }

  async #untilFresh(): Promise<void> {
    for (let reads = 0; reads < readsPerCall; reads++) {
      await this.#share();
      if (!this.isStale()) {
        return;
      }
    }
    throw unavailable("the change log did not answer in time; try again");
  }

  /** One read for all who ask while it is under way. */
  #share(): Promise<void> {
    if (this.#closed) {
      return Promise.reject(unavailable("the change log is closed; try another server"));
    }
    // In a turn of its own: a store may wake while it is read.
    this.#underWay ??= Promise.resolve().then(() => this.#readInTime());
    return this.#underWay;
  }

  #follow(): void {
    if (this.#underWay !== undefined) {
      this.#wokenMeanwhile = true;
    } else if (!this.#closed) {
      // Whoever needs it awaits it, too.
      this.#share().catch(() => {});
    }
  }

  async #readInTime(): Promise<void> {
    const { clock, maxStaleness } = this.#options;
    const began = this.#staleness.now();
    const late = (): Error => new Error(`no answer within ${stuckAfter / 1000} s`);
    try {
      await inTime(this.#read(began), { clock, ms: stuckAfter, late });
      const took = clock.monotonic() - began.monotonic;
      this.#goOn(maxStaleness / 2 - took, took);
    } catch (cause) {
      const error =
        cause instanceof SessionError
          ? cause
          : unavailable("the change log could not be read; try again", cause);
      this.#staleness.failed(error);
      this.#goOn(Math.min(retryMs, maxStaleness / 4));
      throw error;
    }
  }

  /**
   * Has the next read begin after a pause, or at once where this one took too long to prove anything.
   * @param took milliseconds; where it was woken meanwhile, the store has as long to itself, if that
   * is worth a pause
   */
  #goOn(pause: number, took = 0): void {
    this.#underWay = undefined;
    this.#cancelNext();
    if (this.#closed) {
      return;
    }
    const woken = this.#wokenMeanwhile;
    this.#wokenMeanwhile = false;
    if ((woken && took < quick) || (pause < 0 && this.isStale())) {
      this.#follow();
    } else {
      const rest = Math.max(0, woken ? Math.min(took, pause) : pause);
      this.#cancelNext = this.#options.clock.after(rest, () => this.#follow());
    }
  }

  async #read(began: Moment): Promise<void> {
    const { store, window } = this.#options;
    // Also after a sleep in which entries were dropped: no token that they are about is still alive.
    const changes = await store.changes(this.#cursor, window);
    const { provenAt } = this.#staleness;
    // Also when it was given up meanwhile, unless its cursor and its clock are of the past.
    if (provenAt === undefined || provenAt.monotonic <= began.monotonic) {
      this.#take(changes, { began, first: provenAt === undefined });
    }
  }

  #take(changes: Changes, { began, first }: BegunRead): void {
    const { revocations } = this.#options;
    const { entries, cursor, now, lostAt } = changes;
    for (const entry of entries) {
      revocations.apply(entry, first ? Math.max(0, now - entry.at) : 0);
    }
    this.#time.look(now, began.monotonic);
    revocations.prune();
    const newest = entries.at(-1);
    if (!first && newest !== undefined) {
      this.lag = Math.max(0, now - newest.at);
    }
    this.#cursor = cursor;
    if (lostAt !== undefined && lostAt !== this.#lostAt) {
      this.#lostAt = lostAt;
      this.#doubt(lostAt + this.#options.window - this.storeNow());
      // A feed that only begins to read knows nothing that the store does not.
      if (!first) {
        this.#options.restore();
      }
    }
    this.#staleness.proven(began);
  }

  /** Trusts the log no more until every token of before the loss is dead. */
  #doubt(ms: number): void {
    const { revocations, clock } = this.#options;
    if (ms > 0) {
      revocations.doubt(true);
      this.#cancelTrust();
      this.#cancelTrust = clock.after(ms, () => revocations.doubt(false));
    }
  }
}

interface BegunRead {
  readonly began: Moment;
  readonly first: boolean;
}
