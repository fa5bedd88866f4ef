import type { SessionNotice, TokenTransport } from "../../base/wire.ts";
import type { SessionState } from "../events.ts";

/**
 * Counters of what happened to the session. A call takes a snapshot when it is sent and compares it
 * later, to decide whether its response still counts.
 */
export interface SessionSnapshot {
  /** Increases with every sign-in and sign-out. */
  readonly epoch: number;
  /** Increases with every sign-out that this client requested, and with every sign-in by header. */
  readonly intent: number;
  /** Increases with every renewal of the access token. */
  readonly version: number;
}

/** The snapshot that a call takes when it is sent. */
export interface SentSnapshot extends SessionSnapshot {
  /** Whether the tokens were loaded. */
  readonly wasLoaded: boolean;
}

/** Orders the access tokens of one session; see {@link isNewer}. */
export interface AccessOrder {
  readonly generation: number;
  readonly claimsVersion: number;
  readonly expiresAt: number;
}

/** The facts about the client's session that {@link judge} depends on. */
export interface KnownSession extends SessionSnapshot {
  readonly transport: TokenTransport;
  readonly status: SessionState["status"];
  readonly realm: string | undefined;
  /** Whether the application has set the realm, so that it never changes. */
  readonly isPinned: boolean;
  readonly sessionId: string | undefined;
  /** The id of the session that ended last; empty if the service said that there is none. */
  readonly endedSessionId: string | undefined;
  readonly order: AccessOrder | undefined;
}

/**
 * - `adopt`: the notice's session becomes the client's session.
 * - `renew`: the notice belongs to a newer access token of the client's session.
 * - `end`: the client's session is over.
 * - `missing`: the browser sent no session cookie.
 * - `stale`: the session changed after the call was sent. A browser has stored its cookies anyway.
 * - `foreign`: the response to this client's own call is about a realm other than the pinned one.
 * - `ignore`: the notice is about another session or realm, or about an older token.
 */
export type Verdict = "adopt" | "renew" | "end" | "missing" | "stale" | "foreign" | "ignore";

/**
 * Decides what a notice means for this client. A notice is the response header in which the server
 * reports what happened to the session on this call, or which session the call belongs to.
 *
 * @param how.sent the snapshot from when the call was sent
 * @param how.own whether the response answers this client's own refresh
 */
export function judge(
  notice: SessionNotice,
  known: KnownSession,
  how: { readonly sent: SessionSnapshot; readonly own: boolean },
): Verdict {
  const { sent } = how;
  if (!isOwnRealm(notice, known.realm)) {
    // The issuer of the service may have changed. Only a sign-in and the client's own refresh tell.
    const isTrusted = notice.event === "created" || how.own;
    if (!isTrusted) {
      return "ignore";
    }
    if (known.isPinned) {
      return "foreign";
    }
  }
  switch (notice.event) {
    case "created":
      return sent.intent === known.intent ? "adopt" : "stale";
    case "ended":
      return isCurrent(notice.session, known) ? "end" : "ignore";
    case "none":
      return sent.epoch === known.epoch ? "missing" : "ignore";
    case "current":
      return sent.epoch === known.epoch ? judgeRenewal(notice, known, how) : "ignore";
    case "refreshed":
    case "reissued":
      return sent.epoch === known.epoch ? judgeRenewal(notice, known, how) : "stale";
  }
}

function judgeRenewal(
  notice: SessionNotice,
  known: KnownSession,
  { sent, own }: { readonly sent: SessionSnapshot; readonly own: boolean },
): Verdict {
  if (notice.session !== known.sessionId) {
    // Tabs share cookies. The answer to this client's own refresh shows which session the cookies
    // hold now, whichever tab put it there. So does the answer to a call that named another one.
    const mayLearn =
      own || notice.event === "current"
        ? mayHold(notice.session, known)
        : isCurrent(notice.session, known);
    return known.transport === "cookie" && mayLearn ? "adopt" : "ignore";
  }
  const { order } = known;
  if (order === undefined || isNewer(notice, order)) {
    return "renew";
  }
  // Lifetimes are jittered, so a refresh shortly after an issue may return a token that expires
  // earlier. It still replaces a token that was refused, unless a newer one arrived meanwhile.
  const isSameState =
    notice.generation === order.generation && notice.claimsVersion === order.claimsVersion;
  return own && isSameState && sent.version === known.version ? "renew" : "ignore";
}

/** Whether a notice is about this realm, perhaps by an older issuer that the service still accepts. */
function isOwnRealm({ realm, olderRealms }: SessionNotice, known: string | undefined): boolean {
  return known === undefined || realm === known || olderRealms?.includes(known) === true;
}

/**
 * Whether a session that the server names is the client's own. A client in cookie mode may not know
 * yet which session its cookies hold; until then, every session that the server names is its own.
 */
export function isCurrent(sessionId: string, known: KnownSession): boolean {
  return known.sessionId === undefined
    ? known.transport === "cookie" && known.status === "unknown"
    : sessionId === known.sessionId;
}

/**
 * Whether the cookies may hold a session that the server names: not the one that has ended. After a
 * sign-out by a client that did not know its session, it is not known which that is.
 */
export function mayHold(sessionId: string, { status, endedSessionId }: KnownSession): boolean {
  return sessionId !== endedSessionId && (status !== "signedOut" || endedSessionId !== undefined);
}

/** Whether token `a` is newer than `b`: by generation, then claims version, then expiry. */
export function isNewer(a: AccessOrder, b: AccessOrder): boolean {
  return (
    (a.generation - b.generation ||
      a.claimsVersion - b.claimsVersion ||
      a.expiresAt - b.expiresAt) > 0
  );
}
