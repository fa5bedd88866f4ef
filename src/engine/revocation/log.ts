import type { Clock } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { inTime } from "../../base/promises.ts";
import type { Changes, EndedEntry, LogEntry, SessionStore } from "../store.ts";
import { KnownChanges, type RevocationListener } from "./known.ts";
import { type Moment, Staleness, StoreTime } from "./time.ts";

/** Answers, from memory, whether sessions have ended and whether their claims have changed. */
export interface Revocations {
  /** The store's clock, carried on since the last read of the change log. Milliseconds since 1970. */
  storeNow(): number;
  /** How a session ended; undefined if no end is known. */
  get(session: string): EndedEntry | undefined;
  /** The newest version of a session's claims; undefined if no change is known. */
  claimsVersionOf(session: string): number | undefined;
  /**
   * True while entries may be missing: the store lost changes, or there are more than memory may
   * hold. A session without an entry may then have ended, so read it from the store.
   */
  readonly unsure: boolean;
  /**
   * Whether the last completed read is older than `maxStaleness`. Call `catchUp` before you rely on
   * the other answers.
   * @param now a value that `storeNow` has just returned; saves a reading of the clock
   */
  isStale(now?: number): boolean;
  /**
   * Milliseconds since the last completed read of the change log began; 0 if there is no log to
   * follow.
   */
  staleness(): number;
  /**
   * Waits until the answers are no longer stale. Concurrent callers share one read of the log.
   * @throws SessionError `unavailable`
   */
  catchUp(): Promise<void>;
  /**
   * Calls `listener` once, when the session has ended for any reason but its age; immediately if it
   * has already. Errors of the listener are ignored.
   * @returns a function that removes the listener
   */
  watch(session: string, listener: RevocationListener): () => void;
  /** Whether the log was closed, so that no further change will be reported. */
  isClosed(): boolean;
}

interface RevocationLogOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Milliseconds for which an entry can matter: the longest life of an access token. */
  readonly window: number;
  /** Milliseconds. The log is read every half of it, even without a wake-up. */
  readonly maxStaleness: number;
  /** Called as soon as the end of a session is known. */
  readonly onEnd: (session: string) => void;
  /** Called when the store has lost changes since the last read. */
  readonly onLoss: () => void;
}

/** Milliseconds after a failed read until the next one, at most. */
const retryMs = 1_000;
/** Milliseconds after which a read without an answer is given up. */
const stuckAfter = 10_000;
/** A read shorter than this many milliseconds may be followed by another one immediately. */
const quick = 10;
/** Milliseconds that a call waits for a stale log. */
const patience = 5_000;
/** Reads that a call waits for, at most, if each takes too long to prove anything. */
const readsPerCall = 3;

/**
 * What this process knows about revocations. Follows the change log of the store, so that calls are
 * checked in memory: it reads when the store wakes it, and polls besides.
 *
 * The log is the truth; a wake-up is only a hint. A completed read proves that everything
 * acknowledged before the read began is known here. Once the last proof is older than
 * `maxStaleness`, calls wait for the next one.
 */
export class RevocationLog implements Revocations {
  readonly #options: RevocationLogOptions;
  readonly #known: KnownChanges;
  readonly #staleness: Staleness;
  readonly #time: StoreTime;
  #cursor: string | undefined;
  #underWay: Promise<void> | undefined;
  #closed = false;
  #wokenMeanwhile = false;
  #lag = 0;
  /** Set while tokens from before a loss may still be alive. */
  #mayLackEntries = false;
  #lostAt: number | undefined;
  #stopFollowing = (): void => {};
  #cancelNext = (): void => {};
  #cancelTrust = (): void => {};

  constructor(options: RevocationLogOptions) {
    this.#options = options;
    this.#known = new KnownChanges(options);
    this.#staleness = new Staleness(options);
    this.#time = new StoreTime(options.clock);
  }

  /**
   * Reads the log up to now, then follows it.
   * @throws whatever the store rejects with; `open` may then be called again
   */
  async open(): Promise<void> {
    // Subscribe before the first read, so that no change falls between the two.
    this.#stopFollowing();
    this.#stopFollowing = this.#options.store.onChange(() => this.#follow());
    try {
      // Without a time limit: there may be much to read.
      this.#underWay = this.#read(this.#staleness.moment());
      await this.#underWay;
      this.#scheduleNext(this.#options.maxStaleness / 2);
    } catch (error) {
      this.#underWay = undefined;
      this.#stop();
      throw error;
    }
  }

  close(): void {
    this.#closed = true;
    this.#stop();
  }

  isClosed(): boolean {
    return this.#closed;
  }

  /** Adds a change that this process has just written, so that it takes effect here immediately. */
  apply(change: LogEntry): void {
    this.#known.apply(change);
  }

  storeNow(): number {
    return this.#time.now();
  }

  get(session: string): EndedEntry | undefined {
    return this.#known.get(session);
  }

  claimsVersionOf(session: string): number | undefined {
    return this.#known.claimsVersionOf(session);
  }

