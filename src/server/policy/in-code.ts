import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { assertMembers, type Duration } from "../../base/checks.ts";
import type { JsonObject } from "../../base/json.ts";
import { type RevocationCheck, revocationChecks } from "../../engine/revocation/check.ts";
import type { Condition } from "./conditions.ts";
import { assertDemandOptions } from "./demands.ts";
import type { ClaimRules } from "./rules.ts";
import type { ValidateClaims } from "./validate.ts";

/** The policy of a method, written in code. Every member overrides the one in the schema. */
export interface MethodPolicyOptions<Claims extends object = JsonObject> {
  /**
   * Whether the method requires a session. Default "required".
   *
   * - `required`: a call without a valid session is refused.
   * - `optional`: a call may come without tokens. If it presents tokens, they must be valid.
   * - `none`: tokens are ignored.
   */
  readonly auth?: "required" | "optional" | "none";
  /**
   * Whether cookie sessions must present their anti-CSRF token. A service that only verifies refuses
   * true, because it cannot check the token. Default: on all calls but Connect GET.
   */
  readonly doAntiCsrfCheck?: boolean;
  /**
   * How a call detects that its session has ended; see {@link RevocationCheck}. Default: the option
   * `revocation`.
   */
  readonly check?: RevocationCheck;
  /**
   * The maximum time since the user authenticated; see `requireFresh`. Otherwise the call is refused
   * with `PermissionDenied`. Default: no maximum.
   */
  readonly freshWithin?: Duration;
  /**
   * The accepted authentication context classes: the session's `acr` must be one of them. Otherwise the
   * call is refused with `PermissionDenied`, and its hint asks for one of them (RFC 9470). An empty list
   * accepts any session. Example: `["phr", "phrh"]`.
   */
  readonly acr?: readonly string[];
  /**
   * What the claims of a session must be, by claim; see {@link ClaimRule}. All rules must hold, else the
   * call is refused with `PermissionDenied`. A list is short for `anyOf`: the claim must equal one of the
   * values or, if it is a list, contain one; with an empty list it only has to exist.
   *
   * @example `{ role: ["admin", "editor"], groups: { noneOf: ["suspended"] }, level: { gte: 3 } }`
   */
  readonly claims?: ClaimRules;
  /**
   * Code that decides on the claims of a session after all other demands: it returns undefined, or the
   * reasons to refuse the call with `PermissionDenied`. See {@link ValidateClaims}. Default: none.
   *
   * @example
   * `({ seats, plan }) => plan === "free" && seats > 3
   *   ? { claim: "seats", requirement: "at most 3 on the free plan" } : undefined`
   */
  readonly validate?: ValidateClaims<Claims>;
  /**
   * A condition in the Common Expression Language, on `session`, `request` and `now`. It needs the option
   * `conditions`, and is checked at the start. One that reads the request is checked for every message of
   * a stream, whose handler starts when the first one has passed. Default: none.
   *
   * @example `"session.claims.role == 'admin' || request.note.owner == session.user_id"`
   */
  readonly allow?: string;
  /**
   * When an open stream ends with its session; only for streaming methods. Default "endOnExpiry".
   *
   * - `endOnExpiry`: when its access token expires, or when the session ends before that. With
   *   `check: "none"` only the access token counts.
   * - `endOnRevoke`: when the session ends for any reason. The stream outlives its access token as
   *   long as the session is refreshed. A service that only verifies treats it as `endOnExpiry`.
   * - `never`: the stream outlives its session.
   */
  readonly stream?: StreamPolicy;
  /**
   * What happens to a bearer token that is not one of this service's, such as an API key or the access
   * token of an identity provider. Tokens with this service's issuer, and tokens of its form that name
   * no other issuer, are always its own. Default "refuse".
   *
   * - `refuse`: the call is refused, as with any token that fails.
   * - `ignore`: the token is left to the service. The call has no session, also if cookies came with
   *   it: an optional method goes on, and a method that requires a session refuses the call.
   */
  readonly foreignBearer?: ForeignBearerPolicy;
  /**
   * Whether each call must prove possession of the key of its session (RFC 9449). Default "onRefresh".
   *
   * - `onRefresh`: a session that is bound to a key proves it when it refreshes. Calls need no proof,
   *   unless the token comes by the scheme `DPoP`.
   * - `required`: each call needs a fresh proof, which costs a signature check. A session that is bound
   *   to no key is refused with `PermissionDenied`.
   */
  readonly proof?: ProofPolicy;
}

