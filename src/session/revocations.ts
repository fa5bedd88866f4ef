import type { Clock } from "../clock.ts";
import type { EndedBy } from "../events.ts";
import type { Change, RevokedChange } from "./store.ts";

/** What the change log says of sessions whose access tokens may still be alive. */
export interface Revocations {
  /**
   * Adds an entry of the change log. The same entry again changes nothing; but a session's own end,
   * by a sign-out or by being replaced, is noted also where something else had ended it before.
   *
   * @param age milliseconds since it was written by the store's clock, where it was read from a log
   * that was written before this process began to follow it; default 0
   */
  apply(change: Change, age?: number): void;
  get(session: string): RevokedChange | undefined;
  /** The newest version of a session's claims, where they changed: older tokens are out of date. */
  claimsVersionOf(session: string): number | undefined;
  /** Takes a version back that the store turned out not to have, because it has lost changes. */
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
  /** How many entries can be vouched for. */
  readonly limit: number;
  /** All that ended. */
  all(): Iterable<RevokedChange>;
}

/** What revocations are made of. */
export interface RevocationsOptions {
  readonly clock: Clock;
  /** Milliseconds an entry matters: no access token lives longer. */
  readonly window: number;
  /** Entries that can be vouched for. Default 2,000,000; at about 200 bytes each, 400 MB. */
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
  const { clock, window, limit = 2_000_000 } = options;
  const ends = new Map<string, End>();
  const claims = new Map<string, NewClaims>();
  let doubted = false;
  const toChange = (session: string, { endedBy, at }: End): RevokedChange => ({
    kind: "revoked",
    session,
    endedBy,
    at,
  });
  return {
    apply(change, age = 0) {
      const { session, at } = change;
      const forgetAt = clock.monotonic() + window - age;
      if (change.kind === "claims") {
        const known = claims.get(session)?.version ?? -1;
        if (known < change.claimsVersion) {
          setLast(claims, session, { version: change.claimsVersion, forgetAt });
        }
        return;
      }
      const { endedBy } = change;
      const known = ends.get(session);
      if (known === undefined || (isOwnEnd(endedBy) && !isOwnEnd(known.endedBy))) {
        setLast(ends, session, { endedBy, at, forgetAt });
      }
    },
    get(session) {
      const end = ends.get(session);
      return end === undefined ? undefined : toChange(session, end);
    },
    claimsVersionOf: (session) => claims.get(session)?.version,
    forgetClaims(session) {
      claims.delete(session);
    },
    prune() {
      forget(ends, clock.monotonic());
      forget(claims, clock.monotonic());
    },
    get unsure() {
      return doubted || ends.size + claims.size > limit;
    },
    doubt(now) {
      doubted = now;
    },
    *all() {
      for (const [session, end] of ends) {
        yield toChange(session, end);
      }
    },
    get size() {
      return ends.size + claims.size;
    },
    limit,
  };
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
