import { SessionError } from "../../base/errors.ts";
import { header } from "../../base/wire.ts";
import type { Reissued } from "../../engine/access-tokens.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { RevocationCheck } from "../../engine/revocation/check.ts";
import type { LookUp } from "../../engine/revocation/log.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { isEmpty, type PresentedTokens } from "../../request/tokens.ts";
import type { Call } from "../call/call.ts";
import type { Waits } from "../call/waits.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { sessionMissing } from "../response/errors.ts";
import { writeReissued } from "../response/tokens.ts";
import { conflict, verifyBearer, verifyCookies } from "./access.ts";
import { checkCrossSite, sessionNamedBy } from "./refresh.ts";

/** The parts of a call that authentication reads and writes. */
export type AuthenticationRequest = Pick<
  Call,
  "requestHeader" | "requestMethod" | "presented" | "responseHeader"
>;

/** What a call demands of its caller. */
export interface AuthenticationDemand {
  /** Whether a call without tokens is refused. */
  readonly required: boolean;
  /** Whether a cookie session must present its anti-CSRF token, if the service uses them. */
  readonly doAntiCsrfCheck: boolean;
  /** How the call learns that its session has ended. */
  readonly check: RevocationCheck;
  /** Whether outdated claims must not be used, even in an outage. Default false. */
  readonly needsClaims?: boolean;
  /** Ends every wait when the call ends. */
  readonly waits: Waits;
}

/**
 * Authenticates a call: finds its access token, verifies it, and checks that its session is live.
 * A token that was verified before needs no I/O. It takes I/O to open the store, to look up an
 * unknown signing key, to catch up with a stale change log, to check strictly, and to load changed
 * claims.
 *
 * @returns the verified claims; undefined if no token was presented and none is required
 * @throws SessionError
 */
export async function authenticate(
  core: VerifyingCore,
  call: AuthenticationRequest,
  demand: AuthenticationDemand,
): Promise<TokenClaims | undefined> {
  const { presented } = call;
  const { waits } = demand;

  // 1. No tokens at all.
  if (isEmpty(presented)) {
    if (demand.required) {
      throw sessionMissing();
    }
    return undefined;
  }

  // 2. Cookies only count on requests from our own pages.
  const byCookie = presented.bearer === undefined;
  if (byCookie) {
    checkCrossSite(core, call);
  }

  try {
    // 3. The token: format, signature, issuer, audience, lifetime.
    const engine = await waits.for(core.engine());
    const now = engine.revocations.storeNow();
    const verify = (token: string) => waits.for(engine.verify(token, now));
    const verified = byCookie
      ? await verifyCookies(core, presented, verify)
      : await verifyBearer(presented, verify);

    // 4. The anti-CSRF token, if the service uses them.
    if (byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck) {
      await waits.for(checkAntiCsrf(core, engine, call, verified));
    }

    // 5. Revocation, and claims that changed after the token was issued.
    const checkedAt = waits.waited ? undefined : now;
    const claims = await checkSession(core, call, { engine, verified, demand, now: checkedAt });

    // 6. Using a refresh generation confirms it. The write happens in the background.
    engine.used(claims, now);
    return claims;
  } catch (error) {
    // The access cookie may be a late copy from a session that has ended, overwriting the one of
    // the next session. The refresh cookie decides which session is live.
    throw byCookie && namesAnotherSession(presented, error)
      ? conflict("the access cookie and the refresh cookie belong to different sessions")
      : error;
  }
}

/** @throws SessionError `tryRefreshToken` if the anti-CSRF token is missing or wrong */
async function checkAntiCsrf(
  core: VerifyingCore,
  engine: Authenticator,
  { requestHeader }: AuthenticationRequest,
  { sid }: TokenClaims,
): Promise<void> {
  const token = requestHeader.get(header.csrf);
  if (token === null || !(await engine.antiCsrf.verify(sid, token))) {
    core.emit({ type: "csrfRefused", check: "token", origin: requestHeader.get("origin") });
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong; refresh the session and try again",
      sessionId: sid,
    });
  }
}

