import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { Engine } from "../../engine/engine.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import { isTrustedSite } from "../../request/origins.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";

/** @throws SessionError `forbidden` when a call with cookies comes from a page that may not make it */
export function checkCrossSite(
  core: VerifyingCore,
  { requestHeader, requestMethod }: Pick<Call, "requestHeader" | "requestMethod">,
): void {
  if (core.crossSite === "checked" && !isTrustedSite(requestHeader, requestMethod, core.origins)) {
    core.emit({ type: "csrfRefused", check: "crossSite", origin: requestHeader.get("origin") });
    throw new SessionError("forbidden", "CROSS_SITE", {
      message:
        "session cookies are for pages of this service's origins, and the request comes from elsewhere",
    });
  }
}

/** What a request may prove its sessions with, beside its headers. */
export interface ProofContext {
  /** The refresh token in the message; empty when there is none. */
  readonly inMessage: string;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** The sessions that a request proves to belong to. */
export interface ProvenSessions {
  readonly sessions: ReadonlySet<string>;
  /** Set where it may belong to one more: a refresh token is under a secret not known here. */
  readonly unknown: UnknownSecretError | undefined;
}

/**
 * Every session that a request proves to belong to: the one of its headers or its message, and those
 * of its cookies where these prove none.
 * @throws SessionError `unavailable`
 */
export async function provenSessions(
  engine: Engine,
  presented: PresentedTokens,
  { inMessage, now }: ProofContext,
): Promise<ProvenSessions> {
  const refreshed = inMessage === "" ? undefined : await proveRefresh(engine, inMessage, "header");
  if (refreshed !== undefined && "record" in refreshed) {
    return { sessions: new Set([refreshed.record.id]), unknown: undefined };
  }
  const { bearer: token } = presented;
  const session =
    token === undefined
      ? undefined
      : await sessionOfAccess(engine, { token, transport: "header", now });
  if (session !== undefined) {
    return { sessions: new Set([session]), unknown: undefined };
  }
  const { sessions, unknown = refreshed } = await sessionsOfCookies(engine, presented, now);
  return { sessions, unknown };
}

/**
 * The session of an access token that came by a transport, expired ones included: enough to end a
 * session, not to use it.
 */
async function sessionOfAccess(
  engine: Engine,
  { token, transport, now }: AccessCandidate,
): Promise<string | undefined> {
  const verified = await engine.verify(token, now);
  const authentic = verified.status === "valid" || verified.status === "expired";
  return authentic && verified.claims.transport === transport ? verified.claims.sid : undefined;
}

interface AccessCandidate {
  readonly token: string;
  readonly transport: TokenTransport;
  readonly now: number;
}

/**
 * Proves a refresh token without using it.
 * @returns undefined when it is none of ours; an error when it is under a secret not known here
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

/** Every session that the cookies of a request prove to belong to. */
async function sessionsOfCookies(
  engine: Engine,
  presented: PresentedTokens,
  now: number,
): Promise<ProvenSessions> {
  const sessions = new Set<string>();
  let unknown: UnknownSecretError | undefined;
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
      if (proven instanceof UnknownSecretError) {
        unknown = proven;
      } else if (proven !== undefined) {
        sessions.add(proven.record.id);
      }
    }
  }
  return { sessions, unknown };
}

/** The session that a refresh token names, unproven. */
export function sessionNamedBy(refreshToken: string): string | undefined {
  return refreshToken.split(".", 2)[1];
}

function isVerdict(error: unknown): boolean {
  return error instanceof SessionError && error.kind === "unauthorized";
}
