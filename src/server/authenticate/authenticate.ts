import { SessionError } from "../../base/errors.ts";
import { andThen } from "../../base/promises.ts";
import { header } from "../../base/wire.ts";
import type { Reissued } from "../../engine/access-tokens.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { RevocationCheck } from "../../engine/revocation/check.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { isEmpty, type PresentedTokens } from "../../request/tokens.ts";
import type { Call } from "../call/call.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { writeReissued } from "../response/tokens.ts";
import { conflict, verifyBearer, verifyCookies } from "./access.ts";
import { checkCrossSite, sessionNamedBy } from "./refresh.ts";

/** What a call demands of a session whose token is good. */
export interface SessionDemand {
  readonly check: RevocationCheck;
  /** Whether claims that are out of date must not serve, even in an outage. Default false. */
  readonly needsClaims?: boolean;
}

/** Where a new access token goes. */
type Response = Pick<Call, "requestMethod" | "responseHeader">;

/** A verified token, and what its call demands. */
export interface Verified {
  readonly engine: Authenticator;
  readonly claims: TokenClaims;
  readonly demand: SessionDemand;
  /** What `storeNow` told just now; undefined where something was waited for since. */
  readonly now: number | undefined;
}

/**
 * Checks that the session of a verified token lives, and brings its claims up to date: where they
 * have changed, the response carries a new access token. Nothing is waited for where all is known.
 *
 * @throws SessionError
 */
export function checkSession(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): TokenClaims | Promise<TokenClaims> {
  const { engine, claims, demand, now } = verified;
  switch (demand.check) {
    case "none":
      return claims;
    case "strict":
      return checkStored(core, response, verified);
    case "feed":
      assertNotRevoked(engine, claims);
      return engine.revocations.unsure ||
        engine.revocations.isStale(now) ||
        hasNewClaims(engine, claims)
        ? checkFeed(core, response, verified)
        : claims;
  }
}

async function checkFeed(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): Promise<TokenClaims> {
  const { engine, claims, demand } = verified;
  if (!engine.revocations.unsure && engine.revocations.isStale()) {
    await engine.revocations.catchUp();
    assertNotRevoked(engine, claims);
  }
  // Also where the store has lost changes meanwhile.
  if (engine.revocations.unsure) {
    return adoptStored(core, response, { verified, stored: await engine.loadUnsure(claims.sid) });
  }
  try {
    return await adopt(core, response, { claims, reissued: await engine.reissue(claims) });
  } catch (error) {
    if (!demand.needsClaims && error instanceof SessionError && error.kind === "unavailable") {
      return claims;
    }
    throw error;
  }
}

async function checkStored(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): Promise<TokenClaims> {
  const { engine, claims } = verified;
  return adoptStored(core, response, { verified, stored: await engine.load(claims.sid) });
}

async function adoptStored(
  core: VerifyingCore,
  response: Response,
  { verified, stored }: { readonly verified: Verified; readonly stored: StoredSession },
): Promise<TokenClaims> {
  const { engine, claims } = verified;
  const record = liveOf(claims.sid, stored);
  const reissued = await engine.reissueFrom(claims, { record, now: stored.now });
  return adopt(core, response, { claims, reissued });
}

type StoredSession = Awaited<ReturnType<Authenticator["load"]>>;

function assertNotRevoked(engine: Authenticator, claims: TokenClaims): void {
  const { sid: session } = claims;
  const end = engine.revocations.get(session);
  if (end !== undefined) {
    throw endedError({ session, endedBy: end.endedBy, at: end.at }, engine.revocations.storeNow());
  }
}

function hasNewClaims({ revocations }: Authenticator, { sid, cv }: TokenClaims): boolean {
  const version = revocations.claimsVersionOf(sid);
  return version !== undefined && version > cv;
}

/** The claims that the call goes on with; new ones go to the client, unless by GET, which may be kept. */
async function adopt(
  core: VerifyingCore,
  { requestMethod, responseHeader }: Response,
  { claims, reissued }: { readonly claims: TokenClaims; readonly reissued: Reissued | undefined },
): Promise<TokenClaims> {
  if (reissued === undefined) {
    return claims;
  }
  if (requestMethod !== "GET") {
    await writeReissued(core, responseHeader, reissued);
  }
  return reissued.access.claims;
}

/** A call as far as authentication looks at it. */
export type AuthenticationRequest = Pick<
  Call,
  "requestHeader" | "requestMethod" | "presented" | "responseHeader"
>;

/** What a call demands. */
export interface AuthenticationDemand extends SessionDemand {
  readonly required: boolean;
  readonly doAntiCsrfCheck: boolean;
}

