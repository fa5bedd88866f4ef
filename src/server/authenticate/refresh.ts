import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { Engine } from "../../engine/engine.ts";
import {
  ForeignRefreshTokenError,
  type ProvenRefreshToken,
  UnknownSecretError,
} from "../../engine/refresh/token.ts";
import type { PresentedTokens } from "../../request/tokens.ts";

/** The sessions to which a request provably belongs. */
export interface ProvenSessions {
  readonly sessions: ReadonlySet<string>;
  /** Set if there may be another session: one refresh token was made with a secret unknown here. */
  readonly unknown: UnknownSecretError | undefined;
}

/** The tokens of a request that count beside its Authorization header. */
export interface CountedTokens {
  /** The refresh token in the message; empty if there is none. */
  readonly message: string;
  /** Whether the call expires or replaces cookies, so that their sessions end with them. */
  readonly actsOnCookies: boolean;
}

/**
 * Returns the sessions that a sign-out or sign-in ends: the one that the message or the header proves
 * or, if they prove none, those of the cookies that the call acts on.
 * @throws SessionError `unavailable`
 */
export async function provenSessions(
  engine: Engine,
  presented: PresentedTokens,
  { message, actsOnCookies }: CountedTokens,
): Promise<ProvenSessions> {
  // 1. The refresh token of the message.
  const refreshed = message === "" ? "junk" : await proveRefresh(engine, message, "header");
  if (isProven(refreshed)) {
    return { sessions: new Set([refreshed.record.id]), unknown: undefined };
  }

  // 2. The access token of the header.
  const { bearer } = presented;
  const session =
    bearer === undefined ? undefined : await sessionOfAccess(engine, bearer, "header");
  if (session !== undefined) {
    return { sessions: new Set([session]), unknown: undefined };
  }

  // 3. The cookies.
  const none = { sessions: new Set<string>(), unknown: undefined };
  const ofCookies = actsOnCookies ? await sessionsOfCookies(engine, presented) : none;
  const unknown = refreshed instanceof UnknownSecretError ? refreshed : ofCookies.unknown;
  return { sessions: ofCookies.sessions, unknown };
}

/**
 * Returns the session of an access token that came by a transport. An expired token is enough to end
 * a session, though not to use it.
 */
async function sessionOfAccess(
  engine: Engine,
  token: string,
  transport: TokenTransport,
): Promise<string | undefined> {
  const verified = await engine.verify(token, engine.revocations.storeNow());
  const authentic = verified.status === "valid" || verified.status === "expired";
  return authentic && verified.claims.transport === transport ? verified.claims.sid : undefined;
}

/**
 * What a refresh token proves: a generation of a session, or nothing. It proves nothing if it is
 * `junk`, if it is `foreign` (under a secret that this service never had), or if its secret is unknown
 * on this server only.
 */
export type RefreshProof = ProvenRefreshToken | UnknownSecretError | "foreign" | "junk";

export function isProven(proof: RefreshProof): proof is ProvenRefreshToken {
  return typeof proof === "object" && "record" in proof;
}

/**
 * Verifies a refresh token without using it.
 * @throws SessionError `unavailable`
 */
export async function proveRefresh(
  engine: Engine,
  token: string,
  transport: TokenTransport,
): Promise<RefreshProof> {
  try {
    return await engine.refreshTokens.prove(
      await engine.refreshTokens.precheck({ token, transport }),
    );
  } catch (error) {
    if (error instanceof UnknownSecretError) {
      return error;
    }
    if (error instanceof ForeignRefreshTokenError) {
      return "foreign";
    }
    if (error instanceof SessionError && error.kind === "unauthorized") {
      return "junk";
    }
    throw error;
  }
}

/** Returns the sessions to which the cookies of a request provably belong. */
async function sessionsOfCookies(
  engine: Engine,
  presented: PresentedTokens,
): Promise<ProvenSessions> {
  const sessions = new Set<string>();
  let unknown: UnknownSecretError | undefined;
  for (const token of presented.accessCookies) {
    const session = await sessionOfAccess(engine, token, "cookie");
    if (session !== undefined) {
      sessions.add(session);
    }
  }
  for (const token of presented.refreshCookies) {
    const session = sessionNamedBy(token);
    // The store is only read for sessions that no access cookie has proven.
    if (session === undefined || !sessions.has(session)) {
      const proof = await proveRefresh(engine, token, "cookie");
      if (proof instanceof UnknownSecretError) {
        unknown = proof;
      } else if (isProven(proof)) {
        sessions.add(proof.record.id);
      }
    }
  }
  return { sessions, unknown };
}

/** Returns the session that a refresh token names, without verifying the token. */
export function sessionNamedBy(refreshToken: string): string | undefined {
  return refreshToken.split(".")[1];
}
