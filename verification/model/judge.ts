import { SessionError } from "../../src/base/errors.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import type { Task } from "./gates.ts";
import type { Tokens } from "./jar.ts";
import { mayBeExpired, mustBeTheft, type SessionLedger, times } from "./ledger.ts";
import type { ViolationKind } from "./tally.ts";

/** The outcome of a refresh. */
export type Outcome = { readonly refreshed: Refreshed } | { readonly error: unknown };

type Violate = (kind: ViolationKind, message: string) => void;

/** The facts by which the outcome of a refresh is judged. */
export interface Case {
  readonly ledger: SessionLedger;
  readonly task: Task;
  readonly presented: number;
  /** Whether the session is bound to a key that the request has not proven. */
  readonly isUnproven: boolean;
  /** The ledger when the request reached the server. */
  readonly mustBeTheft: boolean;
  readonly wasEnded: boolean;
}

/** Records the facts of a refresh that reaches a server now. */
export function openCase(
  { ledger, generation: presented }: Tokens,
  task: Task,
  { now, provenKey }: { readonly now: number; readonly provenKey: string | undefined },
): Case {
  return {
    ledger,
    task,
    presented,
    isUnproven: ledger.boundKey !== null && ledger.boundKey !== provenKey,
    mustBeTheft: mustBeTheft(ledger, presented, now),
    wasEnded: ledger.acknowledged,
  };
}

/** Reports the violations in the outcome of a refresh. */
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
  if (given.isUnproven) {
    violate("bound_thief_refreshes", `generation ${presented} was accepted without the key`);
  }
  // Check both times: a store that was restored in between has lost the evidence of the theft.
  if (given.mustBeTheft && mustBeTheft(ledger, presented, now)) {
    violate(
      "missed_thefts",
      `generation ${presented} was accepted at generation ${ledger.generation}`,
    );
  }
  if (given.wasEnded) {
    violate("resurrected", `a refresh succeeded after ${ledger.endedBy} was acknowledged`);
  }
  const { exp, iat, gen } = access.claims;
  const end = Math.min(ledger.idleEnd, ledger.absoluteEnd);
  if (exp * 1000 > end || (exp - iat) * 1000 > times.access) {
    violate("out_of_bounds", `exp ${exp}, iat ${iat}, but the session ends at ${end}`);
  }
  if (refreshToken === undefined) {
    if (gen > presented) {
      violate("unexplained", `no refresh token of generation ${gen} for generation ${presented}`);
    }
    return;
  }
  const parsed = parseRefreshToken(refreshToken);
  const known = (ledger.eitherFormat ? undefined : ledger.tokens.get(gen)) ?? refreshToken;
  if (parsed?.generation !== gen || gen > presented + 1 || known !== refreshToken) {
    violate("forks", `a different refresh token of generation ${gen} for generation ${presented}`);
  }
  ledger.tokens.set(gen, refreshToken);
}

function judgeError(
  { ledger, task, presented, isUnproven }: Case,
  error: unknown,
  now: number,
  violate: Violate,
) {
  const reason = error instanceof SessionError ? error.reason : String(error);
  if (reason === "AUTH_UNAVAILABLE") {
    if (!task.faulted && !task.joined) {
      violate(
        "unexplained",
        `generation ${presented} at generation ${ledger.generation}: an outage without a cause`,
      );
    }
    return;
  }
  const expected =
    (isUnproven && (reason === "PROOF_REQUIRED" || reason === "PROOF_INVALID")) ||
    (reason === "TOKEN_THEFT" && ledger.stolen) ||
    // Once the salt is gone, only the last token of format 1 is proven; see "Format 1" in the design.
    (reason === "TOKEN_INVALID" && ledger.stolen && isSalted(ledger, presented)) ||
    (reason === "SESSION_REVOKED" && ledger.endedBy !== undefined && ledger.endedBy !== "theft") ||
    (reason === "SESSION_EXPIRED" && mayBeExpired(ledger, now)) ||
    // The store deletes sessions a day after their end.
    (reason === "SESSION_UNKNOWN" && (ledger.endedBy !== undefined || mayBeExpired(ledger, now)));
  if (!expected) {
    violate(
      "false_logouts",
      `${reason} for generation ${presented} at generation ${ledger.generation}`,
    );
  }
}

/** Whether the token of an outdated generation has format 1. */
function isSalted({ tokens, generation }: SessionLedger, presented: number): boolean {
  const token = tokens.get(presented);
  return (
    presented < generation - 1 && token !== undefined && parseRefreshToken(token)?.format === 1
  );
}
