import type { Change } from "./store.ts";

/** The sessions whose access tokens may still be alive although the session is not. */
export interface Revocations {
  /** Adds an entry of the change log. The same entry again changes nothing. */
  apply(change: Change): void;
  get(session: string): Change | undefined;
  /** Forgets entries older than `window` milliseconds before `now`. */
  prune(now: number): void;
  /** True when there are more entries than the limit: then nothing can be said of any session. */
  readonly overflown: boolean;
  readonly size: number;
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
    get overflown() {
      return entries.size > limit;
    },
    get size() {
      return entries.size;
    },
  };
}
