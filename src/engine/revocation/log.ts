import { inTime } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { noTelemetry, type OperationFacts, type SessionTelemetry } from "../../base/telemetry.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { Changes, EndedEntry, KeysEntry, SessionStore } from "../store.ts";
import { KnownChanges, type KnownChangesOptions, type RevocationListener } from "./known.ts";

/** Answers, from memory, whether sessions have ended and whether their claims have changed. */
export interface Revocations {
  /** The store's clock, carried on since the last read of the change log. Milliseconds since 1970. */
  storeNow(): number;
  /** How a session ended; undefined if no end is known. */
  get(session: string): EndedEntry | undefined;
  /** The newest version of a session's claims; undefined if no change is known. */
  claimsVersionOf(session: string): number | undefined;
  /**
   * Looks up everything that decides whether a verified token may be used.
   * @param now a value that `storeNow` has just returned; saves a reading of the clock
   * @returns undefined if the token may be used as it is: the answer is current, and nothing is
   * known against it
   */
  lookUp(token: LookedUpToken, now?: number): LookUp | undefined;
  /**
   * True while entries may be missing: tokens from before a loss of changes may be alive, or there are
   * more entries than memory may hold. A session without an entry may then have ended, so read it from
   * the store.
   */
  readonly unsure: boolean;
  /** The history of the last read; undefined if the store names none. See `Changes.history`. */
  readonly history: string | undefined;
  /**
   * Waits until the log has read the history that a row was read from.
   * @param history undefined if the store names none: then there is nothing to wait for
   * @throws SessionError `unavailable` if the log still reads another one: two databases answer
   */
  catchUpTo(history: string | undefined): Promise<void>;
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

/** What `lookUp` needs of a token: its session, the version of its claims, and its history. */
export type LookedUpToken = Pick<TokenClaims, "sid" | "cv" | "history">;

/** Why a verified token may not be used as it is. */
export interface LookUp {
  /** How the session ended; undefined if no end is known. */
  readonly end: EndedEntry | undefined;
  /** Whether an end of this session may be missing from the log; read it from the store. */
  readonly isUnsure: boolean;
  /**
   * Whether the last completed read is older than `maxStaleness`. Call `catchUp` and look up again
   * before you rely on the other answers.
   */
  readonly isStale: boolean;
  /** Whether the claims have changed after the token was issued. */
  readonly hasNewClaims: boolean;
  /** The store's time of this answer. */
  readonly now: number;
}

interface RevocationLogOptions extends KnownChangesOptions {
  readonly store: SessionStore;
  readonly emit: SessionEventListener;
  /** Milliseconds. The log is read at least every half of it, even without a wake-up. */
  readonly maxStaleness: number;
  /** Secrets or signing keys changed. The read of the log is complete once this has resolved. */
  readonly onKeys: (keys: readonly KeysEntry[]) => Promise<void>;
  /** Called when the store has lost changes since the last read. */
  readonly onLoss: () => void;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
}

/** Milliseconds between two reads, at most, while nothing wakes this process. */
const pollWithoutPush = 500;
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
/** An answer counts as a reading of the store's clock if it took less than this many milliseconds. */
const trustedRoundTrip = 1_000;

/**
 * What this process knows about revocations. Follows the change log of the store, so that calls are
 * checked in memory: it reads when the store wakes it, and polls besides.
 *
 * The log is the truth; a wake-up is only a hint. A completed read proves that everything
 * acknowledged before the read began is known here. Once the last proof is older than
 * `maxStaleness`, calls wait for the next one.
 */
export class RevocationLog extends KnownChanges implements Revocations {
  readonly #options: RevocationLogOptions;
  /** When the last completed read began; undefined before the first. */
  #provenAt: Moment | undefined;
  /** Whether the present outage has been reported. */
  #reportedStale = false;
  /** Store time minus monotonic time; undefined before the first read. */
  #storeAhead: number | undefined;
  #cursor: string | undefined;
  #underWay: Promise<unknown> | undefined;
  #closed = false;
  #wokenMeanwhile = false;
  #lag = 0;
  /** Set while tokens from before a loss may still be alive. */
  #mayLackEntries = false;
  #lostAt: number | undefined;
  #history: string | undefined;
  #stopFollowing = (): void => {};
  #cancelNext = (): void => {};
  #cancelTrust = (): void => {};

