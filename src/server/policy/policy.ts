import { type DescMethod, getOption, hasOption } from "@bufbuild/protobuf";
import {
  Auth,
  Check,
  ForeignBearer,
  method_policy,
  type Policy,
  Proof,
  Stream,
  service_policy,
} from "../../../gen/rpcsession/v1/options_pb.ts";
import { type RevocationCheck, revocationChecks } from "../../engine/revocation/check.ts";
import { type Condition, readBy } from "./conditions.ts";
import {
  assertClasses,
  type Demands,
  demandsInCode,
  demandsInSchema,
  type FoundDemands,
} from "./demands.ts";
import {
  alternatives,
  assertCheckable,
  type CheckDefaults,
  type CodePolicies,
  type ForeignBearerPolicy,
  type MethodPolicyOptions,
  PoliciesInCode,
  type PolicyOptions,
  type ProofPolicy,
  procedureOf,
  type StreamPolicy,
} from "./in-code.ts";
import { assertSourced, type ClaimDemand } from "./rules.ts";
import type { ValidateClaims } from "./validate.ts";

export type { Condition, ConditionFacts, ConditionLanguage } from "./conditions.ts";
export {
  type ForeignBearerPolicy,
  type MethodPolicyOptions,
  type ProofPolicy,
  procedureOf,
  type StreamPolicy,
} from "./in-code.ts";
export type { ClaimDemand, ClaimRule, ClaimRules, ClaimValue } from "./rules.ts";
export type { ClaimReason, ValidateClaims } from "./validate.ts";

/** The resolved policy of one method. */
export interface MethodPolicy {
  readonly auth: "required" | "optional" | "none";
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly check: RevocationCheck;
  /** Milliseconds; undefined if the user may have authenticated at any time. */
  readonly freshWithin: number | undefined;
  /** The accepted authentication context classes; empty for any. */
  readonly acr: readonly string[];
  readonly claims: readonly ClaimDemand[];
  /** Code of the service that decides on the claims; undefined for none. */
  readonly validate: ValidateClaims | undefined;
  /** A condition; undefined for none. */
  readonly allow: Condition | undefined;
  /** The claims that its rules, its code and its condition read; undefined for those of its rules alone. */
  readonly looksAt: readonly ClaimDemand[] | undefined;
  readonly foreignBearer: ForeignBearerPolicy;
  /** Undefined if calls need no proof of the key of their session. */
  readonly proof: "required" | undefined;
  /** Undefined if the method does not stream. */
  readonly stream: StreamPolicy | undefined;
  /** Where `auth` was set. */
  readonly source: "code" | "method option" | "service option" | "default";
}

/** One method in the result of `sessions.describe`. */
export interface MethodDescription extends MethodPolicy {
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
}

/** The policies of all methods of an instance. Each is resolved once, on first use. */
export class Policies {
  readonly #options: PolicyOptions;
  readonly #inCode: PoliciesInCode;
  readonly #resolved = new WeakMap<DescMethod, MethodPolicy>();

  /** @throws TypeError if code names a method twice, or a policy in code is not valid */
  constructor(options: PolicyOptions) {
    this.#options = options;
    this.#inCode = new PoliciesInCode(options);
  }

