import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import {
  Auth,
  Check,
  ForeignBearer,
  method_policy,
  type Policy,
  Stream,
  service_policy,
} from "../../../gen/rpcsession/v1/options_pb.ts";
import { assertMembers, type Duration } from "../../base/checks.ts";
import { type RevocationCheck, revocationChecks } from "../../engine/revocation/check.ts";
import { assertDemandOptions, type ClaimDemand, demandsOf } from "./demands.ts";

export type { ClaimDemand } from "./demands.ts";

/** The policy of a method, written in code. Every member overrides the one in the schema. */
export interface MethodPolicyOptions {
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
   * The claims that a session must have, all of them. A claim must equal one of the values or, if it
   * is a list, contain one. With an empty list it only has to exist. Otherwise the call is refused
   * with `PermissionDenied`. Example: `{ role: ["admin", "editor"] }`.
   */
  readonly claims?: Readonly<Record<string, readonly string[]>>;
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
}

/** What happens to a bearer token that is not one of this service's. */
export type ForeignBearerPolicy = "refuse" | "ignore";

/** When an open stream ends with its session. */
export type StreamPolicy = "endOnExpiry" | "endOnRevoke" | "never";

/** The resolved policy of one method. */
export interface MethodPolicy {
  readonly auth: "required" | "optional" | "none";
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly check: RevocationCheck;
  /** Milliseconds; undefined if the user may have authenticated at any time. */
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[];
  readonly foreignBearer: ForeignBearerPolicy;
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

/** Policies written in code, and defaults for all methods. */
export interface PolicyOptions extends CheckDefaults {
  readonly public: readonly (DescMethod | DescService)[];
  /** By procedure, such as "notes.v1.NotesService/ListNotes". */
  readonly methods: Readonly<Record<string, MethodPolicyOptions>>;
}

/** How sessions are checked if no policy specifies it. */
interface CheckDefaults {
  /** Default "feed". */
  readonly check?: RevocationCheck;
  /**
   * Whether there are a store to check in and a secret that verifies anti-CSRF tokens. Without them,
   * "none" is the only check, and a policy cannot demand anti-CSRF tokens. Default true.
   */
  readonly hasStore?: boolean;
}

/** The policies of all methods of an instance. Each is resolved once, on first use. */
export class Policies {
  readonly #options: PolicyOptions;
  readonly #inCode: ReadonlyMap<string, MethodPolicyOptions>;
  readonly #resolved = new WeakMap<DescMethod, MethodPolicy>();

  /** @throws TypeError if code names a method twice, or a policy in code is not valid */
  constructor(options: PolicyOptions) {
    this.#options = options;
    this.#inCode = readCode(options);
  }