/**
 * Finds and verifies the access token of a request: tokens, cross-site, signature, anti-CSRF token,
 * revocation. No I/O, but for an unknown signing key, a stale change log, a strict check, and claims
 * that have changed; and no promise where the token was verified before.
 *
 * @returns the verified claims; undefined when nothing was presented and nothing is required
 * @throws SessionError
 */
export function authenticate(
  core: VerifyingCore,
  request: AuthenticationRequest,
  demand: AuthenticationDemand,
): TokenClaims | undefined | Promise<TokenClaims> {
  const { presented } = request;
  if (isEmpty(presented)) {
    if (demand.required) {
      throw new SessionError("unauthorized", "SESSION_MISSING", {
        message: "the call needs a session",
      });
    }
    return undefined;
  }
  if (presented.bearer === undefined) {
    checkCrossSite(core, request);
  }
  const given = { core, request, demand };
  const work = () => andThen(core.engine(), (engine) => authenticateBy(engine, given));
  return presented.bearer === undefined ? orRefresh(presented, work) : work();
}

/**
 * That one session has ended says nothing of another one, which the refresh cookie may be of: an
 * answer of the ended one that came late has overwritten the access cookie of the next.
 */
function orRefresh<T>(presented: PresentedTokens, work: () => T | Promise<T>): T | Promise<T> {
  const failed = (error: unknown): never => {
    throw error instanceof SessionError && namesAnother(presented, error)
      ? conflict("the access and the refresh cookie are of different sessions")
      : error;
  };
  try {
    const done = work();
    return done instanceof Promise ? done.catch(failed) : done;
  } catch (error) {
    return failed(error);
  }
}

function namesAnother(
  { refreshCookies }: PresentedTokens,
  { kind, sessionId: session }: SessionError,
) {
  return (
    kind === "unauthorized" &&
    session !== undefined &&
    refreshCookies.some((token) => (sessionNamedBy(token) ?? session) !== session)
  );
}

/** A request that brought a token, and what it has to be good for. */
interface Presented {
  readonly core: VerifyingCore;
  readonly request: AuthenticationRequest;
  readonly demand: AuthenticationDemand;
}

function authenticateBy(
  engine: Authenticator,
  given: Presented,
): TokenClaims | Promise<TokenClaims> {
  const { core, request, demand } = given;
  const { presented } = request;
  const byCookie = presented.bearer === undefined;
  const now = engine.revocations.storeNow();
  const verified = byCookie
    ? verifyCookies(core, engine, { presented, now })
    : verifyBearer(engine, { presented, now });
  const byToken = byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck;
  // Most calls wait for nothing: those make no promise, nor anything else in vain.
  return byToken || verified instanceof Promise
    ? checkLater(engine, given, { verified, byToken, now })
    : checkLive(engine, given, { claims: verified, now, checkedAt: now });
}

async function checkLater(
  engine: Authenticator,
  given: Presented,
  {
    verified,
    byToken,
    now,
  }: {
    readonly verified: TokenClaims | Promise<TokenClaims>;
    readonly byToken: boolean;
    readonly now: number;
  },
): Promise<TokenClaims> {
  const claims = await verified;
  if (byToken) {
    await checkAntiCsrf(engine, given, claims);
  }
  return checkLive(engine, given, { claims, now, checkedAt: undefined });
}

function checkLive(
  engine: Authenticator,
  { core, request, demand }: Presented,
  found: {
    readonly claims: TokenClaims;
    readonly now: number;
    /** What `storeNow` told just now; undefined where something was waited for since. */
    readonly checkedAt: number | undefined;
  },
): TokenClaims | Promise<TokenClaims> {
  const { claims, now, checkedAt } = found;
  const live = checkSession(core, request, { engine, claims, demand, now: checkedAt });
  if (live instanceof Promise) {
    return live.then((current) => takeNote(engine, current, now));
  }
  return takeNote(engine, live, now);
}

function takeNote(engine: Authenticator, claims: TokenClaims, now: number): TokenClaims {
  engine.used(claims, now);
  return claims;
}

async function checkAntiCsrf(
  engine: Authenticator,
  { core, request }: Presented,
  claims: TokenClaims,
): Promise<void> {
  const token = request.requestHeader.get(header.csrf);
  if (token === null || !(await engine.antiCsrf.verify(claims.sid, token))) {
    core.emit({ type: "csrfRefused", check: "token", origin: request.requestHeader.get("origin") });
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      sessionId: claims.sid,
    });
  }
}
