import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { authenticate } from "./authenticate.ts";
import { type Call, type CallKey, enterSession, knownCall, openCall, refuseCall } from "./call.ts";
import type { VerifyingCore } from "./core.ts";
import { type MethodPolicy, type Policies, procedureOf } from "./policy.ts";
import { forbidCaching } from "./respond.ts";

/** Runs before a request's body is read; throwing ends the call. */
export type RequestGate = (context: HandlerContext) => Promise<void>;

/** The gate of this instance: authenticates what the method's policy demands. */
export function createGate(core: VerifyingCore, key: CallKey, policies: Policies): RequestGate {
  return async (context) => {
    const known = knownCall(
      context.values,
      key,
      ({ responseHeader }) => responseHeader === context.responseHeader,
    );
    const call = known ?? openCall(core, context);
    context.values.set(key, call);
    await admit(core, call, { method: context.method, signal: context.signal, policies });
  };
}

/**
 * Holds a call against its method's policy, once: lets it pass, with its session where there is one.
 * @throws ConnectError
 */
export async function admit(
  core: VerifyingCore,
  call: Call,
  { method, signal, policies }: Pick<HandlerContext, "method" | "signal"> & { policies: Policies },
): Promise<void> {
  if (call.admitted) {
    return;
  }
  try {
    const policy = policies.of(method);
    if (policy.auth !== "none") {
      forbidCaching(call.responseHeader, call.requestMethod);
      await raceSignal(enter(core, call, policy), signal);
    }
    call.admitted = true;
  } catch (error) {
    throw error instanceof ConnectError
      ? error
      : refuseCall(core, call, { error, procedure: procedureOf(method) });
  }
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

async function enter(core: VerifyingCore, call: Call, policy: MethodPolicy): Promise<void> {
  const claims = await authenticate(core, call, {
    required: policy.auth === "required",
    doAntiCsrfCheck: policy.doAntiCsrfCheck ?? call.requestMethod !== "GET",
    check: policy.check,
  });
  if (claims !== undefined) {
    enterSession(core, call, claims);
  }
}
