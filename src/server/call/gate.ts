import { ConnectError, type HandlerContext } from "@connectrpc/connect";
import type { Operation } from "../../base/telemetry.ts";
import { verifiedSessionOf } from "../../engine/session.ts";
import { type AuthenticationDemand, authenticate, within } from "../authenticate/authenticate.ts";
import type { VerifyingCore } from "../core.ts";
import { assertCondition } from "../policy/conditions.ts";
import { checkDemands, claimsRejected, type Demands } from "../policy/demands.ts";
import { type MethodPolicy, type Policies, procedureOf } from "../policy/policy.ts";
import { validateClaims } from "../policy/validate.ts";
import { refuseCall } from "../response/errors.ts";
import { tellSession } from "../response/tokens.ts";
import { type Call, type CallKey, callOf } from "./call.ts";
import { endOf } from "./signal.ts";

/** Runs before the body of a request is read. An error that it throws ends the call. */
export type RequestGate = (context: HandlerContext) => void | Promise<void>;

/** Creates the gate of an instance: it applies each method's policy to its calls. */
export function createGate(core: VerifyingCore, key: CallKey, policies: Policies): RequestGate {
  return (context) => {
    const { method, signal } = context;
    return admit(core, callOf(core, key, context), { method, signal, policies });
  };
}

/**
 * The same for a router that is built without `protect`. It may lack the interceptor, which alone sees
 * messages, so a call whose condition reads them has no session until the interceptor has run.
 */
export function createGateAlone(
  core: VerifyingCore,
  key: CallKey,
  policies: Policies,
): RequestGate {
  const gate = createGate(core, key, policies);
  return async (context) => {
    await gate(context);
    const reads = policies.of(context.method).allow?.readsRequest || core.decisions?.readsRequest;
    callOf(core, key, context).unchecked = reads === true;
  };
}

/** The method that is called, the signal of its call, and the policies of the instance. */
export type Admission = Pick<HandlerContext, "method" | "signal"> & { readonly policies: Policies };

/**
 * Applies the policy of its method to a call, once. The call is either admitted, with its session
 * if it has one, or refused.
 *
 * @throws ConnectError if the call is refused, or ends before it is admitted
 */
export async function admit(
  core: VerifyingCore,
  call: Call,
  { method, signal, policies }: Admission,
): Promise<void> {
  if (call.admitted) {
    return;
  }
  call.method = method;
  core.operations.begin(call, signal);
  try {
    core.operations.assertOpen();
    await enterSession(core, call, policies.of(method), signal);
    const deciding = core.decisions?.before(call, method);
    if (deciding !== undefined) {
      await within(signal, deciding);
    }
    if (signal.aborted) {
      throw endOf(signal);
    }
  } catch (error) {
    core.operations.end(call);
    throw error instanceof ConnectError
      ? error
      : refuseCall(core, call, { error, procedure: procedureOf(method) });
  }
  call.admitted = true;
}

/** The parts of a policy that concern the session of a call. */
export type SessionPolicy = Pick<MethodPolicy, "auth" | "check" | "foreignBearer"> &
  Partial<Pick<MethodPolicy, "proof">> &
  Demands & {
    /** Which requests may use cookies. Default "checked". */
    readonly crossSite?: AuthenticationDemand["crossSite"];
    /** The claims that a source must keep young. Default: those of its rules. */
    readonly looksAt?: MethodPolicy["looksAt"];
  };

/**
 * Applies a policy to a call, and makes the session of its caller the session of the call.
 * @returns whether the caller has a session
 * @throws SessionError if the call does not meet the policy
 */
export function enterSession(
  core: VerifyingCore,
  call: Call,
  policy: SessionPolicy,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  return core.telemetry === undefined
    ? applyPolicy(core, call, policy, signal)
    : core.telemetry.run(verification(call), () => applyPolicy(core, call, policy, signal));
}

async function applyPolicy(
  core: VerifyingCore,
  call: Call,
  policy: SessionPolicy,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  // 1. A public method: its tokens are not read.
  if (policy.auth === "none") {
    return false;
  }

  // 2. The response depends on the caller, so no cache may share it.
  forbidCaching(call.responseHeader, call.requestMethod);

  // 3. The caller: a valid token of a live session.
  const verified = await authenticate(core, call, {
    required: policy.auth === "required",
    doAntiCsrfCheck: policy.doAntiCsrfCheck ?? call.requestMethod !== "GET",
    check: policy.check,
    foreignBearer: policy.foreignBearer,
    crossSite: policy.crossSite ?? "checked",
    needsClaims: looksAtClaims(policy),
    proof: policy.proof === "required",
    signal,
  });

  // 4. A client that takes this call for another session's is told. Usually there is nothing to tell.
  const telling = tellSession(core, call, verified);
  if (telling !== undefined) {
    await within(signal, telling);
  }
  if (verified === undefined) {
    return false;
  }

  // 5. The demands of the policy: claims, and a recent authentication. Claims that are too old are
  // fetched first; if there are none, nothing waits.
  const looksAt = policy.looksAt ?? policy.claims;
  const renewing = core.sources?.renew(call, verified, looksAt, signal);
  call.waited ||= renewing !== undefined;
  const claims = renewing === undefined ? verified : await renewing;
  const refusing = checkDemands(core, policy, claims);
  if (refusing !== undefined) {
    await refusing;
  }

  // 6. The session that the handler sees. Its claims must match the schema of the service, and the
  // policy's own code must allow them.
  const read = await within(signal, core.claims.read(claims.claims));
  if (policy.validate !== undefined) {
    const unmet = validateClaims(policy.validate, verifiedSessionOf(claims, read));
    if (unmet.length > 0) {
      throw claimsRejected(claims.sid, unmet);
    }
  }
  if (policy.allow !== undefined && !policy.allow.readsRequest) {
    const session = verifiedSessionOf(claims, read);
    assertCondition(policy.allow, {
      session,
      now: core.revocations.storeNow(),
      request: undefined,
    });
  }
  call.enter(core, { claims, read });
  return true;
}

function looksAtClaims({ claims, validate, allow }: SessionPolicy): boolean {
  return claims.length > 0 || validate !== undefined || allow !== undefined;
}

/** The verification of a call, for telemetry: worth a span only if it has waited for I/O or a signature. */
function verification(call: Call): Operation {
  return {
    name: "verify",
    headers: call.requestHeader,
    took: () => call.waited,
    facts: () => ({
      procedure: call.method && procedureOf(call.method),
      sessionId: call.proven?.sid,
      userId: call.proven?.sub,
    }),
  };
}

const variesBy = "Cookie, Authorization, Sec-Fetch-Site, Origin, Referer";

/**
 * Prevents caches from storing or mixing up the response of a call that reads tokens. `Vary` is set
 * on GET only, for caches that store a response in spite of `no-store`. No cache stores a POST
 * response with `no-store` (RFC 9111 section 3).
 */
function forbidCaching(headers: Headers, requestMethod: string): void {
  if (requestMethod !== "GET") {
    headers.set("cache-control", "no-store");
    return;
  }
  headers.set("cache-control", "private, no-store");
  if (!headers.get("vary")?.includes(variesBy)) {
    headers.append("vary", variesBy);
  }
}
