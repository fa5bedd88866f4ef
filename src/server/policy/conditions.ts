import type { DescMethod, Message } from "@bufbuild/protobuf";
import { type PolicyViolation, SessionError } from "../../base/errors.ts";
import type { ClaimsSchema } from "../../base/json.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { ClaimDemand } from "./rules.ts";

/** What a condition reads. */
export interface ConditionFacts {
  readonly session: VerifiedSession;
  /** Milliseconds since 1970 by the store's clock. */
  readonly now: number;
  /** The request of the call, or one message of its stream; undefined before it is parsed. */
  readonly request: Message | undefined;
}

/** A condition of a policy, checked against the message of its method and the schema of the claims. */
export interface Condition {
  /** As the policy states it. */
  readonly source: string;
  /** Whether it reads the request; then it is checked for every message, after parsing. */
  readonly readsRequest: boolean;
  /** The claims that it reads; "any" if the text does not say which, as in `session.claims[request.key]`. */
  readonly claims: readonly string[] | "any";
  /** Whether it holds. Does not wait. Throws if it cannot be evaluated, which refuses the call. */
  holds(facts: ConditionFacts): boolean;
}

/** A language of conditions: `cel()` of `rpc-session/cel`. */
export interface ConditionLanguage {
  /**
   * Parses and checks a condition.
   * @throws TypeError that says what is wrong, and in which column
   */
  compile(
    source: string,
    context: { readonly method: DescMethod; readonly claims: ClaimsSchema | undefined },
  ): Condition;
}

/**
 * Returns how to compile conditions; undefined without a language.
 * @throws TypeError if it is not a language
 */
export function compilerOf(
  language: ConditionLanguage | undefined,
  claims: ClaimsSchema | undefined,
): ((source: string, method: DescMethod) => Condition) | undefined {
  if (language === undefined) {
    return undefined;
  }
  if (typeof language?.compile !== "function") {
    throw new TypeError("conditions must be cel() of rpc-session/cel");
  }
  return (source, method) => language.compile(source, { method, claims });
}

/** @throws SessionError `forbidden`, with the condition as its violation, unless it holds */
export function assertCondition(condition: Condition, facts: ConditionFacts): void {
  let message = "the condition does not hold";
  try {
    if (condition.holds(facts)) {
      return;
    }
  } catch {
    // What is missing in a request or a session must not allow the call. The error may hold values.
    message = "the condition could not be evaluated";
  }
  const violation: PolicyViolation = {
    ...{ claim: "allow", requirement: condition.source, rule: "allow", message },
  };
  throw new SessionError("forbidden", "CLAIM_REJECTED", {
    message:
      "a condition of the policy does not allow this call; its violation names the condition",
    sessionId: facts.session.id,
    violations: [violation],
  });
}

/**
 * The claims that a condition reads, as demands that any value meets: a source may have to fetch them.
 * @param sourced the claims that have a source, where any may be read
 */
export function readBy(
  claims: Condition["claims"],
  sourced: ReadonlySet<string> | undefined,
): readonly ClaimDemand[] {
  const read = claims === "any" ? [...(sourced ?? [])] : claims;
  return read.map((claim) => ({ claim, anyOf: [], allowMissing: true }));
}
