import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifiedToken } from "../../jwt/verifier.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { VerifyingCore } from "../core.ts";

/** Verifies one access token as of the arrival of the call. */
export type VerifyToken = (token: string) => VerifiedToken | Promise<VerifiedToken>;

/**
 * Verifies the token in the Authorization header.
 * @throws SessionError
 */
export async function verifyBearer(
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
export async function verifyCookies(
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
        message: "the access token has expired",
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
    message: "the access token is not valid",
    clearTokens: kind === "unauthorized",
  });
}

/** The error of tokens that belong to different sessions. A refresh finds out which one is live. */
export function conflict(message: string): SessionError {
  return new SessionError("tryRefreshToken", "TOKEN_CONFLICT", { message });
}