/** Whether each call must prove possession of the key of its session. */
export type ProofPolicy = "onRefresh" | "required";

/** What happens to a bearer token that is not one of this service's. */
export type ForeignBearerPolicy = "refuse" | "ignore";

/** When an open stream ends with its session. */
export type StreamPolicy = "endOnExpiry" | "endOnRevoke" | "never";

/** Policies written in code, and defaults for all methods. */
export interface PolicyOptions extends CheckDefaults {
  readonly public: readonly (DescMethod | DescService)[];
  /** By procedure, such as "notes.v1.NotesService/ListNotes", or by pattern. */
  readonly methods: Readonly<Record<string, MethodPolicyOptions>>;
}

/** How sessions are checked if no policy specifies it. */
export interface CheckDefaults {
  /** Default "feed". */
  readonly check?: RevocationCheck;
  /**
   * Whether there are a store to check in and a secret that verifies anti-CSRF tokens. Without them,
   * "none" is the only check, and a policy cannot demand anti-CSRF tokens. Default true.
   */
  readonly hasStore?: boolean;
  /** Compiles a condition. Undefined if the option `conditions` is not set. */
  readonly compile?: ((source: string, method: DescMethod) => Condition) | undefined;
  /** The claims that have a source. Undefined in a service that only verifies. */
  readonly sourced?: ReadonlySet<string>;
}

/** The policies in code that apply to one method, from the narrowest name to the widest. */
export interface CodePolicies {
  readonly ofMethod: MethodPolicyOptions | undefined;
  readonly ofService: MethodPolicyOptions | undefined;
  /** Those of packages, the longest name first, then that of everything. */
  readonly wider: readonly MethodPolicyOptions[];
}

/** The policies that are written in code: by method, by service, by package and for everything. */
export class PoliciesInCode {
  readonly #byMethod: ReadonlyMap<string, MethodPolicyOptions>;
  readonly #byPattern: ReadonlyMap<string, MethodPolicyOptions>;

  /** @throws TypeError if a name is not valid or named twice, or a policy is not valid */
  constructor(options: PolicyOptions) {
    const named = Object.entries(options.methods);
    for (const [name, policy] of named) {
      assertName(name);
      assertWords(policy, name);
      assertDemandOptions(policy, name);
      const { check, doAntiCsrfCheck } = policy;
      assertCheckable(name, { check, doAntiCsrfCheck }, options);
    }
    const isPattern = (name: string): boolean => name.endsWith("*");
    this.#byPattern = new Map(named.filter(([name]) => isPattern(name)));
    const byMethod = new Map(named.filter(([name]) => !isPattern(name)));
    for (const method of options.public.flatMap(methodsOf)) {
      const procedure = procedureOf(method);
      if (byMethod.has(procedure)) {
        throw new TypeError(`${procedure} is named twice; keep it in "public" or in "methods"`);
      }
      byMethod.set(procedure, { auth: "none" });
    }
    this.#byMethod = byMethod;
  }

