import type { Change } from "./store.ts";

/** Told how a session ended. */
export type RevocationListener = (change: Change) => void;

/** Who waits for sessions to end. */
export interface RevocationListeners {
  /**
   * @param known how the session has ended, where it has: then the listener is told at once
   * @returns a function that takes the listener back
   */
  add(session: string, listener: RevocationListener, known: Change | undefined): () => void;
  /** Tells, and lets go of, all who wait for this session. What they throw is ignored. */
  tell(change: Change): void;
  /** How many wait. */
  readonly size: number;
}

export function createRevocationListeners(): RevocationListeners {
  const bySession = new Map<string, Set<RevocationListener>>();
  let size = 0;
  return {
    add(session, listener, known) {
      if (known !== undefined) {
        tellSafely(listener, known);
        return () => {};
      }
      // A function of its own, so that one listener given twice is told twice.
      const own: RevocationListener = (change) => listener(change);
      const all = bySession.get(session) ?? new Set();
      bySession.set(session, all.add(own));
      size += 1;
      return () => {
        if (!all.delete(own)) {
          return;
        }
        size -= 1;
        if (all.size === 0) {
          bySession.delete(session);
        }
      };
    },
    tell(change) {
      const all = bySession.get(change.session);
      if (all === undefined) {
        return;
      }
      const told = [...all];
      bySession.delete(change.session);
      all.clear();
      size -= told.length;
      for (const listener of told) {
        tellSafely(listener, change);
      }
    },
    get size() {
      return size;
    },
  };
}

/** A broken listener must not stop the change log, nor the other listeners. */
function tellSafely(listener: RevocationListener, change: Change): void {
  try {
    listener(change);
  } catch {}
}
