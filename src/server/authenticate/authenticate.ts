import { SessionError } from "../../base/errors.ts";
import { header } from "../../base/wire.ts";
import type { Reissued } from "../../engine/access-tokens.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { RevocationCheck } from "../../engine/revocation/check.ts";
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

    // 5. The session: revocation, and claims that changed after the token was issued.
    const checkedAt = waits.waited ? undefined : now;
    const claims = isKnownLive(engine, verified, demand.check, checkedAt)
      ? verified
      : await waits.for(checkSession(core, call, { engine, verified, demand }));

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

/**
 * Whether the session of a verified token can be used as it is, without any I/O.
 * @param now the store's time, read just now; undefined if the call has waited since
 * @throws SessionError if the session is known to have ended
 */
function isKnownLive(
  engine: Authenticator,
  verified: TokenClaims,
  check: RevocationCheck,
  now: number | undefined,
): boolean {
  if (check === "feed") {
    assertNotRevoked(engine, verified);
    return (
      !engine.revocations.unsure &&
      !engine.revocations.isStale(now) &&
      !hasNewClaims(engine, verified)
    );
  }
  return check === "none";
}

/** The response to a call, which may carry a new access token. */
type Response = Pick<Call, "requestMethod" | "responseHeader">;

/** The claims of a valid token, and what its call demands of the session. */
interface VerifiedCall {
  readonly engine: Authenticator;
  readonly verified: TokenClaims;
  readonly demand: AuthenticationDemand;
}

/**
 * Checks with I/O that the session of a verified token is live, and updates its claims. If they have
 * changed, the response carries a new access token.
 *
 * @returns the claims to use for this call
 * @throws SessionError
 */
async function checkSession(
  core: VerifyingCore,
  response: Response,
  { engine, verified, demand }: VerifiedCall,
): Promise<TokenClaims> {
  // 1. The strict check: the stored session decides.
  if (demand.check === "strict") {
    const stored = await engine.load(verified.sid);
    return useStored(core, response, { engine, verified, stored });
  }

  // 2. The feed check: catch up with the change log.
  if (!engine.revocations.unsure && engine.revocations.isStale()) {
    await engine.revocations.catchUp();
    assertNotRevoked(engine, verified);
  }

  // 3. The log may have lost entries, perhaps only now: the stored session decides.
  if (engine.revocations.unsure) {
    const stored = await engine.loadUnsure(verified.sid);
    return useStored(core, response, { engine, verified, stored });
  }

  // 4. Claims that changed. In an outage the old ones serve, unless the policy looks at them.
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

function assertNotRevoked(engine: Authenticator, { sid: session }: TokenClaims): void {
  const end = engine.revocations.get(session);
  if (end !== undefined) {
    throw endedError({ session, endedBy: end.endedBy, at: end.at }, engine.revocations.storeNow());
  }
}

function hasNewClaims({ revocations }: Authenticator, { sid, cv }: TokenClaims): boolean {
  const version = revocations.claimsVersionOf(sid);
  return version !== undefined && version > cv;
}
