import { SessionError } from "../errors.ts";
import type { VerifiedToken } from "../jwt/access-token.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { endedError, liveOf } from "../session/ended.ts";
import { isTrustedSite } from "../tokens/cross-site.ts";
import type { PresentedTokens } from "../tokens/source.ts";
import type { Authenticator, VerifyingCore } from "./core.ts";

/** A request as far as authentication looks at it. */
export interface AuthenticationRequest {
  readonly headers: Headers;
  /** The HTTP method. */
  readonly method: string;
  readonly presented: PresentedTokens;
}

/** What a call demands. */
export interface AuthenticationDemand {
  readonly required: boolean;
  readonly doAntiCsrfCheck: boolean;
}

/**
 * Finds and verifies the access token of a request: tokens, cross-site, signature, anti-CSRF token,
 * revocation. No I/O, but for an unknown signing key.
 *
 * @returns the verified claims; undefined when nothing was presented and nothing is required
 * @throws SessionError
 */
export async function authenticate(
  core: VerifyingCore,
  request: AuthenticationRequest,
  demand: AuthenticationDemand,
): Promise<AccessClaims | undefined> {
  const { presented } = request;
  if (isEmpty(presented)) {
    if (demand.required) {
      throw new SessionError("unauthorized", "SESSION_MISSING", {
        message: "the call needs a session",
      });
    }
    return undefined;
  }
  const byCookie = presented.bearer === undefined;
  if (byCookie) {
    checkCrossSite(core, request);
  }
  const engine = await core.engine();
  const now = engine.storeNow();
  const claims = byCookie
    ? await verifyCookies(core, engine, { presented, now })
    : await verifyBearer(engine, { presented, now });
  if (byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck) {
    await checkAntiCsrf(engine, claims, presented.antiCsrf);
  }
  await checkRevoked(engine, claims);
  engine.used(claims);
  return claims;
}

/** @throws SessionError `forbidden` when a request with cookies comes from a page that may not */
export function checkCrossSite(
  core: VerifyingCore,
  request: Pick<AuthenticationRequest, "headers" | "method">,
): void {
  if (
    core.crossSite === "checked" &&
    !isTrustedSite(request.headers, request.method, core.origins)
  ) {
    throw new SessionError("forbidden", "CROSS_SITE", {
      message:
        "session cookies are for pages of this service's origins, and the request comes from elsewhere",
    });
  }
}

export function isEmpty(presented: PresentedTokens): boolean {
  return presented.bearer === undefined && !hasCookies(presented);
}

export function hasCookies(presented: PresentedTokens): boolean {
  return presented.accessCookies.length + presented.refreshCookies.length > 0;
}

interface Verifiable {
  readonly presented: PresentedTokens;
  readonly now: number;
}

async function verifyBearer(
  engine: Authenticator,
  { presented, now }: Verifiable,
): Promise<AccessClaims> {
  const verified = await engine.verify(presented.bearer ?? "", now);
  const claims = accept(verified, { transport: "header", hasRefreshToken: false });
  for (const cookie of presented.accessCookies) {
    const other = await engine.verify(cookie, now);
    if ("claims" in other && other.claims.sid !== claims.sid) {
      throw conflict("header and cookie carry different sessions");
    }
  }
  return claims;
}

async function verifyCookies(
  core: VerifyingCore,
  engine: Authenticator,
  { presented, now }: Verifiable,
): Promise<AccessClaims> {
  const context = {
    transport: "cookie",
    hasRefreshToken: presented.refreshCookies.length > 0,
  } as const;
  const [first, ...more] = presented.accessCookies;
  if (first === undefined) {
    throw new SessionError("tryRefreshToken", "ACCESS_TOKEN_MISSING", {
      message: "there is a refresh token, and no access token",
    });
  }
  const verified = await engine.verify(first, now);
  if (more.length === 0) {
    return accept(verified, context);
  }
  const all = [verified, ...(await Promise.all(more.map((cookie) => engine.verify(cookie, now))))];
  const sessions = new Set(all.flatMap((v) => ("claims" in v ? [v.claims.sid] : [])));
  if (sessions.size > 1) {
    const message = "there are access cookies of several sessions";
    throw core.cookies.hostOnly
      ? conflict(message)
      : new SessionError("unauthorized", "TOKEN_CONFLICT", { message, clearTokens: true });
  }
  return accept(all.reduce(better), context);
}

/** Of two copies of a cookie, the one that says more. */
function better(a: VerifiedToken, b: VerifiedToken): VerifiedToken {
  const rank = { valid: 3, expired: 2, invalid: 1, malformed: 0 } as const;
  if (rank[a.status] !== rank[b.status]) {
    return rank[a.status] > rank[b.status] ? a : b;
  }
  return "claims" in a && "claims" in b && isNewer(b.claims, a.claims) ? b : a;
}

function isNewer(a: AccessClaims, b: AccessClaims): boolean {
  return a.gen - b.gen > 0 || (a.gen === b.gen && (a.cv - b.cv || a.exp - b.exp) > 0);
}

function accept(
  verified: VerifiedToken,
  context: { readonly transport: "cookie" | "header"; readonly hasRefreshToken: boolean },
): AccessClaims {
  switch (verified.status) {
    case "valid":
      if (verified.claims.transport !== context.transport) {
        throw conflict("the token belongs to the other transport");
      }
      return verified.claims;
    case "expired":
      throw new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
        message: "the access token has expired",
        session: verified.claims.sid,
      });
    case "invalid":
      throw invalid("tryRefreshToken");
    case "malformed":
      throw invalid(context.hasRefreshToken ? "tryRefreshToken" : "unauthorized");
  }
}

function invalid(kind: "tryRefreshToken" | "unauthorized"): SessionError {
  return new SessionError(kind, "TOKEN_INVALID", {
    message: "the access token is not valid",
    clearTokens: kind === "unauthorized",
  });
}

function conflict(message: string): SessionError {
  return new SessionError("tryRefreshToken", "TOKEN_CONFLICT", { message });
}

async function checkAntiCsrf(
  engine: Authenticator,
  claims: AccessClaims,
  token: string | undefined,
): Promise<void> {
  if (token === undefined || !(await engine.antiCsrf.verify(claims.sid, token))) {
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      session: claims.sid,
    });
  }
}

async function checkRevoked(engine: Authenticator, claims: AccessClaims): Promise<void> {
  const { sid: session } = claims;
  const change = engine.revocations.get(session);
  if (change !== undefined) {
    throw endedError({ session, endedBy: change.endedBy, at: change.at }, engine.storeNow());
  }
  if (engine.revocations.unsure) {
    liveOf(session, await engine.load(session));
  }
}