  constructor(options: RevocationLogOptions) {
    super(options);
    this.#options = options;
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
      this.#underWay = this.#read(this.#moment(), false);
      await this.#underWay;
      this.#scheduleNext(this.#pollEvery);
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

  /** This machine's clock before the first read. */
  storeNow(): number {
    const { clock } = this.#options;
    return this.#storeAhead === undefined ? clock.now() : clock.monotonic() + this.#storeAhead;
  }

  lookUp(token: LookedUpToken, now: number = this.storeNow()): LookUp | undefined {
    const { sid: session, cv: claimsVersion, history } = token;
    const isEnded = this.ends.has(session);
    const isUnsure = this.isOverfull || this.#isFromBeforeLoss(history);
    const isStale = this.#age(this.#toMonotonic(now)) > this.#options.maxStaleness;
    const hasNewClaims = (this.claims.get(session)?.version ?? 0) > claimsVersion;
    if (!isEnded && !isUnsure && !isStale && !hasNewClaims) {
      return undefined;
    }
    return { end: this.get(session), isUnsure, isStale, hasNewClaims, now };
  }

  get unsure(): boolean {
    return this.#mayLackEntries || this.isOverfull;
  }

  get history(): string | undefined {
    return this.#history;
  }

  /** Without a name, as in tokens of older versions, the time since the loss decides. */
  #isFromBeforeLoss(history: string | undefined): boolean {
    return history === undefined || this.#history === undefined
      ? this.#mayLackEntries
      : history !== this.#history;
  }

  /** Whether the last completed read is older than `maxStaleness`. */
  isStale(): boolean {
    return this.#age() > this.#options.maxStaleness;
  }

  staleness(): number {
    return this.#age();
  }

  async catchUp(): Promise<void> {
    if (!this.isStale()) {
      return;
    }
    const late = (): SessionError => {
      const error = noAnswer();
      this.#failed(error);
      return error;
    };
    const { clock } = this.#options;
    await inTime(this.#untilFresh(), { clock, ms: patience, keepAlive: true, late });
  }

  async catchUpTo(history: string | undefined): Promise<void> {
    const { clock } = this.#options;
    // A read that is under way may have begun before the other history did.
    for (let reads = 0; this.#isOtherHistory(history); reads++) {
      if (reads === 2) {
        throw unavailable(
          "two databases answer for the session store, perhaps an old primary besides the new one; try again",
        );
      }
      await inTime(this.#sharedRead(false), {
        clock,
        ms: patience,
        keepAlive: true,
        late: noAnswer,
      });
    }
  }

  #isOtherHistory(history: string | undefined): boolean {
    return history !== undefined && this.#history !== undefined && history !== this.#history;
  }

  /** When the last completed read began, by this machine's clock; undefined before the first. */
  get provenAt(): number | undefined {
    return this.#provenAt?.wall;
  }

  /** Milliseconds between the write of the newest entry and its arrival here, by the store's clock. */
  get lag(): number {
    return this.#lag;
  }

