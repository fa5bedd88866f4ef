import type { SessionNotice, TokenTransport } from "../../base/wire.ts";
import type { SessionState } from "../events.ts";

/** What a call remembers from the moment it was sent, to tell whether its answer still counts. */
export interface SentMark {
  /** Raised by every sign-in and sign-out. */
  readonly epoch: number;
  /** Raised by every sign-out that this client asked for, and by every sign-in by header. */
  readonly intent: number;
  /** Raised by every renewal of the access token. */
  readonly version: number;
}

/** Orders the access tokens of one session. */
export interface AccessOrder {
  readonly generation: number;
  readonly claimsVersion: number;
  readonly expiresAt: number;
}

/** What the rule looks at. */
export interface NoticeContext extends SentMark {
  readonly transport: TokenTransport;
  readonly status: SessionState["status"];
  readonly realm: string | undefined;
  readonly session: string | undefined;
  /** The session that ended last. */
  readonly ended: string | undefined;
  readonly order: AccessOrder | undefined;
}

/**
 * - `adopt`: this is the session from now on.
 * - `renew`: a newer access token of the present session.
 * - `end`: the session is over.
 * - `stale`: the session changed after the call was sent; in a browser its cookies are set even so.
 * - `ignore`: of no concern.
 */
export type Verdict = "adopt" | "renew" | "end" | "stale" | "ignore";

/**
 * Decides what a notice means for this client.
 *
 * @param sent what was true when the call was sent
 * @param own whether it answers this client's own refresh
 */
export function judge(
  notice: SessionNotice,
  now: NoticeContext,
  { sent, own }: { sent: SentMark; own: boolean },
): Verdict {
  if (now.realm !== undefined && notice.realm !== now.realm) {
    return "ignore";
  }
  switch (notice.event) {
    case "created":
      return sent.intent === now.intent ? "adopt" : "stale";
    case "ended":
      return isCurrent(notice.session, now) ? "end" : "ignore";
    case "refreshed":
    case "reissued":
      return sent.epoch === now.epoch ? judgeRenewal(notice, now, { sent, own }) : "stale";
  }
}

/**
 * Whether the server's word about a session is about this client's. While a client in cookie mode
 * does not know what its cookies hold, any session it presented is its own.
 */
export function isCurrent(session: string, now: NoticeContext): boolean {
  return now.session === undefined
    ? now.transport === "cookie" && now.status === "unknown"
    : session === now.session;
}

/** Whether `a` is of a later moment than `b`: by generation, then claims version, then expiry. */
export function isGreater(a: AccessOrder, b: AccessOrder): boolean {
  return (
    (a.generation - b.generation ||
      a.claimsVersion - b.claimsVersion ||
      a.expiresAt - b.expiresAt) > 0
  );
}

function judgeRenewal(
  notice: SessionNotice,
  now: NoticeContext,
  { sent, own }: { sent: SentMark; own: boolean },
): Verdict {
  if (notice.session !== now.session) {
    // Cookies are shared: the answer to our own refresh tells what they hold, whoever put it there.
    const mayLearn = own ? notice.session !== now.ended : isCurrent(notice.session, now);
    return now.transport === "cookie" && mayLearn ? "adopt" : "ignore";
  }
  if (now.order === undefined || isGreater(notice, now.order)) {
    return "renew";
  }
  // A refresh shortly after an issue may get a token that ends earlier, because lives are jittered;
  // it replaces one that was refused before its end, unless something newer came meanwhile.
  const sameState =
    notice.generation === now.order.generation && notice.claimsVersion === now.order.claimsVersion;
  return own && sameState && sent.version === now.version ? "renew" : "ignore";
}
