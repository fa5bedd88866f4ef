import { SessionError } from "../../base/errors.ts";
import { isPromise } from "../../base/promises.ts";
import { header } from "../../base/wire.ts";
import type { Reissued } from "../../engine/access-tokens.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { RevocationCheck } from "../../engine/revocation/check.ts";
import type { LookUp } from "../../engine/revocation/log.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { crossSiteRefused, isSafeNavigation, mayUseCookies } from "../../request/origins.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Call } from "../call/call.ts";
import { raceSignal } from "../call/signal.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { sessionMissing } from "../response/errors.ts";
import { writeReissued } from "../response/tokens.ts";
import { hasForeignCookies, isForeignBearer, mayHaveOwnCookies } from "./candidates.ts";
import { accept, conflict, type VerifyToken, verifyCopies, withoutAccess } from "./copies.ts";
import { checkKey, concernsKey } from "./proofs.ts";
import { sessionNamedBy } from "./refresh.ts";

/** The parts of a call that authentication reads and writes. */
export type AuthenticationRequest = Pick<
  Call,
  | "requestHeader"
  | "requestMethod"
  | "method"
  | "url"
  | "presented"
  | "responseHeader"
  | "proven"
  | "provenKey"
  | "waited"
>;

/** The demands of a call on its caller. */
export interface AuthenticationDemand {
  /** Whether a call without tokens is refused. */
  readonly required: boolean;
  /** Whether a cookie session must present its anti-CSRF token, if the service uses them. */
  readonly doAntiCsrfCheck: boolean;
  /** How the call learns that its session has ended. */
  readonly check: RevocationCheck;
  /** What happens to a bearer token that is not this service's own. */
  readonly foreignBearer: "refuse" | "ignore";
  /**
   * Which requests may use cookies: those of the service's own pages, also navigations from elsewhere,
   * or all, because the caller has checked the request. Default "checked".
   */
  readonly crossSite?: "checked" | "navigations" | "unchecked";
  /** Whether outdated claims must not be used, even in an outage. Default false. */
  readonly needsClaims?: boolean;
  /** Whether the call must prove the key of its session. Default false. */
  readonly proof?: boolean;
  /** Ends every wait when it aborts; undefined for waits that nothing ends. */
  readonly signal: AbortSignal | undefined;
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
  // Whether the call has waited, so that a time read before may be out of date.
  let waited = false;
  const wait = <T>(work: T | Promise<T>): T | Promise<T> => {
    if (isPromise(work)) {
      waited = true;
      call.waited = true;
    }
    return within(demand.signal, work);
  };

  // 1. Who asks: a bearer token, the cookies, or nobody. Cookies only count on requests from our own
  // pages, and those of another service do not count at all.
  const asker = askerOf(core, call, demand);
  if (asker === "nobody") {
    return withoutSession(core, presented, demand);
  }
  const byCookie = asker === "cookie";

  try {
    // 2. The token: format, issuer, signature, audience, lifetime.
    const engine = await wait(core.engine());
    const now = engine.revocations.storeNow();
    const verify: VerifyToken = (token) => wait(engine.verify(token, now));
    const [cookie, ...copies] = presented.accessCookies;
    const verifyTokens = async () => {
      if (byCookie && (cookie === undefined || copies.length > 0)) {
        return verifyCopies(core, engine, { presented, verify, wait });
      }
      const only = await verify((byCookie ? cookie : presented.bearer) ?? "");
      return byCookie && only.status === "foreign"
        ? withoutAccess(engine, presented)
        : accept(only, byCookie ? "cookie" : "header");
    };
    const verified = await verifyTokens();

    // 3. Only cookies of another service.
    if (verified === undefined) {
      return withoutSession(core, presented, demand);
    }
    call.proven = verified;

    // 4. The key of the session, where the scheme or the policy asks for a proof.
    const isDemanded = demand.proof === true;
    if (concernsKey(presented, verified, isDemanded)) {
      await wait(checkKey({ proofs: core.proofs, engine, isDemanded }, call, verified));
    }

    // 5. The anti-CSRF token, if the service uses them.
    if (byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck) {
      await wait(checkAntiCsrf(core, engine, call, verified));
    }

    // 6. The session: revocation, and claims that changed after the token was issued.
    const lookedUpAt = waited ? undefined : now;
    const found = demand.check === "feed" ? lookUp(engine, verified, lookedUpAt) : undefined;
    const isLive = demand.check === "none" || (demand.check === "feed" && found === undefined);
    const claims = isLive
      ? verified
      : await wait(checkSession(core, call, { engine, verified, demand, found }));
    if (found?.isStale) {
      // By now the log has been read, and it may have retired the key that signed the token.
      await verifyTokens();
    }

    // 7. Using a refresh generation confirms it, if its refresh cookie is there as well. The write
    // happens in the background.
    engine.used(claims, presented.refreshCookies, now);
    return claims;
  } catch (error) {
    // The access cookie may be a late copy from a session that has ended, overwriting the one of
    // the next session. The refresh cookie decides which session is live.
    throw byCookie && namesAnotherSession(presented, error)
      ? conflict("the access cookie and the refresh cookie belong to different sessions")
      : error;
  }
}