  of(method: DescMethod): CodePolicies {
    const service = method.parent.typeName;
    const wider = isOwn(service)
      ? []
      : [...this.#byPattern]
          .filter(([pattern]) => !pattern.endsWith("/*") && covers(pattern, method))
          .toSorted(([a], [b]) => b.length - a.length)
          .map(([, policy]) => policy);
    return {
      ofMethod: this.#byMethod.get(procedureOf(method)),
      ofService: this.#byPattern.get(`${service}/*`),
      wider,
    };
  }

  /** Returns the names that none of these methods has. */
  unserved(methods: readonly DescMethod[]): readonly string[] {
    const served = new Set(methods.map(procedureOf));
    return [
      ...[...this.#byMethod.keys()].filter((procedure) => !served.has(procedure)),
      ...[...this.#byPattern.keys()].filter(
        (pattern) => !methods.some((method) => covers(pattern, method)),
      ),
    ];
  }
}

/** Whether a service is SessionService, whose methods only a name of their own changes. */
function isOwn(service: string): boolean {
  return service === SessionService.typeName;
}

/** Whether a pattern such as "notes.v1.NotesService/*", "notes.*" or "*" names a method. */
function covers(pattern: string, method: DescMethod): boolean {
  const start = pattern.slice(0, -1);
  return (
    procedureOf(method).startsWith(start) && (start.endsWith("/") || !isOwn(method.parent.typeName))
  );
}

/** A service, a package, or everything. */
const patternForm = /^(\*|[\w.]+\.\*|[\w.]+\/\*)$/;

function assertName(name: string): void {
  if (name.includes("*") && !patternForm.test(name)) {
    throw new TypeError(
      `methods: ${JSON.stringify(name)} is not a pattern; write a service as "notes.v1.NotesService/*", a package as "notes.v1.*", and everything as "*"`,
    );
  }
}

/** Returns a procedure such as "notes.v1.NotesService/ListNotes". */
export function procedureOf(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

function methodsOf(desc: DescMethod | DescService): readonly DescMethod[] {
  if (desc?.kind !== "service" && desc?.kind !== "rpc") {
    throw new TypeError(
      "public must be a list of generated methods and services, such as NotesService.method.signIn",
    );
  }
  return desc.kind === "service" ? desc.methods : [desc];
}

const words = {
  auth: ["required", "optional", "none"],
  check: revocationChecks,
  stream: ["endOnExpiry", "endOnRevoke", "never"],
  foreignBearer: ["refuse", "ignore"],
  proof: ["onRefresh", "required"],
} as const;

const members: Readonly<Record<keyof MethodPolicyOptions, 0>> = {
  ...{ auth: 0, doAntiCsrfCheck: 0, check: 0, freshWithin: 0, acr: 0, claims: 0, stream: 0 },
  ...{ validate: 0, allow: 0, foreignBearer: 0, proof: 0 },
};

/** In plain JavaScript, a misspelt value could make a method public. */
function assertWords(policy: MethodPolicyOptions, procedure: string): void {
  assertMembers(`the policy of ${procedure} in methods`, policy, members);
  for (const name of ["auth", "check", "stream", "foreignBearer", "proof"] as const) {
    const known: readonly string[] = words[name];
    const given = policy[name];
    if (given !== undefined && !known.includes(given)) {
      throw new TypeError(
        `methods: the ${name} of ${procedure} must be ${alternatives(known)}, got "${given}"`,
      );
    }
  }
}

/** For messages: `"feed", "strict" or "none"`. */
export function alternatives(values: readonly string[]): string {
  const quoted = values.map((value) => `"${value}"`);
  return `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
}

/** The parts of a policy that need the store or the secret of the service that creates the sessions. */
interface Checks {
  readonly check: RevocationCheck | undefined;
  readonly doAntiCsrfCheck: boolean | undefined;
}

/** @throws TypeError if a policy sets a check that needs a store or a secret, and there is none */
export function assertCheckable(
  procedure: string,
  { check, doAntiCsrfCheck }: Checks,
  { hasStore = true }: CheckDefaults,
): void {
  if (!hasStore && check !== undefined && check !== "none") {
    throw new TypeError(
      `the policy of ${procedure} sets check: "${check}", but a service that only verifies has no store to check in; serve the method where the sessions are created, or set { check: "none" } for it in "methods"`,
    );
  }
  if (!hasStore && doAntiCsrfCheck === true) {
    throw new TypeError(
      `the policy of ${procedure} demands an anti-CSRF token, but a service that only verifies does not have the secret to check it; serve the method where the sessions are created, or set { doAntiCsrfCheck: false } for it in "methods"`,
    );
  }
}
