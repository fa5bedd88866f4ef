import type { Change } from "./store.ts";

/** The sessions whose access tokens may still be alive although the session is not. */
export interface Revocations {
  /** Adds an entry of the change log. The same entry again changes nothing. */
  apply(change: Change): void;
  get(session: string): Change | undefined;
  /** Forgets entries older than `window` milliseconds before `now`. */
  prune(now: number): void;
  /**
   * True when nothing can be said of a session without an entry: there are more entries than the
   * limit, or some may be missing.
   */
  readonly unsure: boolean;
  /** Tells whether entries may be missing, because the store has lost changes. */
  doubt(doubted: boolean): void;
  readonly size: number;
  all(): Iterable<Change>;
}

/** Entries kept at most; at about 200 bytes each, 400 MB. */
const defaultLimit = 2_000_000;

/**
 * Keeps what of the change log can still matter.
 *
 * @param window milliseconds an entry matters: no access token lives longer
 */
export function createRevocations(window: number, limit: number = defaultLimit): Revocations {
  const entries = new Map<string, Change>();
  let doubted = false;
  return {
    apply(change) {
      if (!entries.has(change.session)) {
        entries.set(change.session, change);
      }
    },
    get: (session) => entries.get(session),
    prune(now) {
      // In the order of the log, so that the first entry that stays ends the work.
      for (const [session, change] of entries) {
        if (change.at >= now - window) {
          break;
        }
        entries.delete(session);
      }
    },
    get unsure() {
      return doubted || entries.size > limit;
    },
    doubt(now) {
      doubted = now;
    },
    all: () => entries.values(),
    get size() {
      return entries.size;
    },
  };
}
