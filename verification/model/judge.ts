import { SessionError } from "../../src/base/errors.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import { parseRefreshToken } from "../../src/engine/refresh/token.ts";
import type { Task } from "./gates.ts";
import { mayBeExpired, mustBeTheft, type SessionLedger, times } from "./ledger.ts";
import type { ViolationKind } from "./tally.ts";

/** What a refresh came to. */
export type Outcome = { readonly refreshed: Refreshed } | { readonly error: unknown };

type Violate = (kind: ViolationKind, message: string) => void;

/** What the outcome of a refresh is judged by. */
export interface Case {
  readonly ledger: SessionLedger;
  readonly task: Task;
  readonly presented: number;
  /** As it was when the request reached the server. */
  readonly mustBeTheft: boolean;
  readonly wasEnded: boolean;
}

/** Opens the case of a refresh that reaches a server now. */
export function openCase(ledger: SessionLedger, presented: number, task: Task, now: number): Case {
  return {
    ledger,
    task,
    presented,
    mustBeTheft: mustBeTheft(ledger, presented, now),
    wasEnded: ledger.acknowledged,
  };
}

/** Judges the outcome of a refresh. */
export function judge(given: Case, outcome: Outcome, now: number, violate: Violate): void {
  if ("refreshed" in outcome) {
    judgeSuccess(given, outcome.refreshed, now, violate);
  } else {
    judgeError(given, outcome.error, now, violate);
  }
}

function judgeSuccess(given: Case, refreshed: Refreshed, now: number, violate: Violate): void {
  const { ledger, presented } = given;
  const { access, refreshToken } = refreshed;
  // Both times: a store that went back in between has forgotten what made it theft.
  if (given.mustBeTheft && mustBeTheft(ledger, presented, now)) {
    violate("missed_thefts", `${presented} was taken at ${ledger.generation}`);
  }
  if (given.wasEnded) {
    violate("resurrected", `an answer after ${ledger.endedBy} was acknowledged`);
  }
  const { exp, iat, gen } = access.claims;
  const end = Math.min(ledger.idleEnd, ledger.absoluteEnd);
  if (exp * 1000 > end || (exp - iat) * 1000 > times.access) {
    violate("out_of_bounds", `exp ${exp} of ${iat}, the session ends at ${end}`);
  }
  if (refreshToken === undefined) {
    if (gen > presented) {
      violate("unexplained", `no refresh token of ${gen} for ${presented}`);
    }
    return;
  }
  const parsed = parseRefreshToken(refreshToken);
  const known = ledger.tokens.get(gen) ?? refreshToken;
  if (parsed?.generation !== gen || gen > presented + 1 || known !== refreshToken) {
    violate("forks", `another refresh token of ${gen} for ${presented}`);
  }
  ledger.tokens.set(gen, refreshToken);
}

function judgeError(
  { ledger, task, presented }: Case,
  error: unknown,
  now: number,
  violate: Violate,
) {
  const reason = error instanceof SessionError ? error.reason : String(error);
  if (reason === "AUTH_UNAVAILABLE") {
    if (!task.faulted && !task.joined) {
      violate("unexplained", `${presented} at ${ledger.generation}: an outage without cause`);
    }
    return;
  }
  const expected =
    (reason === "TOKEN_THEFT" && ledger.stolen) ||
    (reason === "SESSION_REVOKED" && ledger.endedBy !== undefined && ledger.endedBy !== "theft") ||
    (reason === "SESSION_EXPIRED" && mayBeExpired(ledger, now)) ||
    // The store drops sessions a day after their end.
    (reason === "SESSION_UNKNOWN" && (ledger.endedBy !== undefined || mayBeExpired(ledger, now)));
  if (!expected) {
    violate("false_logouts", `${reason} for ${presented} at ${ledger.generation}`);
  }
}