  /**
   * Returns the policy of a method: each part from code, else from its method option, else from its
   * service option, else the default.
   *
   * @throws TypeError if the options of the schema contradict each other or are unknown
   */
  of(method: DescMethod): MethodPolicy {
    let policy = this.#resolved.get(method);
    if (policy === undefined) {
      policy = resolve(method, this.#inCode.get(procedureOf(method)), this.#options);
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
    const served = new Set(methods.map(procedureOf));
    const missing = [...this.#inCode.keys()].filter((procedure) => !served.has(procedure));
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

/** Returns a procedure such as "notes.v1.NotesService/ListNotes". */
export function procedureOf(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

/** Reads and checks the policies that are written in code, by procedure. */
function readCode(options: PolicyOptions): Map<string, MethodPolicyOptions> {
  const inCode = new Map<string, MethodPolicyOptions>(Object.entries(options.methods));
  inCode.forEach(assertWords);
  inCode.forEach(assertDemandOptions);
  inCode.forEach(({ check, doAntiCsrfCheck }, procedure) => {
    assertCheckable(procedure, { check, doAntiCsrfCheck }, options);
  });
  for (const method of options.public.flatMap(methodsOf)) {
    const procedure = procedureOf(method);
    if (inCode.has(procedure)) {
      throw new TypeError(`${procedure} is named twice; keep it in "public" or in "methods"`);
    }
    inCode.set(procedure, { auth: "none" });
  }
  return inCode;
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
} as const;

/**
 * The public methods of SessionService. Not in its schema: clients import that, and would carry the
 * schema of the options as well.
 */
const publicOwn: ReadonlySet<string> = new Set([
  "rpcsession.v1.SessionService/Refresh",
  "rpcsession.v1.SessionService/SignOut",
]);

const members: Readonly<Record<keyof MethodPolicyOptions, 0>> = {
  ...{ auth: 0, doAntiCsrfCheck: 0, check: 0, freshWithin: 0, claims: 0, stream: 0 },
  foreignBearer: 0,
};

/** In plain JavaScript, a misspelt value could make a method public. */
function assertWords(policy: MethodPolicyOptions, procedure: string): void {
  assertMembers(`the policy of ${procedure} in methods`, policy, members);
  for (const name of ["auth", "check", "stream", "foreignBearer"] as const) {
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
function alternatives(values: readonly string[]): string {
  const quoted = values.map((value) => `"${value}"`);
  return `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
}

function resolve(
  method: DescMethod,
  code: MethodPolicyOptions | undefined,
  defaults: CheckDefaults,
): MethodPolicy {
  const procedure = procedureOf(method);
  const ofMethod = hasOption(method, method_policy) ? getOption(method, method_policy) : undefined;
  const ofService = hasOption(method.parent, service_policy)
    ? getOption(method.parent, service_policy)
    : undefined;
  assertKnown(procedure, ofMethod);
  assertKnown(method.parent.typeName, ofService);
  const auth = publicOwn.has(procedure)
    ? ({ auth: code?.auth ?? "none", source: code?.auth ? "code" : "default" } as const)
    : resolveAuth(code, ofMethod, ofService);
  // A method that is public itself does not inherit the demands of its service.
  const isPublic = auth.auth === "none" && auth.source !== "service option";
  const demands = demandsOf(code, ofMethod, isPublic ? undefined : ofService);
  if (auth.auth === "none" && (demands.freshWithin !== undefined || demands.claims.length > 0)) {
    throw new TypeError(
      `the policy of ${procedure} demands claims or a recent sign-in, but its auth is "none", which ignores sessions; set its auth to "required"`,
    );
  }
  const asked = code?.check ?? checkNames[ofMethod?.check || ofService?.check || Check.UNSPECIFIED];
  const { doAntiCsrfCheck } = demands;
  assertCheckable(procedure, { check: asked, doAntiCsrfCheck }, defaults);
  const check = asked ?? defaults.check ?? revocationChecks[0];
  const stream = resolveStream(method, [code?.stream, ofMethod?.stream, ofService?.stream]);
  const foreignBearer =
    code?.foreignBearer ??
    foreignBearerNames[ofMethod?.foreignBearer || ofService?.foreignBearer || 0] ??
    "refuse";
  return { ...auth, ...demands, check, stream, foreignBearer };
}

function resolveAuth(
  code: MethodPolicyOptions | undefined,
  ofMethod: Policy | undefined,
  ofService: Policy | undefined,
): Pick<MethodPolicy, "auth" | "source"> {
  if (code?.auth !== undefined) {
    return { auth: code.auth, source: "code" };
  }
  const fromMethod = authNames[ofMethod?.auth ?? Auth.UNSPECIFIED];
  if (fromMethod !== undefined) {
    return { auth: fromMethod, source: "method option" };
  }
  const fromService = authNames[ofService?.auth ?? Auth.UNSPECIFIED];
  if (fromService !== undefined) {
    return { auth: fromService, source: "service option" };
  }
  return { auth: "required", source: "default" };
}

/** The parts of a policy that need the store or the secret of the service that creates the sessions. */
interface Checks {
  readonly check: RevocationCheck | undefined;
  readonly doAntiCsrfCheck: boolean | undefined;
}

/** @throws TypeError if a policy sets a check that needs a store or a secret, and there is none */
function assertCheckable(
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

/** @throws TypeError if code or the method's own option sets `stream` for a unary method */
function resolveStream(
  method: DescMethod,
  [code, ofMethod, ofService]: readonly [StreamPolicy | undefined, ...(Stream | undefined)[]],
): StreamPolicy | undefined {
  const fromMethod = streamNames[ofMethod ?? Stream.UNSPECIFIED];
  if (method.methodKind !== "unary") {
    const fromService = streamNames[ofService ?? Stream.UNSPECIFIED];
    return code ?? fromMethod ?? fromService ?? "endOnExpiry";
  }
  if ((code ?? fromMethod) !== undefined) {
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

const streamNames: Readonly<Record<number, StreamPolicy>> = {
  [Stream.END_ON_EXPIRY]: "endOnExpiry",
  [Stream.END_ON_REVOKE]: "endOnRevoke",
  [Stream.NEVER]: "never",
};

/** @throws TypeError if a policy of the schema has a value that this version does not support */
function assertKnown(name: string, policy: Policy | undefined): void {
  if (policy === undefined) {
    return;
  }
  const values = [
    ["check", policy.check, checkNames],
    ["auth", policy.auth, authNames],
    ["stream", policy.stream, streamNames],
    ["foreign_bearer", policy.foreignBearer, foreignBearerNames],
  ] as const;
  for (const [member, value, names] of values) {
    // 0 is UNSPECIFIED in all of these enums.
    if (value !== 0 && names[value] === undefined) {
      throw new TypeError(
        `the policy of ${name} sets ${member} to the unknown value ${value}; upgrade rpc-session or change the schema`,
      );
    }
  }
}
