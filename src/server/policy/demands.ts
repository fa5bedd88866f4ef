import { Csrf, type Policy } from "../../../gen/rpcsession/v1/options_pb.ts";
import { type Duration, durationMs } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import type { JsonValue } from "../../base/json.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifyingCore } from "../core.ts";

/** A demand on a claim of the session. */
export interface ClaimDemand {
  readonly claim: string;
  /** The claim must equal one of these values or, if it is a list, contain one. Empty: it must only exist. */
  readonly anyOf: readonly string[];
}

/** The demands of a method on the session of a call. */
export interface Demands {
  readonly doAntiCsrfCheck: boolean | undefined;
  /** Milliseconds within which the user must have authenticated; undefined for any time. */
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[];
}

/** The demands that one policy makes. */
export interface FoundDemands {
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[] | undefined;
}

/** Demands as they are written in code. */
export interface DemandOptions {
  readonly doAntiCsrfCheck?: boolean;
  readonly freshWithin?: Duration;
  readonly claims?: Readonly<Record<string, readonly string[]>>;
}

/**
 * Checks the claims of a session against the demands of a method.
 * @throws SessionError `forbidden`, with a violation for each unmet demand
 */
export function checkDemands(
  core: Pick<VerifyingCore, "revocations">,
  { freshWithin, claims: demands }: Demands,
  { claims, sid, auth_time }: TokenClaims,
): void {
  const claimOf = (claim: string) => (Object.hasOwn(claims, claim) ? claims[claim] : undefined);
  const unmet = demands.filter(({ claim, anyOf }) => !meets(claimOf(claim), anyOf));
  if (unmet.length > 0) {
    throw new SessionError("forbidden", "CLAIM_REJECTED", {
      message:
        "the claims of the session do not allow this call; its violations name the requirements",
      sessionId: sid,
      violations: unmet.map(({ claim, anyOf }) => ({
        claim,
        requirement: anyOf.length === 0 ? "present" : `one of ${anyOf.join(", ")}`,
        message: "does not meet the policy of the method",
      })),
    });
  }
  if (freshWithin !== undefined) {
    assertFresh(core, { sessionId: sid, authTime: auth_time * 1000, within: freshWithin });
  }
}

function meets(value: JsonValue | undefined, anyOf: readonly string[]): boolean {
  if (value === undefined || value === null) {
    return false;
  }
  const values = Array.isArray(value) ? value : [value];
  return (
    anyOf.length === 0 ||
    values.some((one) => typeof one !== "object" && anyOf.includes(String(one)))
  );
}

/** When the user of a session authenticated, and how long ago that may be. */
export interface AuthenticationAge {
  readonly sessionId: string;
  /** Milliseconds since 1970 by the store's clock. */
  readonly authTime: number;
  /** Milliseconds. */
  readonly within: number;
}

/**
 * Checks that a user has authenticated recently enough.
 * @throws SessionError `forbidden`, `STEP_UP_REQUIRED` (RFC 9470)
 */
export function assertFresh(
  core: Pick<VerifyingCore, "revocations">,
  { sessionId, authTime, within }: AuthenticationAge,
): void {
  // Token times are truncated to whole seconds, so allow one extra second.
  if (core.revocations.storeNow() - authTime < within + 1000) {
    return;
  }
  const requirement = `within ${within / 1000}s`;
  throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
    message: `this call requires the user to have authenticated ${requirement}; authenticate again`,
    sessionId,
    violations: [{ claim: "auth_time", requirement, message: "is too long ago" }],
  });
}

/** @throws TypeError if the demands of a policy in code are not valid */
export function assertDemandOptions(
  { freshWithin, claims }: DemandOptions,
  procedure: string,
): void {
  if (freshWithin !== undefined) {
    durationMs(`methods: the freshWithin of ${procedure}`, freshWithin);
  }
  for (const [claim, anyOf] of Object.entries(claims ?? {})) {
    if (!Array.isArray(anyOf) || anyOf.some((value) => typeof value !== "string")) {
      throw new TypeError(
        `methods: the claim "${claim}" of ${procedure} must have a list of strings, such as { role: ["admin"] }`,
      );
    }
  }
}

/** Reads the demands of a policy in code; those that it leaves out are undefined. */
export function demandsInCode({
  doAntiCsrfCheck,
  freshWithin,
  claims,
}: DemandOptions): FoundDemands {
  return {
    doAntiCsrfCheck,
    freshWithin: freshWithin && durationMs("freshWithin", freshWithin),
    claims: claims && Object.entries(claims).map(([claim, anyOf]) => ({ claim, anyOf })),
  };
}

/** Reads the demands of a policy in the schema; those that it leaves out are undefined. */
export function demandsInSchema(policy: Policy): FoundDemands {
  return {
    doAntiCsrfCheck: csrfOf(policy),
    freshWithin: freshOf(policy),
    claims: claimsOf(policy),
  };
}

function csrfOf({ csrf }: Policy): boolean | undefined {
  return csrf === Csrf.UNSPECIFIED ? undefined : csrf !== Csrf.SKIP;
}

function freshOf({ freshWithin }: Policy): number | undefined {
  return freshWithin && Number(freshWithin.seconds) * 1000;
}

function claimsOf({ claims }: Policy): readonly ClaimDemand[] | undefined {
  return claims.length === 0 ? undefined : claims.map(({ claim, anyOf }) => ({ claim, anyOf }));
}
