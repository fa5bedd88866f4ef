import { SessionError } from "../base/errors.ts";
import type { EndedBy, SessionRecord, Stored } from "./store.ts";

/**
 * Milliseconds after its own end during which a session's late calls leave the tokens alone: the
 * call that ended it has cleared them, and the jar may hold those of the next session by now.
 */
const ownEndGrace = 60_000;

/** A session that is over: how it ended, and when by the store's clock. */
export interface Ended {
  readonly session: string;
  readonly endedBy: EndedBy;
  readonly at: number;
}

/** The error of a call that came after its session was ended. */
export function endedError({ session, endedBy, at }: Ended, now: number): SessionError {
  const byItself = endedBy === "signOut" || endedBy === "replaced";
  const clearTokens = !(byItself && now - at < ownEndGrace);
  return endedBy === "theft"
    ? new SessionError("unauthorized", "TOKEN_THEFT", {
        message: "a refresh token was used twice",
        sessionId: session,
        clearTokens,
      })
    : new SessionError("unauthorized", "SESSION_REVOKED", {
        message: "the session was ended",
        sessionId: session,
        clearTokens,
      });
}

/** The error of a call that came after the idle or absolute end of its session. */
export function expiredError(session: string): SessionError {
  return new SessionError("unauthorized", "SESSION_EXPIRED", {
    message: "the session has expired",
    sessionId: session,
    clearTokens: true,
  });
}

/** The error of a session the store does not have. */
export function unknownError(session: string): SessionError {
  return new SessionError("unauthorized", "SESSION_UNKNOWN", {
    message: "there is no such session",
    sessionId: session,
    clearTokens: true,
  });
}

/** Whether a session lives by the store's word. */
export function isLive(stored: Stored<SessionRecord | undefined>): stored is Stored<SessionRecord> {
  const { record, now } = stored;
  return (
    record !== undefined &&
    record.revokedAt === null &&
    now < Math.min(record.idleExpiresAt, record.expiresAt)
  );
}

/**
 * The record of a session that lives by the store's word.
 * @throws SessionError `unauthorized`
 */
export function liveOf(
  session: string,
  { record, now }: Stored<SessionRecord | undefined>,
): SessionRecord {
  if (record === undefined) {
    throw unknownError(session);
  }
  if (record.revokedAt !== null) {
    const endedBy = record.endedBy ?? "revoked";
    throw endedError({ session, endedBy, at: record.revokedAt }, now);
  }
  if (now >= Math.min(record.idleExpiresAt, record.expiresAt)) {
    throw expiredError(session);
  }
  return record;
}

/** The error of a refresh token that is not one, or not one of its session. */
export function badRefreshToken(): SessionError {
  return new SessionError("unauthorized", "TOKEN_INVALID", {
    message: "the refresh token is not valid",
    clearTokens: true,
  });
}
