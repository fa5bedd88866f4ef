import type { Clock } from "../../base/clock.ts";
import type { EndedBy } from "../../base/events.ts";
import type { ClaimsEntry, EndedEntry, LogEntry } from "../store.ts";

/** Told how a session ended. */
export type RevocationListener = (change: EndedEntry) => void;

/** Who waits for sessions to end. */
export class RevocationListeners {
  readonly #bySession = new Map<string, Set<RevocationListener>>();
  #size = 0;

  /** How many wait. */
  get size(): number {
    return this.#size;
  }

  /**
   * @param known how the session has ended, where it has: then the listener is told at once
   * @returns a function that takes the listener back
   */
  add(session: string, listener: RevocationListener, known: EndedEntry | undefined): () => void {
    if (known !== undefined) {
      tellSafely(listener, known);
      return () => {};
    }
    // A function of its own, so that one listener given twice is told twice.
    const own: RevocationListener = (change) => listener(change);
    const all = this.#bySession.get(session) ?? new Set();
    this.#bySession.set(session, all.add(own));
    this.#size += 1;
    return () => {
      this.#take(session, all, own);
    };
  }

  /** Tells, and lets go of, all who wait for this session. What they throw is ignored. */
  tell(change: EndedEntry): void {
    const all = this.#bySession.get(change.session) ?? new Set();
    for (const listener of [...all]) {
      if (this.#take(change.session, all, listener)) {
        tellSafely(listener, change);
      }
    }
  }

  #take(session: string, all: Set<RevocationListener>, listener: RevocationListener): boolean {
    const had = all.delete(listener);
    this.#size -= had ? 1 : 0;
    // A later set may have taken the place of an empty one.
    if (all.size === 0 && this.#bySession.get(session) === all) {
      this.#bySession.delete(session);
    }
    return had;
  }
}

/** A broken listener must not stop the change log, nor the other listeners. */
function tellSafely(listener: RevocationListener, change: EndedEntry): void {
  try {
    listener(change);
  } catch {}
}

/** What the change log says of sessions whose access tokens may still be alive. */
export interface Revocations {
  /**
   * Adds an entry of the change log. The same entry again changes nothing; but a session's own end,
   * by a sign-out or by being replaced, is noted also where something else had ended it before.
   *
   * @param age milliseconds since it was written by the store's clock, where it was read from a log
   * that was written before this process began to follow it; default 0
   */
  apply(change: LogEntry, age?: number): void;
  get(session: string): EndedEntry | undefined;
  /**
   * Calls `listener` once, when the session has ended; at once where it has already. What the
   * listener throws is ignored.
   *
   * @returns a function that stops it
   */
  watch(session: string, listener: RevocationListener): () => void;
  /** The newest version of a session's claims, where they changed: older tokens are out of date. */
  claimsVersionOf(session: string): number | undefined;
  /** Forgets that version, which the store turned out to have lost: others will take its number. */
  forgetClaims(session: string): void;
  /** Forgets what can matter no more. */
  prune(): void;
  /**
   * True when nothing can be said of a session without an entry: there are more entries than the
   * limit, or some may be missing.
   */
  readonly unsure: boolean;
  /** Tells whether entries may be missing, because the store has lost changes. */
  doubt(doubted: boolean): void;
  /** How many entries there are, of both kinds. */
  readonly size: number;
  /** How many listeners wait. */
  readonly watching: number;
  /** How many entries can be vouched for. */
  readonly limit: number;
  /** All that ended. */
  all(): Iterable<EndedEntry>;
}

/** What revocations are made of. */
export interface RevocationsOptions {
  readonly clock: Clock;
  /** Milliseconds an entry matters: no access token lives longer. */
  readonly window: number;
  /** Told of a session as soon as its end is known here. */
  readonly onEnd?: (session: string) => void;
  /** Entries that can be vouched for. Default 2,000,000; at no more than 200 bytes each, 400 MB. */
  readonly limit?: number;
}

interface Forgettable {
  /** Monotonic milliseconds: a wall clock that jumps must not make a revoked token good again. */
  readonly forgetAt: number;
}

