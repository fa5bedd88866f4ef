import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import {
  Auth,
  Check,
  method_policy,
  type Policy,
  Stream,
  service_policy,
} from "../../../gen/rpcsession/v1/options_pb.ts";
import { assertMembers, type Duration } from "../../base/checks.ts";
import { type RevocationCheck, revocationChecks } from "../../engine/revocation/check.ts";
import { assertDemands, type ClaimDemand, demandsOf } from "./demands.ts";

/** How sessions are checked where a method does not say. */
export interface CheckOptions {
  /** The check of methods that ask for none. Default "feed". */
  readonly check?: RevocationCheck;
  /** Whether there is a store to check in; without one, only "none" may be asked for. Default true. */
  readonly hasStore?: boolean;
}

/** @throws TypeError when it needs a store, and there is none */
export function checkOf(
  procedure: string,
  [code, ofMethod, ofService]: readonly [RevocationCheck | undefined, ...(Check | undefined)[]],
  { check: byDefault = revocationChecks[0], hasStore = true }: CheckOptions,
): RevocationCheck {
  const asked = code ?? checkNames[ofMethod || ofService || Check.UNSPECIFIED];
  if (!hasStore && asked !== undefined && asked !== "none") {
    throw new TypeError(
      `the policy of ${procedure} sets check: "${asked}", and a service that only verifies has no store to check in; serve the method where the sessions are made, or set { check: "none" } for it in "methods"`,
    );
  }
  return asked ?? byDefault;
}

/** @throws TypeError when it is no check, or needs a store and there is none */
export function readCheck(
  asked: RevocationCheck | undefined,
  { check: byDefault = revocationChecks[0], hasStore = true }: CheckOptions,
): RevocationCheck {
  const check = asked ?? byDefault;
  if (!revocationChecks.includes(check)) {
    throw new TypeError(`check: "${check}" is none of ${revocationChecks.join(", ")}`);
  }
  if (!hasStore && check !== "none") {
    throw new TypeError(
      `check: "${check}" needs a store, and a service that only verifies has none; leave it out`,
    );
  }
  return check;
}

/** @throws TypeError when it is of a newer schema */
export function assertKnownCheck(name: string, check: Check): void {
  if (check !== Check.UNSPECIFIED && checkNames[check] === undefined) {
    throw new TypeError(`the policy of ${name} sets a check that is not known: ${check}`);
  }
}

const checkNames: Readonly<Record<number, RevocationCheck>> = {
  [Check.FEED]: "feed",
  [Check.STRICT]: "strict",
  [Check.NONE]: "none",
};

/** What a method demands of its caller, as it is written in code. */
export interface MethodPolicyOptions {
  /**
   * `required`: a verified session. `optional`: none, or a verified one; tokens that fail are
   * refused. `none`: tokens are not looked at.
   */
  readonly auth?: "required" | "optional" | "none";
  /** Whether the anti-CSRF token is checked. Default: on everything but Connect GET. */
  readonly doAntiCsrfCheck?: boolean;
  /** How the call finds out that its session was ended. Default: the option `revocation`. */
  readonly check?: RevocationCheck;
  /** How long ago the user may have proved who they are; see `requireFresh`. Default: any time. */
  readonly freshWithin?: Duration;
  /**
   * What the claims must say, all of it: a claim is, or as a list contains, one of the values; with
   * no values it only has to be there. Else the call is refused with `PermissionDenied`.
   */
  readonly claims?: Readonly<Record<string, readonly string[]>>;
  /**
   * When an open stream ends with its session; for methods that stream. `endOnExpiry` (the default):
   * when its access token expires, or the session ends before. `endOnRevoke`: when the session ends,
   * by whatever; it outlives its access token as long as the session is refreshed. In a service that
   * only verifies this is `endOnExpiry`. `never`: it outlives its session.
   *
   * Where `check` is `none`, `endOnExpiry` does not ask whether the session ended before.
   */
  readonly stream?: StreamPolicy;
}

/** When an open stream ends with its session. */
export type StreamPolicy = "endOnExpiry" | "endOnRevoke" | "never";

/** The policy of one method, resolved. */
export interface MethodPolicy {
  readonly auth: "required" | "optional" | "none";
  readonly doAntiCsrfCheck: boolean | undefined;
  readonly check: RevocationCheck;
  /** Milliseconds; undefined where nothing is asked for. */
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[];
  /** Undefined where the method does not stream. */
  readonly stream: StreamPolicy | undefined;
  /** Where `auth` was written. */
  readonly source: "code" | "method option" | "service option" | "default";
}

/** One line of `sessions.describe`. */
export interface MethodDescription extends MethodPolicy {
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
}

/** Policies written in code. */
export interface PolicyOptions extends CheckOptions {
  readonly public: readonly (DescMethod | DescService)[];
  /** By procedure, such as "notes.v1.NotesService/ListNotes". */
  readonly methods: Readonly<Record<string, MethodPolicyOptions>>;
}

/** Knows the policy of every method. */
export interface Policies {
  /**
   * Resolved once per method: code, then method option, then service option, then required.
   * @throws TypeError when an option asks for what is not supported yet
   */
  of(method: DescMethod): MethodPolicy;
  /**
   * Checks the policies against the methods that are served.
   * @throws TypeError when code names a method that is not there, or an option is not supported
   */
  check(methods: readonly DescMethod[]): void;
  describe(methods: readonly DescMethod[]): MethodDescription[];
  /**
   * The check where no method is known.
   * @throws TypeError when it is none, or needs a store and there is none
   */
  checkOf(asked: RevocationCheck | undefined): RevocationCheck;
}

