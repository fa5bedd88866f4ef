import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { andThen } from "../../base/promises.ts";
import { authenticate } from "../authenticate/authenticate.ts";
import type { VerifyingCore } from "../core.ts";
import { checkDemands } from "../policy/demands.ts";
import { type MethodPolicy, type Policies, procedureOf } from "../policy/policy.ts";
import { forbidCaching } from "../response/tokens.ts";
import { type Call, type CallKey, enterSession, knownCall, openCall, refuseCall } from "./call.ts";

/** Runs before a request's body is read; throwing ends the call. */
export type RequestGate = (context: HandlerContext) => void | Promise<void>;

/** The gate of this instance: authenticates what the method's policy demands. */
export function createGate(core: VerifyingCore, key: CallKey, policies: Policies): RequestGate {
  return (context) => {
    const known = knownCall(
      context.values,
      key,
      ({ responseHeader }) => responseHeader === context.responseHeader,
    );
    const call = known ?? openCall(core, context);
    context.values.set(key, call);
    return admit(core, call, { method: context.method, signal: context.signal, policies });
  };
}

/** What a call is held against. */
export type Admission = Pick<HandlerContext, "method" | "signal"> & { readonly policies: Policies };

/**
 * Holds a call against its method's policy, once: lets it pass, with its session where there is one.
 * Without a promise where nothing has to be waited for.
 *
 * @throws ConnectError
 */
export function admit(core: VerifyingCore, call: Call, admission: Admission): void | Promise<void> {
  if (call.admitted) {
    return undefined;
  }
  const { method, signal, policies } = admission;
  try {
    const entered = enter(core, call, policies.of(method));
    return entered instanceof Promise
      ? admitLater(core, call, { ...admission, entered })
      : pass(call, signal);
  } catch (error) {
    throw refusal(core, call, { error, method });
  }
}

async function admitLater(
  core: VerifyingCore,
  call: Call,
  { method, signal, entered }: Admission & { readonly entered: Promise<void> },
): Promise<void> {
  try {
    await raceSignal(entered, signal);
    pass(call, signal);
  } catch (error) {
    throw refusal(core, call, { error, method });
  }
}

/** @throws ConnectError when the call is over already */
function pass(call: Call, signal: AbortSignal): void {
  if (signal.aborted) {
    throw endOf(signal);
  }
  call.admitted = true;
}

function refusal(
  core: VerifyingCore,
  call: Call,
  { error, method }: Pick<Admission, "method"> & { readonly error: unknown },
): ConnectError {
  return error instanceof ConnectError
    ? error
    : refuseCall(core, call, { error, procedure: procedureOf(method) });
}

/**
 * The work, or the end of the call, whichever is first: Connect does not end a gate or a handler
 * that waits for something else than its signal.
 *
 * @throws ConnectError `DeadlineExceeded` or `Canceled` when the signal is first
 */
export async function raceSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = (): void => {};
  const ended = new Promise<never>((_, reject) => {
    stop = () => reject(endOf(signal));
  });
  if (signal.aborted) {
    stop();
  }
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await Promise.race([ended, work]);
  } finally {
    signal.removeEventListener("abort", stop);
    // Whoever lost the race must not fail unheard.
    work.catch(() => {});
    ended.catch(() => {});
  }
}

/** Why the call ended. What is not an error of Connect may say things that are not for the client. */
function endOf({ reason }: AbortSignal): ConnectError {
  return reason instanceof ConnectError
    ? reason
    : new ConnectError("the call was canceled", Code.Canceled, undefined, undefined, reason);
}

function enter(core: VerifyingCore, call: Call, policy: MethodPolicy): void | Promise<void> {
  if (policy.auth === "none") {
    return undefined;
  }
  forbidCaching(call.responseHeader, call.requestMethod);
  const demand = {
    required: policy.auth === "required",
    doAntiCsrfCheck: policy.doAntiCsrfCheck ?? call.requestMethod !== "GET",
    check: policy.check,
    needsClaims: policy.claims.length > 0,
  };
  return andThen(authenticate(core, call, demand), (claims) => {
    if (claims === undefined) {
      return undefined;
    }
    checkDemands(core, policy, claims);
    return enterSession(core, call, claims);
  });
}
