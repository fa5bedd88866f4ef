import { SessionError } from "../../base/errors.ts";
import { andThen } from "../../base/promises.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { VerifiedToken } from "../../jwt/verifier.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";

/** What is verified, and when. */
export interface Verifiable {
  readonly presented: PresentedTokens;
  /** Milliseconds since 1970 by the store's clock. */
  readonly now: number;
}

/**
 * Verifies the token of the Authorization header.
 * @throws SessionError
 */
export function verifyBearer(
  engine: Authenticator,
  { presented, now }: Verifiable,
): TokenClaims | Promise<TokenClaims> {
  const { bearer = "", accessCookies } = presented;
  return andThen(engine.verify(bearer, now), (verified) => {
    const claims = accept(verified, { transport: "header", hasRefreshToken: false });
    return accessCookies.length === 0 ? claims : checkCookies(engine, claims, { presented, now });
  });
}

/** The cookies beside a header must be of its session. */
async function checkCookies(
  engine: Authenticator,
  claims: TokenClaims,
  { presented, now }: Verifiable,
): Promise<TokenClaims> {
  for (const cookie of presented.accessCookies) {
    const other = await engine.verify(cookie, now);
    if ("claims" in other && other.claims.sid !== claims.sid) {
      throw conflict("header and cookie carry different sessions");
    }
  }
  return claims;
}

/**
 * Verifies the access cookie: of several copies the best one.
 * @throws SessionError
 */
export function verifyCookies(
  core: VerifyingCore,
  engine: Authenticator,
  { presented, now }: Verifiable,
): TokenClaims | Promise<TokenClaims> {
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
  return more.length === 0
    ? andThen(engine.verify(first, now), (verified) => accept(verified, context))
    : verifyCopies(core, engine, { presented, now }).then((best) => accept(best, context));
}

async function verifyCopies(
  core: VerifyingCore,
  engine: Authenticator,
  { presented, now }: Verifiable,
): Promise<VerifiedToken> {
  const all = await Promise.all(
    presented.accessCookies.map(async (cookie) => engine.verify(cookie, now)),
  );
  const sessions = new Set(all.flatMap((v) => ("claims" in v ? [v.claims.sid] : [])));
  if (sessions.size > 1) {
    const message = "there are access cookies of several sessions";
    throw core.cookies.hostOnly
      ? conflict(message)
      : new SessionError("unauthorized", "TOKEN_CONFLICT", { message, clearTokens: true });
  }
  return all.reduce(better);
}

/** Of two copies of a cookie, the one that says more. */
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

function accept(
  verified: VerifiedToken,
  context: { readonly transport: "cookie" | "header"; readonly hasRefreshToken: boolean },
): TokenClaims {
  switch (verified.status) {
    case "valid":
      if (verified.claims.transport !== context.transport) {
        throw conflict("the token belongs to the other transport");
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
      throw invalid(context.hasRefreshToken ? "tryRefreshToken" : "unauthorized");
  }
}

function invalid(kind: "tryRefreshToken" | "unauthorized"): SessionError {
  return new SessionError(kind, "TOKEN_INVALID", {
    message: "the access token is not valid",
    clearTokens: kind === "unauthorized",
  });
}

/** Tokens of different sessions: a refresh finds out which one lives. */
export function conflict(message: string): SessionError {
  return new SessionError("tryRefreshToken", "TOKEN_CONFLICT", { message });
}
