import type { SessionError } from "./errors.ts";

/**
 * Why a session ended: its client signed out, somebody revoked it, a sign-in on top of it took its
 * place, a refresh token of it was stolen, or its user had too many.
 */
export type EndedBy = "signOut" | "revoked" | "replaced" | "theft" | "evicted";

/** Something that happened to a session. Holds no token and no other secret. */
export type SessionEvent =
  /** Somebody signed in. */
  | { readonly type: "created"; readonly sessionId: string; readonly userId: string }
  /** A refresh token was exchanged; `generation` is the session's after it. */
  | { readonly type: "refreshed"; readonly sessionId: string; readonly generation: number }
  /** A refresh token came again because its answer was lost; the same successor was sent. */
  | { readonly type: "recovered"; readonly sessionId: string; readonly generation: number }
  /** The claims of a session changed; `claimsVersion` is that of the new ones. */
  | {
      readonly type: "claimsChanged";
      readonly sessionId: string;
      readonly claimsVersion: number;
    }
  /** A refresh found its session past its idle or absolute end. */
  | { readonly type: "expired"; readonly sessionId: string; readonly userId: string }
  /** A request with session cookies was refused: it came from another site, or without its anti-CSRF token. */
  | {
      readonly type: "csrfRefused";
      readonly check: "crossSite" | "token";
      /** The `Origin` of the request, as it said itself; null when it said none. */
      readonly origin: string | null;
    }
  /** A session was ended by the service or its user; theft has an event of its own. */
  | { readonly type: "revoked"; readonly sessionId: string; readonly endedBy: EndedBy }
  /**
   * A refresh token of generation `presented` was used after its successor was confirmed, when the
   * session was at `generation`; sent once per session. `at`: milliseconds since 1970 by the store's
   * clock.
   */
  | {
      readonly type: "theft";
      readonly sessionId: string;
      readonly userId: string;
      readonly presented: number;
      readonly generation: number;
      readonly at: number;
    }
  /** The store came back older than the tokens it minted, and was moved forward. */
  | {
      readonly type: "storeWentBack";
      readonly sessionId: string;
      readonly presented: number;
      readonly generation: number;
    }
  /** A call failed for a fault of the service or an outage; `error.cause` says of what. For logs. */
  | {
      readonly type: "failed";
      readonly procedure: string | undefined;
      readonly error: SessionError;
    }
  /**
   * The change log could not be read for longer than `maxStaleness`: calls that need it are
   * refused with `unavailable` until it can. `staleFor`: milliseconds since it was last read.
   */
  | { readonly type: "feedStale"; readonly staleFor: number; readonly error: SessionError }
  /** The change log is read again after it was stale for `staleFor` milliseconds. */
  | { readonly type: "feedRecovered"; readonly staleFor: number }
  /**
   * A token, a session or a signing key was made under a secret that this server was not given: see
   * that all servers have the same `secret`, the former ones of the list included.
   */
  | { readonly type: "unknownSecret"; readonly secretId: string };

/** Receives every {@link SessionEvent}. What it throws, or rejects with, is ignored. */
export type SessionEventListener = (event: SessionEvent) => unknown;

/** Makes listeners safe to call from the middle of a decision. */
export function safeListener(
  ...given: readonly (SessionEventListener | undefined)[]
): SessionEventListener {
  const listeners = given.filter((listener) => listener !== undefined);
  return (event) => {
    for (const listener of listeners) {
      // A broken listener must not break a login, whether it throws at once or later.
      try {
        Promise.resolve(listener(event)).catch(() => {});
      } catch {}
    }
  };
}

/**
 * Where log lines go: fields, then a message, as pino takes them; `console` fits too. No field holds
 * a token or another secret.
 */
export interface SessionLogger {
  info(fields: object, message: string): unknown;
  warn(fields: object, message: string): unknown;
  error(fields: object, message: string): unknown;
}

/** A listener that writes each event as one line. */
export function logEvents(logger: SessionLogger): SessionEventListener {
  return (event) => {
    const { type, ...fields } = event;
    const { level, message } = lines[type];
    return logger[level]({ event: type, ...fields }, message);
  };
}

type Line = { readonly level: keyof SessionLogger; readonly message: string };

const lines: Readonly<Record<SessionEvent["type"], Line>> = {
  created: { level: "info", message: "a session began" },
  refreshed: { level: "info", message: "a session was refreshed" },
  recovered: { level: "info", message: "a refresh whose answer was lost was answered again" },
  claimsChanged: { level: "info", message: "the claims of a session changed" },
  revoked: { level: "info", message: "a session was ended" },
  expired: { level: "info", message: "a session has expired" },
  csrfRefused: { level: "warn", message: "a request with session cookies was refused" },
  theft: { level: "warn", message: "a refresh token was stolen, and its session ended" },
  storeWentBack: { level: "error", message: "the store came back older than its tokens" },
  failed: { level: "error", message: "a call failed for a fault of the service or an outage" },
  feedStale: { level: "error", message: "the change log cannot be read: calls are refused" },
  feedRecovered: { level: "info", message: "the change log is read again" },
  unknownSecret: {
    level: "error",
    message: "a token, session or key is under a secret that this server was not given",
  },
};
