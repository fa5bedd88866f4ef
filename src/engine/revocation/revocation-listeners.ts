import type { RevokedChange } from "../store.ts";

/** Told how a session ended. */
export type RevocationListener = (change: RevokedChange) => void;

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
  add(session: string, listener: RevocationListener, known: RevokedChange | undefined): () => void {
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
  tell(change: RevokedChange): void {
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
function tellSafely(listener: RevocationListener, change: RevokedChange): void {
  try {
    listener(change);
  } catch {}
}
