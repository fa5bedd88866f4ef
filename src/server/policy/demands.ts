import { Csrf, type Policy } from "../../../gen/rpcsession/v1/options_pb.ts";
import { type Duration, durationMs } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import type { JsonValue } from "../../base/json.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifyingCore } from "../core.ts";

/** When a user proved who they are, and how long ago that may be. */
export interface AuthenticationAge {
  readonly session: string;
  /** Milliseconds since 1970 by the store's clock. */
  readonly authTime: number;
  /** Milliseconds. */
  readonly within: number;
}

/**
 * Checks that the user proved who they are not too long ago.
 * @throws SessionError `forbidden`, `STEP_UP_REQUIRED` (RFC 9470)
 */
export function assertFresh(
  core: Pick<VerifyingCore, "revocations">,
  { session, authTime, within }: AuthenticationAge,
): void {
  // Times in tokens are whole seconds, cut off: of the one in which it was some may be left.
  if (core.revocations.storeNow() - authTime < within + 1000) {
    return;
  }
  const requirement = `within ${within / 1000}s`;
  throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
    message: `the user must prove again who they are; it must have been ${requirement}`,
    sessionId: session,
    violations: [{ claim: "auth_time", requirement, message: "is too long ago" }],
  });
}

/** What one claim must say. */
export interface ClaimDemand {
  readonly claim: string;
  /** It is, or as a list contains, one of these; with none of them it only has to be there. */
  readonly anyOf: readonly string[];
}

/** What a method demands of a session beside that there is one. */
export interface Demands {
  readonly doAntiCsrfCheck: boolean | undefined;
  /** Milliseconds since the user proved who they are; undefined for any time. */
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[];
}

/** Demands as they are written in code. */
export interface DemandOptions {
  readonly doAntiCsrfCheck?: boolean;
  readonly freshWithin?: Duration;
  readonly claims?: Readonly<Record<string, readonly string[]>>;
}

/** Resolves each demand by itself: code, then method option, then service option. */
export function demandsOf(
  code: DemandOptions | undefined,
  ofMethod: Policy | undefined,
  ofService: Policy | undefined,
): Demands {
  const options = [ofMethod, ofService];
  return {
    doAntiCsrfCheck: code?.doAntiCsrfCheck ?? first(options, csrfOf),
    freshWithin:
      code?.freshWithin === undefined
        ? first(options, freshOf)
        : durationMs("freshWithin", code.freshWithin),
    claims: code?.claims === undefined ? (first(options, claimsOf) ?? []) : inCode(code.claims),
  };
}

/** @throws TypeError when code demands what is no demand */
export function assertDemands({ freshWithin, claims }: DemandOptions, procedure: string): void {
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

/**
 * Holds the claims of a session against the demands of a method.
 * @throws SessionError `forbidden`, with every demand that is not met
 */
export function checkDemands(
  core: Pick<VerifyingCore, "revocations">,
  { freshWithin, claims: demands }: Demands,
  claims: TokenClaims,
): void {
  const said = (claim: string) =>
    Object.hasOwn(claims.claims, claim) ? claims.claims[claim] : undefined;
  const unmet = demands.filter(({ claim, anyOf }) => !meets(said(claim), anyOf));
  if (unmet.length > 0) {
    throw new SessionError("forbidden", "CLAIM_REJECTED", {
      message: "the claims of the session do not allow this call",
      sessionId: claims.sid,
      violations: unmet.map(({ claim, anyOf }) => ({
        claim,
        requirement: anyOf.length === 0 ? "present" : `one of ${anyOf.join(", ")}`,
        message: "does not meet the policy of the method",
      })),
    });
  }
  if (freshWithin !== undefined) {
    const authTime = claims.auth_time * 1000;
    assertFresh(core, { session: claims.sid, authTime, within: freshWithin });
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

function first<T>(
  policies: readonly (Policy | undefined)[],
  read: (policy: Policy) => T | undefined,
): T | undefined {
  for (const policy of policies) {
    const found = policy && read(policy);
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
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

function inCode(claims: Readonly<Record<string, readonly string[]>>): readonly ClaimDemand[] {
  return Object.entries(claims).map(([claim, anyOf]) => ({ claim, anyOf }));
}
