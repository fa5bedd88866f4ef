import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { outlineOf } from "../../jwt/strict-parse.ts";
import type { VerifiedToken } from "../../jwt/verifier.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { hasOwnRefresh, isTooMany, ownAccessCookies } from "./candidates.ts";
import { sessionNamedBy } from "./refresh.ts";

/** Verifies one access token as of the arrival of the call. */
export type VerifyToken = (token: string) => VerifiedToken | Promise<VerifiedToken>;

/** What verifying cookies works with. */
interface CookieVerification {
  readonly presented: PresentedTokens;
  readonly verify: VerifyToken;
  /** Waits at most until the call ends. */
  readonly wait: <T>(work: T | Promise<T>) => T | Promise<T>;
}

/**
 * Verifies the copies of the access cookie, if there is not just one. The best one counts.
 * @returns undefined if all cookies are those of another service
 * @throws SessionError
 */
export async function verifyCopies(
  core: VerifyingCore,
  engine: Authenticator,
  { presented, verify, wait }: CookieVerification,
): Promise<TokenClaims | undefined> {
  const { accessCookies } = presented;

  // 1. Too many copies may hide the real one.
  if (isTooMany(accessCookies, ownAccessCookies(core, presented))) {
    throw contradiction(core, "there are too many copies of the access cookie");
  }

  // 2. Those of other issuers count as absent.
  const verified = await Promise.all(
    accessCookies.map(async (token): Promise<Copy> => ({ token, ...(await verify(token)) })),
  );
  const copies = verified.filter(({ status }) => status !== "foreign");
  if (copies.length === 0) {
    return withoutAccess(engine, presented);
  }

  // 3. Copies of several sessions contradict each other, except those of sessions that have ended.
  const sessions = new Set(copies.flatMap((copy) => ("claims" in copy ? [copy.claims.sid] : [])));
  const rivals = core.cookies.hostOnly ? [] : rivalsOf(copies, sessions, presented);
  if (sessions.size + rivals.length > 1) {
    if (core.cookies.hostOnly) {
      // Only this host can have set them. Refresh reads their rows, and expires the wrong ones.
      throw contradiction(core, severalSessions);
    }
    const standings = await wait(standingsOf(engine, [...sessions, ...rivals]));
    const live = [...sessions].filter((session) => standings.get(session) !== "over");
    const unproven = rivals.filter((session) => standings.get(session) === "live");
    if (live.length + unproven.length > 1) {
      throw contradiction(core, severalSessions);
    }
    if (unproven.length > 0) {
      throw conflict(severalSessions);
    }
    const [one] = live;
    const ofOne = copies.filter((copy) => "claims" in copy && copy.claims.sid === one);
    return accept((one === undefined ? copies : ofOne).reduce(better), "cookie");
  }
  return accept(copies.reduce(better), "cookie");
}

const severalSessions = "the access cookies belong to different sessions";

/** A copy of the access cookie, and what it proves. */
type Copy = VerifiedToken & { readonly token: string };

/**
 * Returns the sessions that a copy names without proving it, beside those that others prove, and that
 * a refresh cookie names as well. Such a copy may be the real one, under a key that has been retired
 * or that this server does not know yet.
 */
function rivalsOf(
  copies: readonly Copy[],
  proven: ReadonlySet<string>,
  { refreshCookies }: PresentedTokens,
): readonly string[] {
  if (proven.size === 0) {
    return [];
  }
  const refreshed = new Set(refreshCookies.map(sessionNamedBy));
  const named = copies.map(({ token }) => outlineOf(token).session ?? "");
  return [...new Set(named)].filter(
    (session) => sessionId.test(session) && refreshed.has(session) && !proven.has(session),
  );
}

/** The form of a session's id. No other text is looked up in a store. */
const sessionId = /^[\w-]{22}$/;

type Standing = Awaited<ReturnType<Authenticator["standingOf"]>>;

async function standingsOf(
  engine: Authenticator,
  sessions: readonly string[],
): Promise<ReadonlyMap<string, Standing>> {
  return new Map(
    await Promise.all(sessions.map(async (id) => [id, await engine.standingOf(id)] as const)),
  );
}

/**
 * Decides about a request whose own access cookie is absent.
 * @returns undefined if there is no own refresh cookie either
 * @throws SessionError `tryRefreshToken` if there may be one
 */
export function withoutAccess(engine: Authenticator, presented: PresentedTokens): undefined {
  if (hasOwnRefresh(engine, presented)) {
    throw new SessionError("tryRefreshToken", "ACCESS_TOKEN_MISSING", {
      message: "the request has a refresh token but no access token; refresh the session",
    });
  }
  return undefined;
}

/** The error of cookies that belong to different sessions, or of so many that this cannot be told. */
function contradiction(core: VerifyingCore, problem: string): SessionError {
  // Without the __Host- prefix, a sibling host may have planted one of them.
  return core.cookies.hostOnly
    ? conflict(problem)
    : new SessionError("unauthorized", "TOKEN_CONFLICT", {
        message: `${problem}; sign in again`,
        clearTokens: true,
      });
}

/** The more useful of two copies of a cookie. */
function better<T extends VerifiedToken>(a: T, b: T): T {
  const rank = { valid: 4, expired: 3, invalid: 2, malformed: 1, foreign: 0 } as const;
  if (rank[a.status] !== rank[b.status]) {
    return rank[a.status] > rank[b.status] ? a : b;
  }
  return "claims" in a && "claims" in b && isNewer(b.claims, a.claims) ? b : a;
}

function isNewer(a: TokenClaims, b: TokenClaims): boolean {
  return a.gen - b.gen > 0 || (a.gen === b.gen && (a.cv - b.cv || a.exp - b.exp) > 0);
}

/**
 * @param transport how the token was presented
 * @throws SessionError unless the token is valid and was issued for the transport it came by
 */
export function accept(verified: VerifiedToken, transport: TokenTransport): TokenClaims {
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
        userId: verified.claims.sub,
      });
    case "foreign":
    case "invalid":
    case "malformed":
      // Nothing is proven, so nothing is known about the session: the refresh decides.
      throw new SessionError("tryRefreshToken", "TOKEN_INVALID", {
        message: "the access token is not valid; refresh the session and try again",
      });
  }
}

/** The error of tokens that belong to different sessions. A refresh finds out which one is live. */
export function conflict(problem: string): SessionError {
  const message = `${problem}; refresh the session and try again`;
  return new SessionError("tryRefreshToken", "TOKEN_CONFLICT", { message });
}
