/** The kinds of violations. */
export const violationKinds = [
  "false_logouts",
  "missed_thefts",
  "resurrected",
  "forks",
  "out_of_bounds",
  "double_thefts",
  "forged",
  "bound_thief_refreshes",
  "bound_thief_calls_after_expiry",
  "bound_thief_proof_calls",
  "unexplained",
] as const;
export type ViolationKind = (typeof violationKinds)[number];

/** The counts of a run. */
export class Tally {
  steps = 0;
  refreshes = 0;
  /** Requests and responses that were lost. */
  lost = 0;
  recovered = 0;
  crashes = 0;
  outages = 0;
  revokes = 0;
  rollbacks = 0;
  /** Tokens that somebody made with a leaked secret. */
  forged = 0;
  /** Refreshes of bound sessions by their owner. */
  boundRefreshes = 0;
  /** What a thief without the key of a bound session has tried: refreshes, late calls, and calls with a proof. */
  boundTries = 0;
  /** Refreshes that were sent again, because their nonce had run out. */
  newNonces = 0;
  /** Uses of unexpired access tokens whose key the servers had removed. */
  orphans = 0;
  readonly violations: Record<ViolationKind, number> = {
    false_logouts: 0,
    missed_thefts: 0,
    resurrected: 0,
    forks: 0,
    out_of_bounds: 0,
    double_thefts: 0,
    forged: 0,
    bound_thief_refreshes: 0,
    bound_thief_calls_after_expiry: 0,
    bound_thief_proof_calls: 0,
    unexplained: 0,
  };
  /** How long each detected thief had used the session, in access token lifetimes. */
  readonly foundAfter: number[] = [];
  /** Thieves whose session ended for another reason. */
  endedOtherwise = 0;
  /** Thieves who still used the session when the schedule ended. */
  unfound = 0;

  get thieves(): number {
    return this.foundAfter.length + this.endedOtherwise + this.unfound;
  }

  /** Returns the time, in access token lifetimes, within which this share of the detected thieves was detected. */
  quantile(share: number): number | null {
    const sorted = this.foundAfter.toSorted((a, b) => a - b);
    const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
    return value === undefined ? null : Math.round(value * 100) / 100;
  }
}

/** Thrown when a schedule leads to a violation. */
export class Violation extends Error {
  readonly kind: ViolationKind;

  constructor(kind: ViolationKind, message: string) {
    super(`${kind}: ${message}`);
    this.kind = kind;
  }
}
