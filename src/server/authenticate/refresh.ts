import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { Engine } from "../../engine/engine.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import type { PresentedTokens } from "../../request/tokens.ts";

/** The sessions to which a request provably belongs. */
export interface ProvenSessions {
  readonly sessions: ReadonlySet<string>;
  /** Set if there may be another session: one refresh token was made with a secret unknown here. */
  readonly unknown: UnknownSecretError | undefined;
}

/**
 * Returns the sessions to which a request provably belongs: the one of its message or header, or, if
 * there is none, all those of its cookies.
 * @param inMessage the refresh token in the message; empty if there is none
 * @throws SessionError `unavailable`
 */
export async function provenSessions(
  engine: Engine,
  presented: PresentedTokens,
  inMessage: string,
): Promise<ProvenSessions> {
  const refreshed = inMessage === "" ? undefined : await proveRefresh(engine, inMessage, "header");
  if (refreshed !== undefined && "record" in refreshed) {
    return { sessions: new Set([refreshed.record.id]), unknown: undefined };
  }
  const { bearer } = presented;
  const session =
    bearer === undefined ? undefined : await sessionOfAccess(engine, bearer, "header");
  if (session !== undefined) {
    return { sessions: new Set([session]), unknown: undefined };
  }
  const { sessions, unknown = refreshed } = await sessionsOfCookies(engine, presented);
  return { sessions, unknown };
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
 * Verifies a refresh token without using it.
 * @returns undefined if it is not valid; the error if it was made with a secret unknown here
 * @throws SessionError `unavailable`
 */
export async function proveRefresh(
  engine: Engine,
  token: string,
  transport: TokenTransport,
): Promise<ProvenRefreshToken | UnknownSecretError | undefined> {
  try {
    const parsed = await engine.refreshTokens.precheck({ token, transport });
    return await engine.refreshTokens.prove(parsed, transport);
  } catch (error) {
    if (error instanceof UnknownSecretError) {
      return error;
    }
    if (isVerdict(error)) {
      return undefined;
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
      const proven = await proveRefresh(engine, token, "cookie");
      if (proven instanceof UnknownSecretError) {
        unknown = proven;
      } else if (proven !== undefined) {
        sessions.add(proven.record.id);
      }
    }
  }
  return { sessions, unknown };
}

/** Returns the session that a refresh token names, without verifying the token. */
export function sessionNamedBy(refreshToken: string): string | undefined {
  return refreshToken.split(".", 2)[1];
}

function isVerdict(error: unknown): boolean {
  return error instanceof SessionError && error.kind === "unauthorized";
}