  /** Forgets a claims version that the store has lost: the next change will reuse its number. */
  forgetClaims(session: string): void {
    this.#known.forgetClaims(session);
  }

  /** All ended sessions that can still matter. */
  all(): Iterable<EndedEntry> {
    return this.#known.all();
  }

  watch(session: string, listener: RevocationListener): () => void {
    return this.#known.watch(session, listener);
  }

  get unsure(): boolean {
    return this.#mayLackEntries || this.#known.isOverfull;
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
      const error = noAnswer();
      this.#staleness.failed(error);
      return error;
    };
    const { clock } = this.#options;
    await inTime(this.#untilFresh(), { clock, ms: patience, keepAlive: true, late });
  }

  /** Figures for the health report. */
  figures(): LogFigures {
    return {
      provenAt: this.#staleness.provenAt?.wall,
      lag: this.#lag,
      changes: this.#known.size,
      maxChanges: this.#known.limit,
      watching: this.#known.watching,
    };
  }

  async #untilFresh(): Promise<void> {
    for (let reads = 0; reads < readsPerCall; reads++) {
      await this.#sharedRead();
      if (!this.isStale()) {
        return;
      }
    }
    throw noAnswer();
  }

  /** One read for all who ask while it is under way. */
  #sharedRead(): Promise<void> {
    if (this.#closed) {
      return Promise.reject(unavailable("the change log is closed; try another server"));
    }
    // Starts in a turn of its own: a store may call the wake-up in the middle of a read.
    this.#underWay ??= Promise.resolve().then(() => this.#readInTime());
    return this.#underWay;
  }

  /** Reads in the background. */
  #follow(): void {
    if (this.#underWay !== undefined) {
      this.#wokenMeanwhile = true;
    } else if (!this.#closed) {
      // Callers that depend on this read await it themselves.
      this.#sharedRead().catch(() => {});
    }
  }

  async #readInTime(): Promise<void> {
    const { clock, maxStaleness } = this.#options;
    const began = this.#staleness.moment();
    const late = (): Error => new Error(`no answer within ${stuckAfter / 1000} s`);
    try {
      await inTime(this.#read(began), { clock, ms: stuckAfter, late });
      const took = clock.monotonic() - began.monotonic;
      this.#scheduleNext(maxStaleness / 2 - took, took);
    } catch (cause) {
      const error =
        cause instanceof SessionError
          ? cause
          : unavailable("the change log could not be read; try again", cause);
      this.#staleness.failed(error);
      this.#scheduleNext(Math.min(retryMs, maxStaleness / 4));
      throw error;
    }
  }

  /**
   * Schedules the next read: after a pause, or immediately if this one took too long to prove
   * anything.
   * @param took milliseconds. After a wake-up during the read, the store gets a pause as long as the
   * read was, unless that is too short to matter.
   */
  #scheduleNext(pause: number, took = 0): void {
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
    // After a long sleep the log may have dropped entries; every token they concern has expired.
    const changes = await store.changes(this.#cursor, window);
    const { provenAt } = this.#staleness;
    // A late answer to a read that was given up still counts, unless a newer read has overtaken it.
    if (provenAt === undefined || provenAt.monotonic <= began.monotonic) {
      this.#take(changes, began);
    }
  }

  #take({ entries, cursor, now, lostAt }: Changes, began: Moment): void {
    const isFirst = this.#staleness.provenAt === undefined;
    for (const entry of entries) {
      this.#known.apply(entry, isFirst ? Math.max(0, now - entry.at) : 0);
    }
    this.#time.learn(now, began.monotonic);
    this.#known.prune();
    const newest = entries.at(-1);
    if (!isFirst && newest !== undefined) {
      this.#lag = Math.max(0, now - newest.at);
    }
    this.#cursor = cursor;
    if (lostAt !== undefined && lostAt !== this.#lostAt) {
      this.#lostAt = lostAt;
      this.#distrustFor(lostAt + this.#options.window - this.storeNow());
      // On the first read this process knows nothing that the store does not.
      if (!isFirst) {
        this.#options.onLoss();
      }
    }
    this.#staleness.proven(began);
  }

  /** Distrusts the log until every token from before the loss has expired. */
  #distrustFor(ms: number): void {
    if (ms > 0) {
      this.#mayLackEntries = true;
      this.#cancelTrust();
      this.#cancelTrust = this.#options.clock.after(ms, () => {
        this.#mayLackEntries = false;
      });
    }
  }

  #stop(): void {
    this.#stopFollowing();
    this.#cancelNext();
    this.#cancelTrust();
  }
}

interface LogFigures {
  /** When the last completed read began, by this machine's clock; undefined before the first. */
  readonly provenAt: number | undefined;
  /** Milliseconds between the write of the newest entry and its arrival here, by the store's clock. */
  readonly lag: number;
  readonly changes: number;
  readonly maxChanges: number;
  /** Number of listeners. */
  readonly watching: number;
}

function noAnswer(): SessionError {
  return unavailable("the change log did not answer in time; try again");
}