  /**
   * Returns the policy of a method. Each part comes from the narrowest name that sets it: the method,
   * its service, its package, everything; else it is the default. Of the same width, code comes before
   * the schema.
   *
   * @throws TypeError if the options of the schema contradict each other or are unknown
   */
  of(method: DescMethod): MethodPolicy {
    let policy = this.#resolved.get(method);
    if (policy === undefined) {
      policy = resolve(method, this.#inCode.of(method), this.#options);
      this.#resolved.set(method, policy);
    }
    return policy;
  }

  /**
   * Checks all policies against the methods that are served.
   * @throws TypeError if code names a method that is not served, or a policy is not valid
   */
  assertServed(methods: readonly DescMethod[]): void {
    for (const method of methods) {
      this.of(method);
    }
    const missing = this.#inCode.unserved(methods);
    if (missing.length > 0) {
      throw new TypeError(
        `"public" or "methods" names ${missing.join(", ")}, but the router serves no such method; remove the name or register the service`,
      );
    }
  }

  describe(methods: readonly DescMethod[]): MethodDescription[] {
    return methods.map((method) => ({ procedure: procedureOf(method), ...this.of(method) }));
  }

  /**
   * Checks whether a call whose method is unknown may demand an anti-CSRF token.
   * @throws TypeError if it does, and a service that only verifies cannot check it
   */
  assertVerifies(doAntiCsrfCheck: boolean | undefined): void {
    if (doAntiCsrfCheck === true && this.#options.hasStore === false) {
      throw new TypeError(
        "doAntiCsrfCheck: true needs the secret of the issuer, which a service that only verifies does not have; leave it out",
      );
    }
  }

  /**
   * Returns the revocation check of a call whose method is unknown.
   * @throws TypeError if the check is not valid, or needs a store and there is none
   */
  checkOf(asked: RevocationCheck | undefined): RevocationCheck {
    const { check: byDefault = revocationChecks[0], hasStore = true } = this.#options;
    const check = asked ?? byDefault;
    if (!revocationChecks.includes(check)) {
      throw new TypeError(`check must be ${alternatives(revocationChecks)}, got "${check}"`);
    }
    if (!hasStore && check !== "none") {
      throw new TypeError(
        `check: "${check}" needs a store, which a service that only verifies does not have; leave it out`,
      );
    }
    return check;
  }
}

/** @throws TypeError if the condition is wrong, or there is nothing to read it with */
function conditionOf(
  method: DescMethod,
  source: string | undefined,
  { compile }: CheckDefaults,
): Condition | undefined {
  if (source === undefined) {
    return undefined;
  }
  const name = procedureOf(method);
  if (compile === undefined) {
    throw new TypeError(
      `the policy of ${name} has the condition allow, but nothing reads it; install @marcbachmann/cel-js and set the option conditions: cel() of rpc-session/cel`,
    );
  }
  try {
    return compile(source, method);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TypeError(`the policy of ${name} has a wrong condition allow: ${why}`, { cause });
  }
}

/** What one name or option says about a method; the members that it leaves out are undefined. */
interface Layer {
  /** 0: of the method; 1: of its service; 2: of more than its service. */
  readonly width: 0 | 1 | 2;
  readonly source: MethodPolicy["source"];
  readonly auth: MethodPolicy["auth"] | undefined;
  readonly demands: FoundDemands;
  readonly check: RevocationCheck | undefined;
  readonly stream: StreamPolicy | undefined;
  readonly foreignBearer: ForeignBearerPolicy | undefined;
  readonly proof: ProofPolicy | undefined;
}

/**
 * The public methods of SessionService. Not in its schema: clients import that, and would carry the
 * schema of the options as well.
 */
const publicOwn: ReadonlySet<string> = new Set([
  "rpcsession.v1.SessionService/Refresh",
  "rpcsession.v1.SessionService/SignOut",
]);

function resolve(method: DescMethod, code: CodePolicies, defaults: CheckDefaults): MethodPolicy {
  const procedure = procedureOf(method);

  // 1. Everything that names the method: the narrower name first, and code before the schema.
  const layers = [
    ...inCode(0, code.ofMethod),
    ...(publicOwn.has(procedure) ? inCode(0, { auth: "none" }, "default") : []),
    ...inSchema(procedure, hasOption(method, method_policy) && getOption(method, method_policy)),
    ...inCode(1, code.ofService),
    ...inSchema(
      method.parent.typeName,
      hasOption(method.parent, service_policy) && getOption(method.parent, service_policy),
      true,
    ),
    ...code.wider.flatMap((policy) => inCode(2, policy)),
  ];
  const first = <T>(read: (layer: Layer) => T | undefined, from = layers): T | undefined =>
    from.map(read).find((value) => value !== undefined);

  // 2. Whether it needs a session.
  const decides = layers.find(({ auth }) => auth !== undefined);
  const { auth = "required", source = "default" } = decides ?? {};

  // 3. Its demands. A method that is public does not inherit those of wider names.
  const isPublic = auth === "none";
  const demanding = layers.filter(({ width }) => !isPublic || width <= (decides?.width ?? 0));
  const demands: Demands = {
    doAntiCsrfCheck: first((layer) => layer.demands.doAntiCsrfCheck, demanding),
    freshWithin: first((layer) => layer.demands.freshWithin, demanding),
    acr: first((layer) => layer.demands.acr, demanding) ?? [],
    claims: first((layer) => layer.demands.claims, demanding) ?? [],
    validate: first((layer) => layer.demands.validate, demanding),
    allow: conditionOf(
      method,
      first((layer) => layer.demands.allow, demanding),
      defaults,
    ),
  };
  const { freshWithin, acr, claims, validate, allow } = demands;
  const proof = first((layer) => layer.proof, demanding);
  if (isPublic && proof === "required") {
    throw new TypeError(
      `the policy of ${procedure} requires a proof, but its auth is "none", which ignores sessions; set its auth to "required"`,
    );
  }
  const demandsClaims = claims.length > 0 || validate !== undefined || allow !== undefined;
  if (isPublic && (freshWithin !== undefined || acr.length > 0 || demandsClaims)) {
    throw new TypeError(
      `the policy of ${procedure} demands claims, a recent sign-in or an acr, but its auth is "none", which ignores sessions; set its auth to "required"`,
    );
  }

  assertSourced(`the policy of ${procedure}`, claims, defaults.sourced);

  // 4. How it is checked.
  const asked = first((layer) => layer.check);
  assertCheckable(procedure, { check: asked, doAntiCsrfCheck: demands.doAntiCsrfCheck }, defaults);
  return {
    ...{ auth, source, ...demands },
    looksAt: looksAt(claims, { validate, allow }, defaults.sourced),
    check: asked ?? defaults.check ?? revocationChecks[0],
    stream: streamOf(method, layers),
    foreignBearer: first((layer) => layer.foreignBearer) ?? "refuse",
    proof: proof === "required" ? proof : undefined,
  };
}

/** The claims that a source must keep young. Nobody knows which ones code reads, so it may read any. */
function looksAt(
  claims: readonly ClaimDemand[],
  { validate, allow }: Pick<Demands, "validate" | "allow">,
  sourced: ReadonlySet<string> | undefined,
): readonly ClaimDemand[] | undefined {
  const read = validate === undefined ? allow?.claims : "any";
  return read && [...claims, ...readBy(read, sourced)];
}

function inCode(
  width: Layer["width"],
  policy: MethodPolicyOptions | undefined,
  source: Layer["source"] = "code",
): Layer[] {
  if (policy === undefined) {
    return [];
  }
  const { auth, check, stream, foreignBearer, proof } = policy;
  const demands = demandsInCode(policy);
  return [{ width, source, auth, demands, check, stream, foreignBearer, proof }];
}

/** @throws TypeError if the policy has a value that this version does not support */
function inSchema(name: string, policy: Policy | false, isOfService = false): Layer[] {
  if (policy === false) {
    return [];
  }
  assertKnown(name, policy);
  return [
    {
      width: isOfService ? 1 : 0,
      source: isOfService ? "service option" : "method option",
      auth: authNames[policy.auth],
      demands: demandsInSchema(name, policy),
      check: checkNames[policy.check],
      stream: streamNames[policy.stream],
      foreignBearer: foreignBearerNames[policy.foreignBearer],
      proof: proofNames[policy.proof],
    },
  ];
}

/** @throws TypeError if the method does not stream, and a policy of its own sets `stream` */
function streamOf(method: DescMethod, layers: readonly Layer[]): StreamPolicy | undefined {
  const decides = layers.find(({ stream }) => stream !== undefined);
  if (method.methodKind !== "unary") {
    return decides?.stream ?? "endOnExpiry";
  }
  if (decides?.width === 0) {
    throw new TypeError(
      `the policy of ${procedureOf(method)} sets stream, but the method does not stream; remove it`,
    );
  }
  return undefined;
}

const authNames: Readonly<Record<number, MethodPolicy["auth"]>> = {
  [Auth.REQUIRED]: "required",
  [Auth.OPTIONAL]: "optional",
  [Auth.NONE]: "none",
};

const checkNames: Readonly<Record<number, RevocationCheck>> = {
  [Check.FEED]: "feed",
  [Check.STRICT]: "strict",
  [Check.NONE]: "none",
};

const foreignBearerNames: Readonly<Record<number, ForeignBearerPolicy>> = {
  [ForeignBearer.REFUSE]: "refuse",
  [ForeignBearer.IGNORE]: "ignore",
};

const proofNames: Readonly<Record<number, ProofPolicy>> = {
  [Proof.ON_REFRESH]: "onRefresh",
  [Proof.REQUIRED]: "required",
};

const streamNames: Readonly<Record<number, StreamPolicy>> = {
  [Stream.END_ON_EXPIRY]: "endOnExpiry",
  [Stream.END_ON_REVOKE]: "endOnRevoke",
  [Stream.NEVER]: "never",
};

/** @throws TypeError if a policy of the schema has a value that this version does not support */
function assertKnown(name: string, policy: Policy): void {
  const values = [
    ["check", policy.check, checkNames],
    ["auth", policy.auth, authNames],
    ["stream", policy.stream, streamNames],
    ["foreign_bearer", policy.foreignBearer, foreignBearerNames],
    ["proof", policy.proof, proofNames],
  ] as const;
  assertClasses(`the policy of ${name} sets acr_values: each`, policy.acrValues);
  for (const [member, value, names] of values) {
    // 0 is UNSPECIFIED in all of these enums.
    if (value !== 0 && names[value] === undefined) {
      throw new TypeError(
        `the policy of ${name} sets ${member} to the unknown value ${value}; upgrade rpc-session or change the schema`,
      );
    }
  }
}
