import { SessionError } from "../errors.ts";
import type { Engine } from "../session/engine.ts";
import type { ProvenRefreshToken } from "../session/refresh-tokens.ts";
import type { PresentedTokens } from "../tokens/source.ts";
import type { TokenTransport } from "../transport.ts";

/**
 * The session of an access token that came by a transport, expired ones included: enough to end a
 * session, not to use it.
 */
export async function sessionOfAccess(
  engine: Engine,
  { token, transport, now }: AccessCandidate,
): Promise<string | undefined> {
  const verified = await engine.verify(token, now);
  const authentic = verified.status === "valid" || verified.status === "expired";
  return authentic && verified.claims.transport === transport ? verified.claims.sid : undefined;
}

export interface AccessCandidate {
  readonly token: string;
  readonly transport: TokenTransport;
  readonly now: number;
}

/**
 * Proves a refresh token without using it.
 * @returns undefined when it is none of ours
 * @throws SessionError `unavailable`
 */
export async function proveRefresh(
  engine: Engine,
  token: string,
  transport: TokenTransport,
): Promise<ProvenRefreshToken | undefined> {
  try {
    const parsed = await engine.refreshTokens.precheck({ token, transport });
    return await engine.refreshTokens.prove(parsed, transport);
  } catch (error) {
    if (error instanceof SessionError && error.kind === "unauthorized") {
      return undefined;
    }
    throw error;
  }
}

/** Every session that the cookies of a request prove to belong to. */
export async function sessionsOfCookies(
  engine: Engine,
  presented: PresentedTokens,
  now: number,
): Promise<ReadonlySet<string>> {
  const sessions = new Set<string>();
  for (const token of presented.accessCookies) {
    const session = await sessionOfAccess(engine, { token, transport: "cookie", now });
    if (session !== undefined) {
      sessions.add(session);
    }
  }
  for (const token of presented.refreshCookies) {
    const session = sessionNamedBy(token);
    // Reading the store is for sessions that the access cookies did not prove.
    if (session === undefined || !sessions.has(session)) {
      const proven = await proveRefresh(engine, token, "cookie");
      if (proven !== undefined) {
        sessions.add(proven.record.id);
      }
    }
  }
  return sessions;
}

function sessionNamedBy(refreshToken: string): string | undefined {
  return refreshToken.split(".", 2)[1];
}
