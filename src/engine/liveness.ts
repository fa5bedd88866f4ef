import { SessionError } from "../base/errors.ts";
import type { EndedBy, SessionRecord, SessionStore, Stored } from "./store.ts";

/**
 * Milliseconds after a sign-out or a replacement during which late calls of the session do not clear
 * tokens: the call that ended it has already done so, and the client may hold newer tokens.
 */
const ownEndGrace = 60_000;

/** How a session ended, and when by the store's clock. */
export interface Ended {
  readonly session: string;
  readonly endedBy: EndedBy;
  readonly at: number;
  /** The user of the session, if it is known. */
  readonly userId?: string;
}

/** The error for a call whose session was ended. */
export function endedError({ session, endedBy, at, userId }: Ended, now: number): SessionError {
  const byItself = endedBy === "signOut" || endedBy === "replaced";
  const clearTokens = !(byItself && now - at < ownEndGrace);
  const proven = { sessionId: session, ...(userId === undefined ? {} : { userId }) };
  return endedBy === "theft"
    ? new SessionError("unauthorized", "TOKEN_THEFT", {
        message: "the session was ended because a refresh token was used twice; sign in again",
        ...proven,
        clearTokens,
      })
    : new SessionError("unauthorized", "SESSION_REVOKED", {
        message: "the session was ended; sign in again",
        ...proven,
        clearTokens,
      });
}

/** The error for a call after the idle or absolute end of its session. */
export function expiredError({ id, userId }: Pick<SessionRecord, "id" | "userId">): SessionError {
  return new SessionError("unauthorized", "SESSION_EXPIRED", {
    message: "the session has expired; sign in again",
    sessionId: id,
    userId,
    clearTokens: true,
  });
}

/** The error for a session that the store does not have. */
export function unknownError(session: string): SessionError {
  return new SessionError("unauthorized", "SESSION_UNKNOWN", {
    message: "the session does not exist; sign in again",
    sessionId: session,
    clearTokens: true,
  });
}

/** Whether the stored session is live. */
export function isLive(stored: Stored<SessionRecord | undefined>): stored is Stored<SessionRecord> {
  const { record, now } = stored;
  return (
    record !== undefined &&
    record.revokedAt === null &&
    now < Math.min(record.idleExpiresAt, record.expiresAt)
  );
}

/**
 * Returns the record of a live session.
 * @throws SessionError `unauthorized` if the session is not live
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
    throw endedError({ session, endedBy, at: record.revokedAt, userId: record.userId }, now);
  }
  if (now >= Math.min(record.idleExpiresAt, record.expiresAt)) {
    throw expiredError(record);
  }
  return record;
}

/** The error for a malformed refresh token, or one that does not belong to its session. */
export function badRefreshToken(): SessionError {
  return new SessionError("unauthorized", "TOKEN_INVALID", {
    message: "the refresh token is not valid; sign in again",
    clearTokens: true,
  });
}

/** The error for a refresh token under a secret that was declared dead. Its session cannot go on. */
export function deadSecretError(): SessionError {
  return new SessionError("unauthorized", "TOKEN_INVALID", {
    message: "the refresh token was made under a secret that is no longer trusted; sign in again",
    clearTokens: true,
  });
}

/** Sessions in one page of {@link livePages}. */
const pageSize = 500;

/** The ids of all live sessions of everybody, at most 500 at a time. Rejects if the store does. */
export async function* livePages(
  store: Pick<SessionStore, "liveIds">,
): AsyncGenerator<readonly string[]> {
  let cursor: string | undefined;
  do {
    const page = await store.liveIds(cursor, pageSize);
    // Redis may return more than asked for.
    for (let from = 0; from < page.ids.length; from += pageSize) {
      yield page.ids.slice(from, from + pageSize);
    }
    cursor = page.cursor;
  } while (cursor !== undefined);
}
