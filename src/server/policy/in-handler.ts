import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { Call } from "../call/call.ts";
import type { RpcContext } from "../call/exchange.ts";
import type { VerifyingCore } from "../core.ts";
import { misuse, refuseCall } from "../response/errors.ts";
import { assertClasses, assertStepUp, checkDemands, noDemands } from "./demands.ts";
import { procedureOf } from "./in-code.ts";
import { assertSourced, type ClaimDemand, type ClaimRules, readClaimRules } from "./rules.ts";

/** What the last authentication of a user must have been; at least one member. */
export interface StepUpDemand {
  /** The maximum time since then. Default: any time. */
  readonly freshWithin?: Duration;
  /** The accepted authentication context classes; the session's `acr` must be one of them. Default: any. */
  readonly acr?: readonly string[];
}

/** @throws ConnectError `PermissionDenied` if the user has not authenticated as demanded */
export function assertFresh(
  core: VerifyingCore,
  call: Call,
  given: {
    readonly context: RpcContext;
    readonly session: VerifiedSession<object>;
    readonly demand: Duration | StepUpDemand;
  },
): void {
  const { id, authTime, acr } = given.session;
  try {
    const last = { sessionId: id, authTime: authTime.getTime(), acr };
    assertStepUp(core, last, readDemand(given.demand));
  } catch (error) {
    throw refused(core, call, { error, context: given.context });
  }
}

/** @throws TypeError if it is neither a duration nor a demand */
function readDemand(demand: Duration | StepUpDemand) {
  if (typeof demand !== "object" || demand === null) {
    return { freshWithin: durationMs("requireFresh", demand), acr: [] };
  }
  assertMembers("requireFresh", demand, { freshWithin: 0, acr: 0 });
  const { freshWithin, acr = [] } = demand;
  assertClasses("requireFresh: acr", acr);
  if (freshWithin === undefined && acr.length === 0) {
    throw new TypeError('requireFresh: specify freshWithin, acr or both, such as { acr: ["phr"] }');
  }
  return {
    freshWithin:
      freshWithin === undefined ? undefined : durationMs("requireFresh: freshWithin", freshWithin),
    acr,
  };
}

/**
 * Returns the session of a call whose claims meet rules.
 * @throws ConnectError `PermissionDenied` if they do not
 */
export async function sessionMeeting(
  core: VerifyingCore,
  call: Call,
  { context, rules }: { readonly context: RpcContext; readonly rules: ClaimRules },
): Promise<VerifiedSession | undefined> {
  try {
    const claims = readRules(core, "sessions.requireClaims", rules);
    let { token } = call;
    if (token !== undefined) {
      const renewing = core.sources?.renew(call, token, claims, call.signal);
      if (renewing !== undefined) {
        token = await renewing;
        call.enter(core, { claims: token, read: await core.claims.read(token.claims) });
      }
      await checkDemands(core, { ...noDemands, doAntiCsrfCheck: undefined, claims }, token);
    }
    return call.session;
  } catch (error) {
    throw refused(core, call, { error, context });
  }
}

/** @throws TypeError if the rules are not valid, or there are none */
export function readRules(
  core: Pick<VerifyingCore, "sources">,
  method: string,
  rules: ClaimRules,
): readonly ClaimDemand[] {
  if (typeof rules !== "object" || rules === null || Object.keys(rules).length === 0) {
    throw new TypeError(`${method} requires rules by claim, such as { role: ["admin"] }`);
  }
  const demands = readClaimRules((claim) => `${method}: the claim "${claim}"`, rules);
  assertSourced(method, demands, core.sources);
  return demands;
}

function refused(
  core: VerifyingCore,
  call: Call,
  { error, context }: { readonly error: unknown; readonly context: RpcContext },
): Error {
  return error instanceof TypeError
    ? misuse(error.message, error)
    : refuseCall(core, call, { error, procedure: procedureOf(context.method) });
}
