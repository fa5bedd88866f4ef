import { SessionError } from "../../base/errors.ts";
import { header, type TokenTransport } from "../../base/wire.ts";
import type { Reissued } from "../../engine/access-tokens.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { RevocationCheck } from "../../engine/revocation/check.ts";
import type { LookUp } from "../../engine/revocation/log.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifiedToken } from "../../jwt/verifier.ts";
import { checkCrossSite } from "../../request/origins.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Call } from "../call/call.ts";
import { raceSignal } from "../call/signal.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { sessionMissing } from "../response/errors.ts";
import { writeReissued } from "../response/tokens.ts";
import { sessionNamedBy } from "./refresh.ts";

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
    waited ||= work instanceof Promise;
    return within(demand.signal, work);
  };

  // 1. No tokens at all.
  if (presented.isEmpty) {
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
    const engine = await wait(core.engine());
    const now = engine.revocations.storeNow();
    const verify = (token: string) => wait(engine.verify(token, now));
    const verified = byCookie
      ? await verifyCookies(core, presented, verify)
      : await verifyBearer(presented, verify);

    // 4. The anti-CSRF token, if the service uses them.
    if (byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck) {
      await wait(checkAntiCsrf(core, engine, call, verified));
    }

    // 5. The session: revocation, and claims that changed after the token was issued.
    const lookedUpAt = waited ? undefined : now;
    const found = demand.check === "feed" ? lookUp(engine, verified, lookedUpAt) : undefined;
    const isLive = demand.check === "none" || (demand.check === "feed" && found === undefined);
    const claims = isLive
      ? verified
      : await wait(checkSession(core, call, { engine, verified, demand, found }));

    // 6. Using a refresh generation confirms it, if its refresh cookie is there as well. The write
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
  return work instanceof Promise && signal !== undefined ? raceSignal(work, signal) : work;
}

/** Verifies one access token as of the arrival of the call. */
type VerifyToken = (token: string) => VerifiedToken | Promise<VerifiedToken>;

/**
 * Verifies the token in the Authorization header.
 * @throws SessionError
 */
async function verifyBearer(
  { bearer = "", accessCookies }: PresentedTokens,
  verify: VerifyToken,
): Promise<TokenClaims> {
  const claims = accept(await verify(bearer), { transport: "header", hasRefreshToken: false });
  // Any cookies must belong to the same session.
  for (const cookie of accessCookies) {
    const other = await verify(cookie);
    if ("claims" in other && other.claims.sid !== claims.sid) {
      throw conflict("the Authorization header and the cookie belong to different sessions");
    }
  }
  return claims;
}

/**
 * Verifies the access cookie. If there are several copies, the best one counts.
 * @throws SessionError
 */
async function verifyCookies(
  core: VerifyingCore,
  { accessCookies, refreshCookies }: PresentedTokens,
  verify: VerifyToken,
): Promise<TokenClaims> {
  const context = { transport: "cookie", hasRefreshToken: refreshCookies.length > 0 } as const;
  const [first, ...more] = accessCookies;
  if (first === undefined) {
    throw new SessionError("tryRefreshToken", "ACCESS_TOKEN_MISSING", {
      message: "the request has a refresh token but no access token; refresh the session",
    });
  }
  if (more.length === 0) {
    return accept(await verify(first), context);
  }
  const copies = await Promise.all(accessCookies.map(async (cookie) => verify(cookie)));
  const sessions = new Set(copies.flatMap((v) => ("claims" in v ? [v.claims.sid] : [])));
  if (sessions.size > 1) {
    const message = "the access cookies belong to different sessions";
    // Without the __Host- prefix, a sibling host may have planted one of them.
    throw core.cookies.hostOnly
      ? conflict(message)
      : new SessionError("unauthorized", "TOKEN_CONFLICT", { message, clearTokens: true });
  }
  return accept(copies.reduce(better), context);
}

/** The more useful of two copies of a cookie. */
function better(a: VerifiedToken, b: VerifiedToken): VerifiedToken {
  const rank = { valid: 3, expired: 2, invalid: 1, malformed: 0 } as const;
  if (rank[a.status] !== rank[b.status]) {
    return rank[a.status] > rank[b.status] ? a : b;
  }
  return "claims" in a && "claims" in b && isNewer(b.claims, a.claims) ? b : a;
}

function isNewer(a: TokenClaims, b: TokenClaims): boolean {
  return a.gen - b.gen > 0 || (a.gen === b.gen && (a.cv - b.cv || a.exp - b.exp) > 0);
}

/** How a token was presented. */
interface Presentation {
  readonly transport: TokenTransport;
  readonly hasRefreshToken: boolean;
}

/** @throws SessionError unless the token is valid and was issued for the transport it came by */
function accept(
  verified: VerifiedToken,
  { transport, hasRefreshToken }: Presentation,
): TokenClaims {
  switch (verified.status) {
    case "valid":
      if (verified.claims.transport !== transport) {
        throw conflict("the access token was issued for the other token transport");
      }
      return verified.claims;
    case "expired":
      throw new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
        message: "the access token has expired; refresh the session and try again",
        sessionId: verified.claims.sid,
      });
    case "invalid":
      throw invalid("tryRefreshToken");
    case "malformed":
      throw invalid(hasRefreshToken ? "tryRefreshToken" : "unauthorized");
  }
}

function invalid(kind: "tryRefreshToken" | "unauthorized"): SessionError {
  return new SessionError(kind, "TOKEN_INVALID", {
    message: `the access token is not valid; ${kind === "unauthorized" ? "sign in again" : "refresh the session and try again"}`,
    clearTokens: kind === "unauthorized",
  });
}

/** The error of tokens that belong to different sessions. A refresh finds out which one is live. */
function conflict(problem: string): SessionError {
  const message = `${problem}; refresh the session and try again`;
  return new SessionError("tryRefreshToken", "TOKEN_CONFLICT", { message });
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
 * @param now the store's time, read just now; saves a reading of the clock
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
