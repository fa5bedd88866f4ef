import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import {
  Auth,
  Check,
  method_policy,
  type Policy,
  Stream,
  service_policy,
} from "../../gen/rpcsession/v1/options_pb.ts";
import type { Duration } from "../duration.ts";
import { assertDemands, type ClaimDemand, demandsOf } from "./policy-demands.ts";

/** What a method demands of its caller, as it is written in code. */
export interface MethodPolicyOptions {
  /**
   * `required`: a verified session. `optional`: none, or a verified one; tokens that fail are
   * refused. `none`: tokens are not looked at.
   */
  readonly auth?: "required" | "optional" | "none";
  /** Whether the anti-CSRF token is checked. Default: on everything but Connect GET. */
  readonly doAntiCsrfCheck?: boolean;
  /** How long ago the user may have proved who they are; see `requireFresh`. Default: any time. */
  readonly freshWithin?: Duration;
  /**
   * What the claims must say, all of it: a claim is, or as a list contains, one of the values; with
   * no values it only has to be there. Else the call is refused with `PermissionDenied`.
   */
  readonly claims?: Readonly<Record<string, readonly string[]>>;
}

/** The policy of one method, resolved. */
export interface MethodPolicy {
  readonly auth: "required" | "optional" | "none";
  readonly doAntiCsrfCheck: boolean | undefined;
  /** Milliseconds; undefined where nothing is asked for. */
  readonly freshWithin: number | undefined;
  readonly claims: readonly ClaimDemand[];
  /** Where `auth` was written. */
  readonly source: "code" | "method option" | "service option" | "default";
}

/** One line of `sessions.describe`. */
export interface MethodDescription extends MethodPolicy {
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
}

/** Policies written in code. */
export interface PolicyOptions {
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
}

/** @throws TypeError when code names a method twice, or says what is no policy */
export function createPolicies(options: PolicyOptions): Policies {
  const inCode = new Map<string, MethodPolicyOptions>(Object.entries(options.methods));
  inCode.forEach(assertAuth);
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
      policy = resolve(method, inCode.get(procedureOf(method)));
      resolved.set(method, policy);
    }
    return policy;
  };
  return {
    of,
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

const auths: readonly unknown[] = [undefined, "required", "optional", "none"];

/** Without types, a slip of the pen would open the method. */
function assertAuth({ auth }: MethodPolicyOptions, procedure: string): void {
  if (!auths.includes(auth)) {
    throw new TypeError(
      `methods: the auth of ${procedure} is "${auth}", and must be "required", "optional" or "none"`,
    );
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

function resolve(method: DescMethod, code: MethodPolicyOptions | undefined): MethodPolicy {
  const ofMethod = hasOption(method, method_policy) ? getOption(method, method_policy) : undefined;
  const ofService = hasOption(method.parent, service_policy)
    ? getOption(method.parent, service_policy)
    : undefined;
  assertSupported(procedureOf(method), ofMethod);
  assertSupported(method.parent.typeName, ofService);
  const auth = authOf(code, ofMethod, ofService);
  // What a service asks of its callers is not asked of a method that is public by its own word.
  const isPublic = auth.auth === "none" && auth.source !== "service option";
  const demands = demandsOf(code, ofMethod, isPublic ? undefined : ofService);
  if (auth.auth === "none" && (demands.freshWithin !== undefined || demands.claims.length > 0)) {
    throw new TypeError(
      `the policy of ${procedureOf(method)} asks for claims or a fresh sign-in, and looks at no session; make its auth "required"`,
    );
  }
  return { ...auth, ...demands };
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

const authNames: Readonly<Record<number, MethodPolicy["auth"]>> = {
  [Auth.REQUIRED]: "required",
  [Auth.OPTIONAL]: "optional",
  [Auth.NONE]: "none",
};

function assertSupported(name: string, policy: Policy | undefined): void {
  if (policy === undefined) {
    return;
  }
  const asked = [
    policy.check !== Check.UNSPECIFIED && "check",
    policy.stream !== Stream.UNSPECIFIED && "stream",
  ].filter((field) => field !== false);
  if (asked.length > 0) {
    throw new TypeError(
      `the policy of ${name} sets ${asked.join(", ")}, which rpc-session does not support yet; remove it, or nothing would enforce it`,
    );
  }
  if (policy.auth !== Auth.UNSPECIFIED && authNames[policy.auth] === undefined) {
    throw new TypeError(`the policy of ${name} sets an auth that is not known: ${policy.auth}`);
  }
}