  async #untilFresh(): Promise<void> {
    for (let reads = 0; reads < readsPerCall; reads++) {
      await this.#sharedRead(false);
      if (!this.isStale()) {
        return;
      }
    }
    throw noAnswer();
  }

  /** One read for all who ask while it is under way. */
  #sharedRead(inBackground: boolean): Promise<unknown> {
    if (this.#closed) {
      return Promise.reject(unavailable("the change log is closed; try another server"));
    }
    // Starts in a turn of its own: a store may call the wake-up in the middle of a read.
    this.#underWay ??= Promise.resolve().then(() => this.#readInTime(inBackground));
    return this.#underWay;
  }

  /** Reads in the background. */
  #follow(): void {
    if (this.#underWay !== undefined) {
      this.#wokenMeanwhile = true;
    } else if (!this.#closed) {
      // Callers that depend on this read await it themselves.
      this.#sharedRead(true).catch(() => {});
    }
  }

  async #readInTime(inBackground: boolean): Promise<void> {
    const { clock, maxStaleness } = this.#options;
    const began = this.#moment();
    const late = (): Error => new Error(`no answer within ${stuckAfter / 1000} s`);
    try {
      const answered = await inTime(this.#read(began, inBackground), {
        ...{ clock, ms: stuckAfter, late },
      });
      const took = answered - began.monotonic;
      this.#scheduleNext(this.#pollEvery - took, took);
    } catch (cause) {
      const error =
        cause instanceof SessionError
          ? cause
          : unavailable("the change log could not be read; try again", cause);
      this.#failed(error);
      this.#scheduleNext(Math.min(retryMs, maxStaleness / 4));
      throw error;
    }
  }

  /** Milliseconds from the begin of a read to the next one. */
  get #pollEvery(): number {
    const { store, maxStaleness } = this.#options;
    const every = maxStaleness / 2;
    return store.pushed?.() === true ? every : Math.min(every, pollWithoutPush);
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

  /** Returns when the store answered, in monotonic milliseconds. */
  async #read(began: Moment, inBackground: boolean): Promise<number> {
    const { store, clock, window, telemetry = noTelemetry } = this.#options;
    const cursor = this.#cursor;
    // After a long sleep the log may have dropped entries; every token they concern has expired.
    const changes = await telemetry.run<Changes>(
      {
        ...{ name: "feedRead", inBackground },
        // Most reads in the background find nothing.
        took: (found) => !inBackground || found === undefined || found.entries.length > 0,
        facts: (found) => (cursor === undefined || found === undefined ? {} : factsOf(found)),
      },
      () => store.changes(cursor, window),
    );
    const answered = clock.monotonic();
    if (changes.keys !== undefined) {
      // The ends of sessions must not wait for the keys. They are applied again below, to no effect.
      this.applyAll(changes.entries, answered);
      await this.#options.onKeys(changes.keys);
    }
    const provenAt = this.#provenAt;
    // A late answer to a read that was given up still counts, unless a newer read has overtaken it.
    if (provenAt === undefined || provenAt.monotonic <= began.monotonic) {
      this.#take(changes, began, answered);
    }
    return answered;
  }

  #take({ entries, cursor, now, lostAt, history }: Changes, began: Moment, answered: number): void {
    const isFirst = this.#provenAt === undefined;
    this.#learnTime(now, began.monotonic, answered);
    this.applyAll(entries, answered, isFirst ? now : undefined);
    const newest = entries.at(-1);
    if (!isFirst && newest !== undefined) {
      this.#lag = Math.max(0, now - newest.at);
    }
    this.#cursor = cursor;
    const isLoss = lostAt !== undefined && lostAt !== this.#lostAt;
    if (isLoss) {
      this.#lostAt = lostAt;
      this.#distrustFor(lostAt + this.#options.window - this.storeNow());
    }
    // On the first read this process knows nothing that the store does not.
    if ((isLoss || this.#isOtherHistory(history)) && !isFirst) {
      this.#options.onLoss();
    }
    this.#history = history;
    this.#proven(began);
  }

  /**
   * Learns from a time that the store returned to a question, asked and answered at monotonic times.
   * A slow answer says little, for example when the process was suspended meanwhile. If the first
   * answer is slow, it is used anyway, as if it had arrived late: a clock that runs ahead would
   * expire valid tokens early.
   */
  #learnTime(storeTime: number, asked: number, answered: number): void {
    if (answered - asked < trustedRoundTrip) {
      this.#storeAhead = storeTime - (asked + answered) / 2;
    } else {
      this.#storeAhead ??= storeTime - answered;
    }
  }

  /** Converts a value that `storeNow` has just returned. */
  #toMonotonic(now: number): number {
    return this.#storeAhead === undefined
      ? this.#options.clock.monotonic()
      : now - this.#storeAhead;
  }

  #moment(): Moment {
    const { clock } = this.#options;
    return { monotonic: clock.monotonic(), wall: clock.now() };
  }

  /** Milliseconds since the last completed read began; Infinity before the first. */
  #age(monotonic: number = this.#options.clock.monotonic()): number {
    return this.#provenAt === undefined
      ? Number.POSITIVE_INFINITY
      : // The monotonic clock may stop while the machine sleeps; the wall clock may be set back.
        Math.max(
          monotonic - this.#provenAt.monotonic,
          this.#options.clock.now() - this.#provenAt.wall,
        );
  }

  /** Records a completed read that began at `began`. */
  #proven(began: Moment): void {
    const staleFor = this.#reportedStale ? this.#age() : 0;
    this.#provenAt = began;
    if (this.#reportedStale && !this.isStale()) {
      this.#reportedStale = false;
      this.#options.emit({ type: "feedRecovered", staleFor });
    }
  }

  /** Records a failed read; emits an event once the log has become stale. */
  #failed(error: SessionError): void {
    if (!this.#reportedStale && this.#provenAt !== undefined && this.isStale()) {
      this.#reportedStale = true;
      this.#options.emit({ type: "feedStale", staleFor: this.#age(), error });
    }
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

/** The time at which a read began, by both clocks. */
interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

/** What a read of the change log brought, for telemetry. */
function factsOf({ entries, now }: Changes): OperationFacts {
  const ends = entries.filter((entry) => entry.kind === "revoked");
  return { count: entries.length, delays: ends.map(({ at }) => Math.max(0, now - at)) };
}

function noAnswer(): SessionError {
  return unavailable("the change log did not answer in time; try again");
}