interface End extends Forgettable {
  readonly endedBy: EndedBy;
  readonly at: number;
}

interface NewClaims extends Forgettable {
  readonly version: number;
}

/** Keeps what of the change log can still matter. */
export function createRevocations(options: RevocationsOptions): Revocations {
  return new RememberedChanges(options);
}

class RememberedChanges implements Revocations {
  readonly #options: RevocationsOptions;
  readonly #ends = new Map<string, End>();
  readonly #claims = new Map<string, NewClaims>();
  readonly #listeners = new RevocationListeners();
  readonly limit: number;
  #doubted = false;

  constructor(options: RevocationsOptions) {
    this.#options = options;
    this.limit = options.limit ?? 2_000_000;
  }

  apply(change: LogEntry, age = 0): void {
    const forgetAt = this.#options.clock.monotonic() + this.#options.window - age;
    if (change.kind === "claims") {
      this.#applyClaims(change, forgetAt);
    } else {
      this.#applyEnd(change, forgetAt);
      // Last, because they look the session up.
      this.#listeners.tell(change);
    }
  }

  get(session: string): EndedEntry | undefined {
    const end = this.#ends.get(session);
    return end === undefined ? undefined : toChange(session, end);
  }

  watch(session: string, listener: RevocationListener): () => void {
    return this.#listeners.add(session, listener, this.get(session));
  }

  claimsVersionOf(session: string): number | undefined {
    return this.#claims.get(session)?.version;
  }

  forgetClaims(session: string): void {
    this.#claims.delete(session);
  }

  prune(): void {
    const now = this.#options.clock.monotonic();
    forget(this.#ends, now);
    forget(this.#claims, now);
  }

  get unsure(): boolean {
    return this.#doubted || this.size > this.limit;
  }

  doubt(doubted: boolean): void {
    this.#doubted = doubted;
  }

  get size(): number {
    return this.#ends.size + this.#claims.size;
  }

  get watching(): number {
    return this.#listeners.size;
  }

  *all(): Iterable<EndedEntry> {
    for (const [session, end] of this.#ends) {
      yield toChange(session, end);
    }
  }

  #applyEnd({ session, endedBy, at }: EndedEntry, forgetAt: number): void {
    const known = this.#ends.get(session);
    if (known === undefined || (isOwnEnd(endedBy) && !isOwnEnd(known.endedBy))) {
      setLast(this.#ends, session, { endedBy, at, forgetAt });
      this.#options.onEnd?.(session);
    }
  }

  #applyClaims({ session, claimsVersion: version }: ClaimsEntry, forgetAt: number): void {
    const known = this.#claims.get(session);
    if (known === undefined || known.version < version) {
      setLast(this.#claims, session, { version, forgetAt });
    }
  }
}

function toChange(session: string, { endedBy, at }: End): EndedEntry {
  return { kind: "revoked", session, endedBy, at };
}

/** Sets an entry anew, so that the first to be forgotten stays first. */
function setLast<T>(entries: Map<string, T>, session: string, entry: T): void {
  entries.delete(session);
  entries.set(session, entry);
}

function forget(entries: Map<string, Forgettable>, now: number): void {
  for (const [session, { forgetAt }] of entries) {
    if (forgetAt > now) {
      break;
    }
    entries.delete(session);
  }
}

function isOwnEnd(endedBy: EndedBy): boolean {
  return endedBy === "signOut" || endedBy === "replaced";
}

/** All that an open stream needs to know of its session after it was opened. */
export interface StreamWatch {
  /** The store's clock as this process knows it without asking; milliseconds since 1970. */
  storeNow(): number;
  /**
   * Calls `listener` once, when the session has ended by anything but its age; at once where it has
   * already.
   *
   * @returns a function that stops it
   */
  watch(session: string, listener: RevocationListener): () => void;
  /**
   * Milliseconds since it was last certain that `watch` had told everything that had happened; 0
   * where there is no change log to follow.
   */
  staleness(): number;
  /** Whether it was closed: nothing will be told any more. */
  isClosed(): boolean;
  /** Reads the change log, or joins the read that runs. Rejects when it cannot be read. */
  catchUp(): Promise<void>;
}