/** Whether an error is the end of one session while a refresh cookie names another one. */
function namesAnotherSession({ refreshCookies }: PresentedTokens, error: unknown): boolean {
  if (!(error instanceof SessionError) || error.kind !== "unauthorized") {
    return false;
  }
  const { sessionId } = error;
  return (
    sessionId !== undefined &&
    refreshCookies.some((token) => (sessionNamedBy(token) ?? sessionId) !== sessionId)
  );
}

/** The response to a call, which may carry a new access token. */
type Response = Pick<Call, "requestMethod" | "responseHeader">;

/** The claims of a valid token, and what its call demands of the session. */
interface VerifiedCall {
  readonly engine: Authenticator;
  readonly verified: TokenClaims;
  readonly demand: AuthenticationDemand;
  /** The store's time, read just now; undefined if the call has waited since. */
  readonly now: number | undefined;
}

/**
 * Checks that the session of a verified token is live, and updates its claims. If they have
 * changed, the response carries a new access token.
 *
 * @returns the claims to use for this call
 * @throws SessionError
 */
async function checkSession(
  core: VerifyingCore,
  response: Response,
  call: VerifiedCall,
): Promise<TokenClaims> {
  const { engine, verified, demand, now } = call;
  switch (demand.check) {
    case "none":
      return verified;
    case "strict":
      return demand.waits.for(checkStored(core, response, call));
    case "feed": {
      const found = lookUp(engine, verified, now);
      return found === undefined
        ? verified
        : demand.waits.for(checkFeed(core, response, call, found));
    }
  }
}

/** The strict check: what the store says now. */
async function checkStored(
  core: VerifyingCore,
  response: Response,
  { engine, verified }: VerifiedCall,
): Promise<TokenClaims> {
  const stored = await engine.load(verified.sid);
  return useStored(core, response, { engine, verified, stored });
}

/** The feed check where what is known in memory is not enough. */
async function checkFeed(
  core: VerifyingCore,
  response: Response,
  { engine, verified, demand }: VerifiedCall,
  lookedUp: LookUp,
): Promise<TokenClaims> {
  // 1. Catch up with the change log.
  let found: LookUp | undefined = lookedUp;
  if (found.isStale && !found.isUnsure) {
    await engine.revocations.catchUp();
    found = lookUp(engine, verified);
  }

  // 2. The log may have lost entries, perhaps only now: the stored session decides.
  if (found?.isUnsure) {
    const stored = await engine.loadUnsure(verified.sid);
    return useStored(core, response, { engine, verified, stored });
  }

  // 3. Claims that changed. In an outage the old ones serve, unless the policy looks at them.
  try {
    return await useReissued(core, response, verified, await engine.reissue(verified));
  } catch (error) {
    if (!demand.needsClaims && error instanceof SessionError && error.kind === "unavailable") {
      return verified;
    }
    throw error;
  }
}

/** Checks the stored session, and uses the claims that it has now. */
async function useStored(
  core: VerifyingCore,
  response: Response,
  { engine, verified, stored }: Pick<VerifiedCall, "engine" | "verified"> & FromStore,
): Promise<TokenClaims> {
  const record = liveOf(verified.sid, stored);
  const reissued = await engine.reissueFrom(verified, { record, now: stored.now });
  return useReissued(core, response, verified, reissued);
}

interface FromStore {
  readonly stored: Awaited<ReturnType<Authenticator["load"]>>;
}

/** Uses the claims of a new access token, if there is one, and sends that token to the client. */
async function useReissued(
  core: VerifyingCore,
  { requestMethod, responseHeader }: Response,
  verified: TokenClaims,
  reissued: Reissued | undefined,
): Promise<TokenClaims> {
  if (reissued === undefined) {
    return verified;
  }
  // The response to a GET may be cached, so it carries no token.
  if (requestMethod !== "GET") {
    await writeReissued(core, responseHeader, reissued);
  }
  return reissued.access.claims;
}

/**
 * Returns what is known against using the token as it is; undefined if nothing is.
 * @throws SessionError `unauthorized` if its session has ended
 */
function lookUp(
  { revocations }: Authenticator,
  { sid, cv }: TokenClaims,
  now?: number,
): LookUp | undefined {
  const found = revocations.lookUp(sid, cv, now);
  if (found?.end !== undefined) {
    throw endedError(found.end, found.now);
  }
  return found;
}
