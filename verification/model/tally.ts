/** What must never happen. */
export const violationKinds = [
  "false_logouts",
  "missed_thefts",
  "resurrected",
  "forks",
  "out_of_bounds",
  "double_thefts",
  "unexplained",
] as const;
export type ViolationKind = (typeof violationKinds)[number];

/** What a run has seen. */
export class Tally {
  steps = 0;
  refreshes = 0;
  /** Requests and answers that never reached the other side. */
  lost = 0;
  recovered = 0;
  crashes = 0;
  outages = 0;
  revokes = 0;
  rollbacks = 0;
  /** Access tokens in their life whose key the servers had removed. */
  orphans = 0;
  readonly violations: Record<ViolationKind, number> = {
    false_logouts: 0,
    missed_thefts: 0,
    resurrected: 0,
    forks: 0,
    out_of_bounds: 0,
    double_thefts: 0,
    unexplained: 0,
  };
  /** How long each thief who was found had used the session, in access lives. */
  readonly foundAfter: number[] = [];
  /** Thieves whose session ended in another way. */
  endedOtherwise = 0;
  /** Thieves who were still in when the schedule ended. */
  unfound = 0;

  get thieves(): number {
    return this.foundAfter.length + this.endedOtherwise + this.unfound;
  }

  /** The share of the thieves who were found that was found within this many access lives. */
  quantile(share: number): number | null {
    const sorted = this.foundAfter.toSorted((a, b) => a - b);
    const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
    return value === undefined ? null : Math.round(value * 100) / 100;
  }
}

/** Thrown by a schedule that found one. */
export class Violation extends Error {
  readonly kind: ViolationKind;

  constructor(kind: ViolationKind, message: string) {
    super(`${kind}: ${message}`);
    this.kind = kind;
  }
}