/** @throws TypeError when code names a method twice, or says what is no policy */
export function createPolicies(options: PolicyOptions): Policies {
  const inCode = new Map<string, MethodPolicyOptions>(Object.entries(options.methods));
  inCode.forEach(assertWords);
  inCode.forEach(assertDemands);
  for (const method of options.public.flatMap(methodsOf)) {
    const procedure = procedureOf(method);
    if (inCode.has(procedure)) {
      throw new TypeError(`${procedure} is named twice; keep it in "public" or in "methods"`);
    }
    inCode.set(procedure, { auth: "none" });
  }
  const resolved = new WeakMap<DescMethod, MethodPolicy>();
  const of = (method: DescMethod): MethodPolicy => {
    let policy = resolved.get(method);
    if (policy === undefined) {
      policy = resolve(method, inCode.get(procedureOf(method)), options);
      resolved.set(method, policy);
    }
    return policy;
  };
  return {
    of,
    checkOf: (asked) => readCheck(asked, options),
    check(methods) {
      methods.forEach(of);
      const served = new Set(methods.map(procedureOf));
      const missing = [...inCode.keys()].filter((procedure) => !served.has(procedure));
      if (missing.length > 0) {
        throw new TypeError(
          `"public" or "methods" names ${missing.join(", ")}, and the router serves no such method; remove the name or register the service`,
        );
      }
    },
    describe: (methods) =>
      methods.map((method) => ({ procedure: procedureOf(method), ...of(method) })),
  };
}

/** For example "notes.v1.NotesService/ListNotes". */
export function procedureOf(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

const words = {
  auth: ["required", "optional", "none"],
  check: revocationChecks,
  stream: ["endOnExpiry", "endOnRevoke", "never"],
} as const;

const members: Readonly<Record<keyof MethodPolicyOptions, 0>> = {
  ...{ auth: 0, doAntiCsrfCheck: 0, check: 0, freshWithin: 0, claims: 0, stream: 0 },
};

/** Without types, a slip of the pen would open the method. */
function assertWords(policy: MethodPolicyOptions, procedure: string): void {
  assertMembers(`the policy of ${procedure} in methods`, policy, members);
  for (const name of ["auth", "check", "stream"] as const) {
    const known: readonly unknown[] = words[name];
    if (policy[name] !== undefined && !known.includes(policy[name])) {
      const [first, second, third] = words[name];
      throw new TypeError(
        `methods: the ${name} of ${procedure} is "${policy[name]}", and must be "${first}", "${second}" or "${third}"`,
      );
    }
  }
}

function methodsOf(desc: DescMethod | DescService): readonly DescMethod[] {
  if (desc?.kind !== "service" && desc?.kind !== "rpc") {
    throw new TypeError(
      "public: give generated methods and services, such as NotesService.method.signIn",
    );
  }
  return desc.kind === "service" ? desc.methods : [desc];
}

function resolve(
  method: DescMethod,
  code: MethodPolicyOptions | undefined,
  options: PolicyOptions,
): MethodPolicy {
  const ofMethod = hasOption(method, method_policy) ? getOption(method, method_policy) : undefined;
  const ofService = hasOption(method.parent, service_policy)
    ? getOption(method.parent, service_policy)
    : undefined;
  assertKnown(procedureOf(method), ofMethod);
  assertKnown(method.parent.typeName, ofService);
  const auth = authOf(code, ofMethod, ofService);
  // What a service asks of its callers is not asked of a method that is public by its own word.
  const isPublic = auth.auth === "none" && auth.source !== "service option";
  const demands = demandsOf(code, ofMethod, isPublic ? undefined : ofService);
  if (auth.auth === "none" && (demands.freshWithin !== undefined || demands.claims.length > 0)) {
    throw new TypeError(
      `the policy of ${procedureOf(method)} asks for claims or a fresh sign-in, and looks at no session; make its auth "required"`,
    );
  }
  const check = checkOf(
    procedureOf(method),
    [code?.check, ofMethod?.check, ofService?.check],
    options,
  );
  const stream = streamOf(method, [code?.stream, ofMethod?.stream, ofService?.stream]);
  return { ...auth, ...demands, check, stream };
}

function authOf(
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

/** @throws TypeError when code or the method's own option speak of the stream of a unary method */
function streamOf(
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
      `the policy of ${procedureOf(method)} sets stream, and the method does not stream; remove it`,
    );
  }
  return undefined;
}

const streamNames: Readonly<Record<number, StreamPolicy>> = {
  [Stream.END_ON_EXPIRY]: "endOnExpiry",
  [Stream.END_ON_REVOKE]: "endOnRevoke",
  [Stream.NEVER]: "never",
};

const authNames: Readonly<Record<number, MethodPolicy["auth"]>> = {
  [Auth.REQUIRED]: "required",
  [Auth.OPTIONAL]: "optional",
  [Auth.NONE]: "none",
};

function assertKnown(name: string, policy: Policy | undefined): void {
  if (policy === undefined) {
    return;
  }
  assertKnownCheck(name, policy.check);
  if (policy.auth !== Auth.UNSPECIFIED && authNames[policy.auth] === undefined) {
    throw new TypeError(`the policy of ${name} sets an auth that is not known: ${policy.auth}`);
  }
  if (policy.stream !== Stream.UNSPECIFIED && streamNames[policy.stream] === undefined) {
    throw new TypeError(`the policy of ${name} sets a stream that is not known: ${policy.stream}`);
  }
}
