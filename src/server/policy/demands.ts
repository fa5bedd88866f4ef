import { Csrf, type Policy } from "../../../gen/rpcsession/v1/options_pb.ts";
import { assertAuthenticationWord, type Duration, durationMs } from "../../base/checks.ts";
import { type PolicyViolation, SessionError } from "../../base/errors.ts";
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
  /** The accepted authentication context classes; empty for any. */
  readonly acr: readonly string[];
  readonly claims: readonly ClaimDemand[];
}

/** The demands that one policy makes. */
export interface FoundDemands {
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly freshWithin: number | undefined;
  readonly acr: readonly string[] | undefined;
  readonly claims: readonly ClaimDemand[] | undefined;
}

/** Demands as they are written in code. */
export interface DemandOptions {
  readonly doAntiCsrfCheck?: boolean;
  readonly freshWithin?: Duration;
  readonly acr?: readonly string[];
  readonly claims?: Readonly<Record<string, readonly string[]>>;
}

/**
 * Checks the claims of a session against the demands of a method.
 * @throws SessionError `forbidden`, with a violation for each unmet demand
 */
export function checkDemands(
  core: Pick<VerifyingCore, "revocations">,
  { freshWithin, acr: classes, claims: demands }: Demands,
  { claims, sid, auth_time, acr }: TokenClaims,
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
  if (freshWithin !== undefined || classes.length > 0) {
    const last = { sessionId: sid, authTime: auth_time * 1000, acr };
    assertStepUp(core, last, { freshWithin, acr: classes });
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

/** How the user of a session authenticated last. */
export interface LastAuthentication {
  readonly sessionId: string;
  /** Milliseconds since 1970 by the store's clock. */
  readonly authTime: number;
  readonly acr?: string | undefined;
}

/**
 * Checks that a user has authenticated recently enough, and in a way that is enough. An error names
 * all that is demanded, because the next authentication replaces the last one as a whole.
 * @throws SessionError `forbidden`, `STEP_UP_REQUIRED` (RFC 9470)
 */
export function assertStepUp(
  core: Pick<VerifyingCore, "revocations">,
  { sessionId, authTime, acr }: LastAuthentication,
  { freshWithin, acr: classes }: Pick<Demands, "freshWithin" | "acr">,
): void {
  const violations: PolicyViolation[] = [];
  // Token times are truncated to whole seconds, so allow one extra second.
  if (freshWithin !== undefined && core.revocations.storeNow() - authTime >= freshWithin + 1000) {
    const requirement = `within ${freshWithin / 1000}s`;
    violations.push({ claim: "auth_time", requirement, message: "is too long ago" });
  }
  if (classes.length > 0 && (acr === undefined || !classes.includes(acr))) {
    const requirement = `one of ${classes.join(", ")}`;
    violations.push({ claim: "acr", requirement, message: "is not enough" });
  }
  if (violations.length > 0) {
    const needed = violations.map(({ claim, requirement }) =>
      claim === "acr" ? `with ${requirement}` : requirement,
    );
    throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
      message: `this call requires the user to have authenticated ${needed.join(" and ")}; authenticate again`,
      sessionId,
      violations,
      stepUp: { maxAge: freshWithin, acrValues: classes },
    });
  }
}

/** @throws TypeError if the demands of a policy in code are not valid */
export function assertDemandOptions(
  { freshWithin, acr, claims }: DemandOptions,
  procedure: string,
): void {
  if (acr !== undefined) {
    assertClasses(`methods: the acr of ${procedure}`, acr);
  }
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

/** @throws TypeError if these are not authentication context classes */
export function assertClasses(name: string, classes: readonly string[]): void {
  if (!Array.isArray(classes)) {
    throw new TypeError(`${name} must be a list of strings, such as ["phr"]`);
  }
  for (const one of classes) {
    assertAuthenticationWord(name, one);
  }
}

/** Reads the demands of a policy in code; those that it leaves out are undefined. */
export function demandsInCode({
  doAntiCsrfCheck,
  freshWithin,
  acr,
  claims,
}: DemandOptions): FoundDemands {
  return {
    doAntiCsrfCheck,
    freshWithin: freshWithin && durationMs("freshWithin", freshWithin),
    acr,
    claims: claims && Object.entries(claims).map(([claim, anyOf]) => ({ claim, anyOf })),
  };
}

/** Reads the demands of a policy in the schema; those that it leaves out are undefined. */
export function demandsInSchema(policy: Policy): FoundDemands {
  return {
    doAntiCsrfCheck: csrfOf(policy),
    freshWithin: freshOf(policy),
    acr: policy.acrValues.length === 0 ? undefined : policy.acrValues,
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
