import type { Clock } from "../clock.ts";
import { type RevocationListener, RevocationListeners } from "./revocation-listeners.ts";
import type { Change, RevokedChange } from "./store.ts";

/** The sessions whose access tokens may still be alive although the session is not. */
export interface Revocations {
  /**
   * Adds an entry of the change log. The same entry again changes nothing; but a session's own end,
   * by a sign-out or by being replaced, is noted also where something else had ended it before.
   */
  apply(change: Change): void;
  get(session: string): RevokedChange | undefined;
  /**
   * Calls `listener` once, when the session has ended; at once where it has already. What the
   * listener throws is ignored.
   *
   * @returns a function that stops it
   */
  watch(session: string, listener: RevocationListener): () => void;
  /** Forgets what can matter no more. */
  prune(): void;
  /**
   * True when nothing can be said of a session without an entry: there are more entries than the
   * limit, or some may be missing.
   */
  readonly unsure: boolean;
  /** Tells whether entries may be missing, because the store has lost changes. */
  doubt(doubted: boolean): void;
  readonly size: number;
  /** How many listeners wait. */
  readonly watching: number;
  all(): Iterable<RevokedChange>;
}

/** What revocations are made of. */
export interface RevocationsOptions {
  readonly clock: Clock;
  /** Milliseconds an entry matters: no access token lives longer. */
  readonly window: number;
  /** Told of a session as soon as its end is known here. */
  readonly onEnd?: (session: string) => void;
  /** Entries that can be vouched for. Default 2,000,000; at about 250 bytes each, 500 MB. */
  readonly limit?: number;
}

interface Entry {
  readonly change: RevokedChange;
  /** Monotonic milliseconds: a wall clock that jumps must not make a revoked token good again. */
  readonly forgetAt: number;
}

/** Keeps what of the change log can still matter. */
export function createRevocations(options: RevocationsOptions): Revocations {
  const { clock, window, onEnd, limit = 2_000_000 } = options;
  const entries = new Map<string, Entry>();
  const listeners = new RevocationListeners();
  let doubted = false;
  return {
    apply(change) {
      if (change.kind !== "revoked") {
        return;
      }
      const known = entries.get(change.session)?.change;
      if (known === undefined || (isOwnEnd(change) && !isOwnEnd(known))) {
        // Anew, so that the first to be forgotten stays first.
        entries.delete(change.session);
        entries.set(change.session, { change, forgetAt: clock.monotonic() + window });
        onEnd?.(change.session);
      }
      // Last, because they look the session up.
      listeners.tell(change);
    },
    get: (session) => entries.get(session)?.change,
    watch: (session, listener) => listeners.add(session, listener, entries.get(session)?.change),
    prune: () => forget(entries, clock.monotonic()),
    get unsure() {
      return doubted || entries.size > limit;
    },
    doubt(now) {
      doubted = now;
    },
    *all() {
      for (const { change } of entries.values()) {
        yield change;
      }
    },
    get size() {
      return entries.size;
    },
    get watching() {
      return listeners.size;
    },
  };
}

function forget(entries: Map<string, Entry>, now: number): void {
  for (const [session, { forgetAt }] of entries) {
    if (forgetAt > now) {
      break;
    }
    entries.delete(session);
  }
}

function isOwnEnd({ endedBy }: RevokedChange): boolean {
  return endedBy === "signOut" || endedBy === "replaced";
}
