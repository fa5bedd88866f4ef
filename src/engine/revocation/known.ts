import type { Clock } from "../../base/clock.ts";
import type { EndedBy } from "../../base/events.ts";
import type { ClaimsEntry, EndedEntry, LogEntry } from "../store.ts";

/** Receives the entry that ended a session. */
export type RevocationListener = (change: EndedEntry) => void;

/** Options of {@link KnownChanges}. */
export interface KnownChangesOptions {
  readonly clock: Clock;
  /** Milliseconds for which an entry matters: how long this process accepts an access token. */
  readonly window: number;
  /** Called as soon as the end of a session is known. */
  readonly onEnd?: ((session: string) => void) | undefined;
  /** Most entries that are kept reliably. Default 2,000,000: at most 200 bytes each, 400 MB. */
  readonly limit?: number;
}

/** Entries of the change log that concern sessions whose access tokens may still be alive. */
export class KnownChanges {
  readonly #options: KnownChangesOptions;
  readonly #ends = new Map<string, End>();
  readonly #claims = new Map<string, NewClaims>();
  readonly #listeners = new Listeners();
  /** How sessions ended, by their ids. */
  readonly ends: ReadonlyMap<string, End> = this.#ends;
  /** The newest versions of claims, by the ids of their sessions. */
  readonly claims: ReadonlyMap<string, NewClaims> = this.#claims;
  readonly limit: number;
  /** Whether there are more entries than can be kept reliably. */
  isOverfull = false;

  constructor(options: KnownChangesOptions) {
    this.#options = options;
    this.limit = options.limit ?? 2_000_000;
  }

  /**
   * Adds an entry. Adding it again has no effect, with one exception: a sign-out or a replacement
   * is recorded even if something else had ended the session before.
   *
   * @param age milliseconds since the entry was written, by the store's clock, if it was read from
   * a part of the log that is older than this process; default 0
   * @param now monotonic milliseconds; default: a reading of the clock
   */
  apply(change: LogEntry, age = 0, now: number = this.#options.clock.monotonic()): void {
    const forgetAt = now + this.#options.window - age;
    if (change.kind === "claims") {
      this.#applyClaims(change, forgetAt);
      this.#count();
    } else {
      this.#applyEnd(change, forgetAt);
      this.#count();
      // Last, because listeners look the session up.
      this.#listeners.notify(change);
    }
  }

  /**
   * Adds the entries of one read, and forgets those that no longer matter.
   * @param now monotonic milliseconds
   * @param readAt the store's time of the read, if the entries may be older than this process
   */
  applyAll(entries: readonly LogEntry[], now: number, readAt?: number): void {
    for (const entry of entries) {
      this.apply(entry, readAt === undefined ? 0 : Math.max(0, readAt - entry.at), now);
    }
    this.prune(now);
  }

  get(session: string): EndedEntry | undefined {
    const end = this.#ends.get(session);
    return end === undefined ? undefined : toEntry(session, end);
  }

  /** See `Revocations.watch`. */
  watch(session: string, listener: RevocationListener): () => void {
    return this.#listeners.add(session, listener, this.get(session));
  }

  /** The newest version of a session's claims; undefined if no change is known. */
  claimsVersionOf(session: string): number | undefined {
    return this.#claims.get(session)?.version;
  }

  forgetClaims(session: string): void {
    this.#claims.delete(session);
    this.#count();
  }

  /**
   * Forgets entries that no longer matter.
   * @param now monotonic milliseconds; default: a reading of the clock
   */
  prune(now: number = this.#options.clock.monotonic()): void {
    forget(this.#ends, now);
    forget(this.#claims, now);
    this.#count();
  }

  /** Number of entries, both kinds together. */
  get size(): number {
    return this.#ends.size + this.#claims.size;
  }

  /** Number of listeners. */
  get watching(): number {
    return this.#listeners.size;
  }

  /** All ended sessions. */
  *all(): Iterable<EndedEntry> {
    for (const [session, end] of this.#ends) {
      yield toEntry(session, end);
    }
  }

  #count(): void {
    this.isOverfull = this.size > this.limit;
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

interface Forgettable {
  /** Monotonic milliseconds: a jump of the wall clock must not make a revoked token valid again. */
  readonly forgetAt: number;
}

interface End extends Forgettable {
  readonly endedBy: EndedBy;
  readonly at: number;
}

interface NewClaims extends Forgettable {
  readonly version: number;
}

function toEntry(session: string, { endedBy, at }: End): EndedEntry {
  return { kind: "revoked", session, endedBy, at };
}

/** Moves the entry to the end, so that the map stays in the order of forgetting. */
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

/** Listeners that wait for the end of a session. */
class Listeners {
  readonly #bySession = new Map<string, Set<RevocationListener>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /**
   * @param known how the session ended, if it has: the listener is then called immediately
   * @returns a function that removes the listener
   */
  add(session: string, listener: RevocationListener, known: EndedEntry | undefined): () => void {
    if (known !== undefined) {
      callSafely(listener, known);
      return () => {};
    }
    // Wrapped, so that a listener that is added twice is called twice.
    const own: RevocationListener = (change) => listener(change);
    const all = this.#bySession.get(session) ?? new Set();
    this.#bySession.set(session, all.add(own));
    this.#size += 1;
    return () => {
      this.#remove(session, all, own);
    };
  }

  /** Calls and removes all listeners of the session. */
  notify(change: EndedEntry): void {
    const all = this.#bySession.get(change.session);
    if (all === undefined) {
      return;
    }
    for (const listener of [...all]) {
      if (this.#remove(change.session, all, listener)) {
        callSafely(listener, change);
      }
    }
  }

  #remove(session: string, all: Set<RevocationListener>, listener: RevocationListener): boolean {
    const had = all.delete(listener);
    this.#size -= had ? 1 : 0;
    // A newer set may have replaced an empty one.
    if (all.size === 0 && this.#bySession.get(session) === all) {
      this.#bySession.delete(session);
    }
    return had;
  }
}

/** A broken listener must stop neither the change log nor the other listeners. */
function callSafely(listener: RevocationListener, change: EndedEntry): void {
  try {
    listener(change);
  } catch {}
}