/**
 * Waits for work, at most until the call ends. A value that is already there costs nothing:
 * listening to a signal takes longer than verifying a remembered token.
 * @throws ConnectError `DeadlineExceeded` or `Canceled` when the signal is first
 */
export function within<T>(signal: AbortSignal | undefined, work: T | Promise<T>): T | Promise<T> {
  return isPromise(work) && signal !== undefined ? raceSignal(work, signal) : work;
}

/** Who makes a call: the holder of a bearer token, a browser with cookies, or nobody in particular. */
type Asker = "header" | "cookie" | "nobody";

/** @throws SessionError `forbidden` if own cookies come from a page that may not send them */
function askerOf(
  core: VerifyingCore,
  call: AuthenticationRequest,
  { foreignBearer, crossSite }: AuthenticationDemand,
): Asker {
  const { presented } = call;
  const { bearer } = presented;
  if (bearer !== undefined) {
    // Cookies beside a bearer token never count, not even if it is left to the service.
    return foreignBearer === "ignore" && isForeignBearer(core, bearer) ? "nobody" : "header";
  }
  if (!presented.byCookie) {
    return "nobody";
  }
  if (
    mayUseCookies(core, call) ||
    crossSite === "unchecked" ||
    (crossSite === "navigations" && isSafeNavigation(call))
  ) {
    return "cookie";
  }
  if (mayHaveOwnCookies(core, presented)) {
    throw crossSiteRefused(core, call);
  }
  return "nobody";
}

/** @throws SessionError `unauthorized` if the call needs a session */
function withoutSession(
  core: VerifyingCore,
  presented: PresentedTokens,
  { required }: AuthenticationDemand,
): undefined {
  if (required) {
    throw sessionMissing(presented.byCookie && hasForeignCookies(core, presented));
  }
  return undefined;
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
type Response = Pick<Call, "requestMethod" | "responseHeader" | "presented">;

/** The claims of a valid token that cannot be used without a closer look at its session. */
interface DoubtfulCall {
  readonly engine: Authenticator;
  readonly verified: TokenClaims;
  readonly demand: AuthenticationDemand;
  /** The doubts that the change log leaves; undefined for a strict check. */
  readonly found: LookUp | undefined;
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
  { engine, verified, demand, found: lookedUp }: DoubtfulCall,
): Promise<TokenClaims> {
  // 1. The strict check: the stored session decides.
  if (demand.check === "strict") {
    const stored = await engine.load(verified.sid);
    return useStored(core, response, { engine, verified, stored });
  }

  // 2. The feed check: catch up with the change log.
  let found = lookedUp;
  if (found?.isStale && !found.isUnsure) {
    await engine.revocations.catchUp();
    found = lookUp(engine, verified);
  }

  // 3. The log may have lost entries, perhaps only now: the stored session decides.
  if (found?.isUnsure) {
    const stored = await engine.loadUnsure(verified.sid);
    // Meanwhile the log may have been read, and may know more than the row.
    lookUp(engine, verified);
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
  { engine, verified, stored }: Pick<DoubtfulCall, "engine" | "verified"> & FromStore,
): Promise<TokenClaims> {
  const record = liveOf(verified.sid, stored);
  const reissued = await engine.reissueFrom(verified, { ...stored, record });
  return useReissued(core, response, verified, reissued);
}

interface FromStore {
  readonly stored: Awaited<ReturnType<Authenticator["load"]>>;
}

/** Uses the claims of a new access token, if there is one, and sends that token to the client. */
async function useReissued(
  core: VerifyingCore,
  call: Response,
  verified: TokenClaims,
  reissued: Reissued | undefined,
): Promise<TokenClaims> {
  if (reissued === undefined) {
    return verified;
  }
  // The response to a GET may be cached, so it carries no token.
  if (call.requestMethod !== "GET") {
    await writeReissued(core, call, reissued);
  }
  return reissued.access.claims;
}

/**
 * Returns what is known against using the token as it is; undefined if nothing is.
 * @param now the store's time, read just now; saves a reading of the clock
 * @throws SessionError `unauthorized` if its session has ended
 */
function lookUp(
  { revocations }: Authenticator,
  token: TokenClaims,
  now?: number,
): LookUp | undefined {
  const found = revocations.lookUp(token, now);
  if (found?.end !== undefined) {
    throw endedError(found.end, found.now);
  }
  return found;
}
