import { type PolicyViolation, SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { isPromise } from "../../base/promises.ts";
import type { VerifiedSession } from "../../engine/session.ts";

/** Why code of the service refuses the claims of a session. It goes to the client. */
export interface ClaimReason {
  /** The name of the claim. */
  readonly claim: string;
  /** What was expected of it, for example "one of your own projects". Must not contain a secret. */
  readonly requirement: string;
  /** Why the claim does not meet it, for a developer. Default "does not meet the policy of the method". */
  readonly message?: string;
}

/**
 * Decides whether claims allow a call. It runs before the body of the request is read, on every call, so
 * it must be fast: it cannot wait. What it throws is a fault of the service, and the call is refused.
 *
 * @returns undefined to allow the call; otherwise one reason or several
 */
export type ValidateClaims<Claims extends object = JsonObject> = (
  claims: Claims,
  session: VerifiedSession<Claims>,
) => ClaimReason | readonly ClaimReason[] | undefined;

/**
 * Runs code of the service on the claims of a session.
 * @returns the violations; empty if the code allows the call
 * @throws SessionError `general` if the code throws, or returns anything else
 */
export function validateClaims(
  validate: ValidateClaims,
  session: VerifiedSession,
): readonly PolicyViolation[] {
  let returned: unknown;
  try {
    returned = validate(session.claims, session);
  } catch (cause) {
    throw fault("the function validate of a policy threw an error", cause);
  }
  if (returned === undefined) {
    return [];
  }
  if (isPromise(returned)) {
    // It refuses the call below. Its rejection must not end the process.
    Promise.resolve(returned).catch(() => {});
  }
  const reasons: readonly unknown[] = Array.isArray(returned) ? returned : [returned];
  return reasons.map((reason): PolicyViolation => {
    if (!isReason(reason)) {
      throw fault(
        "the function validate of a policy must return undefined, a reason such as { claim, requirement }, or a list of reasons; it cannot be async",
      );
    }
    const { claim, requirement, message = "does not meet the policy of the method" } = reason;
    return { claim, requirement, message, rule: "validate" };
  });
}

function isReason(value: unknown): value is ClaimReason {
  const { claim, requirement, message } = (value ?? {}) as Partial<
    Record<keyof ClaimReason, unknown>
  >;
  return (
    typeof claim === "string" &&
    typeof requirement === "string" &&
    (message === undefined || typeof message === "string")
  );
}

function fault(message: string, cause?: unknown): SessionError {
  return new SessionError("general", "INTERNAL", { message, cause });
}
