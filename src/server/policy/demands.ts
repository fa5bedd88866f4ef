import { Csrf, type Policy } from "../../../gen/rpcsession/v1/options_pb.ts";
import { assertAuthenticationWord, type Duration, durationMs } from "../../base/checks.ts";
import { type PolicyViolation, SessionError } from "../../base/errors.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifyingCore } from "../core.ts";
import type { Condition } from "./conditions.ts";
import {
  type ClaimDemand,
  type ClaimRules,
  readClaimRules,
  rulesInSchema,
  type Unmet,
  unmetRules,
  violationsOf,
} from "./rules.ts";
import type { ValidateClaims } from "./validate.ts";

/** The demands of a method on the session of a call. */
export interface Demands {
  readonly doAntiCsrfCheck: boolean | undefined;
  /** Milliseconds within which the user must have authenticated; undefined for any time. */
  readonly freshWithin: number | undefined;
  /** The accepted authentication context classes; empty for any. */
  readonly acr: readonly string[];
  readonly claims: readonly ClaimDemand[];
  /** Code of the service that decides; undefined for none. */
  readonly validate: ValidateClaims | undefined;
  /** A condition on the session, the request and the time; undefined for none. */
  readonly allow: Condition | undefined;
}

/** The demands of a caller that asks for a session alone. */
export const noDemands: Omit<Demands, "doAntiCsrfCheck"> = {
  ...{ freshWithin: undefined, acr: [], claims: [], validate: undefined, allow: undefined },
};

/** The demands that one policy makes. */
export interface FoundDemands {
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly freshWithin: number | undefined;
  readonly acr: readonly string[] | undefined;
  readonly claims: readonly ClaimDemand[] | undefined;
  readonly validate: ValidateClaims | undefined;
  /** The text of a condition. */
  readonly allow: string | undefined;
}

/** Demands as they are written in code. */
export interface DemandOptions {
  readonly doAntiCsrfCheck?: boolean;
  readonly freshWithin?: Duration;
  readonly acr?: readonly string[];
  readonly claims?: ClaimRules;
  readonly validate?: ValidateClaims;
  readonly allow?: string;
}

/**
 * Checks the claims of a session against the demands of a method. Waits only to refuse.
 * @throws SessionError `forbidden`, with a violation for each unmet demand
 */
export function checkDemands(
  core: Pick<VerifyingCore, "revocations" | "claims" | "sources">,
  { freshWithin, acr: classes, claims: demands }: Demands,
  token: TokenClaims,
): Promise<never> | undefined {
  if (demands.length > 0) {
    const unmet = unmetRules(demands, token.claims, {
      now: () => core.revocations.storeNow(),
      agesCount: core.sources === undefined,
    });
    if (unmet.length > 0) {
      return refuseClaims(core, token, unmet);
    }
  }
  if (freshWithin !== undefined || classes.length > 0) {
    const last = { sessionId: token.sid, authTime: token.auth_time * 1000, acr: token.acr };
    assertStepUp(core, last, { freshWithin, acr: classes });
  }
  return undefined;
}

async function refuseClaims(
  core: Pick<VerifyingCore, "claims">,
  { sid, claims }: TokenClaims,
  unmet: readonly Unmet[],
): Promise<never> {
  // What the client may read is decided by code of the service, which may fail.
  const shown = await core.claims.forClient(claims).catch(() => undefined);
  throw claimsRejected(sid, violationsOf(unmet, shown));
}

/** The error of a call that the claims of its session do not allow. */
export function claimsRejected(
  sessionId: string,
  violations: readonly PolicyViolation[],
): SessionError {
  return new SessionError("forbidden", "CLAIM_REJECTED", {
    message:
      "the claims of the session do not allow this call; its violations name the requirements",
    ...{ sessionId, violations },
  });
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
    violations.push({
      ...{ claim: "auth_time", requirement, message: "is too long ago", rule: "freshWithin" },
    });
  }
  if (classes.length > 0 && (acr === undefined || !classes.includes(acr))) {
    const requirement = `one of ${classes.join(", ")}`;
    violations.push({ claim: "acr", requirement, message: "is not enough", rule: "acr" });
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
  { freshWithin, acr, claims, validate, allow }: DemandOptions,
  procedure: string,
): void {
  if (acr !== undefined) {
    assertClasses(`methods: the acr of ${procedure}`, acr);
  }
  if (freshWithin !== undefined) {
    durationMs(`methods: the freshWithin of ${procedure}`, freshWithin);
  }
  readClaimRules(claimIn("methods", procedure), claims ?? {});
  if (allow !== undefined && (typeof allow !== "string" || allow === "")) {
    throw new TypeError(
      `methods: the allow of ${procedure} must be a condition, such as "session.claims.role == 'admin'"`,
    );
  }
  if (validate !== undefined && typeof validate !== "function") {
    throw new TypeError(
      `methods: the validate of ${procedure} must be a function, got ${typeof validate}`,
    );
  }
}

/** Names a claim in messages. */
function claimIn(where: string, procedure: string): (claim: string) => string {
  return (claim) => `${where}: the claim "${claim}" of ${procedure}`;
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
  validate,
  allow,
}: DemandOptions): FoundDemands {
  return {
    doAntiCsrfCheck,
    freshWithin: freshWithin && durationMs("freshWithin", freshWithin),
    acr,
    claims: claims && readClaimRules((claim) => `the claim "${claim}"`, claims),
    ...{ validate, allow },
  };
}

/**
 * Reads the demands of a policy in the schema; those that it leaves out are undefined.
 * @throws TypeError if a rule is not valid
 */
export function demandsInSchema(name: string, policy: Policy): FoundDemands {
  return {
    doAntiCsrfCheck: csrfOf(policy),
    freshWithin: freshOf(policy),
    acr: policy.acrValues.length === 0 ? undefined : policy.acrValues,
    claims:
      policy.claims.length === 0
        ? undefined
        : rulesInSchema(claimIn("the policy in the schema", name), policy.claims),
    validate: undefined,
    allow: policy.allow === "" ? undefined : policy.allow,
  };
}

function csrfOf({ csrf }: Policy): boolean | undefined {
  return csrf === Csrf.UNSPECIFIED ? undefined : csrf !== Csrf.SKIP;
}

function freshOf({ freshWithin }: Policy): number | undefined {
  return freshWithin && Number(freshWithin.seconds) * 1000;
}
