import type { SessionError, SessionErrorReason } from "./errors.ts";

/**
 * The reason why a session ended:
 *
 * - `signOut`: its client signed out
 * - `revoked`: the service or another session of the user revoked it
 * - `replaced`: a new sign-in in the same client replaced it
 * - `theft`: one of its refresh tokens was reused, or one of the session that it was forked from; or one
 *   was used without its key, and `bind.onMismatch` is "revoke"
 * - `evicted`: the user had too many sessions
 * - `externalLogout`: the user signed out at the identity provider, or `revokeAll` was called with an
 *   `externalId`
 */
export type EndedBy = "signOut" | "revoked" | "replaced" | "theft" | "evicted" | "externalLogout";

/** Which refresh token was reused: the one before the current one, or an older one. */
export type TheftKind = "previous" | "older";

/** An event of a session or of its service. Contains no token or other secret. */
export type SessionEvent =
  /** A session was created: by `create`, `adopt`, `reauthenticate`, `issue` or `fork`. */
  | { readonly type: "created"; readonly sessionId: string; readonly userId: string }
  /**
   * `adopt` refused a session of another system. `why` is `adopted` if it was adopted before: by the same
   * client, or by somebody who has a copy of its token. `why` is `expired` if it is too old.
   */
  | {
      readonly type: "adoptionRefused";
      readonly userId: string;
      readonly why: "adopted" | "expired";
    }
  /** A refresh token was exchanged; `generation` is the generation of the session after that. */
  | { readonly type: "refreshed"; readonly sessionId: string; readonly generation: number }
  /** A refresh was repeated because its response was lost; the client received the same successor. */
  | { readonly type: "recovered"; readonly sessionId: string; readonly generation: number }
  /** The claims of a session changed; `claimsVersion` is the new version. */
  | {
      readonly type: "claimsChanged";
      readonly sessionId: string;
      readonly claimsVersion: number;
    }
  /**
   * The private data of a session changed. `version` counts the changes of its claims and data
   * together.
   */
  | { readonly type: "dataChanged"; readonly sessionId: string; readonly version: number }
  /** A refresh was refused because the session is past its idle or absolute end. */
  | { readonly type: "expired"; readonly sessionId: string; readonly userId: string }
  /**
   * A call was refused because of its session, its tokens or a policy, or an open stream ended for
   * such a reason. Outages are reported as `failed`.
   */
  | {
      readonly type: "refused";
      /** For example "notes.v1.NotesService/ListNotes"; undefined outside RPCs. */
      readonly procedure: string | undefined;
      readonly reason: SessionErrorReason;
      /** The session that the token proved to belong to; undefined if it proved none. */
      readonly sessionId: string | undefined;
      /** The user of that session, as far as it is known without reading the store. */
      readonly userId: string | undefined;
      /** The issuer of this service, if the request came with a token of another one. */
      readonly expectedIssuer?: string;
      /** The issuer that this token names, unverified and cut. */
      readonly seenIssuer?: string;
    }
  /**
   * A gate of the application, given to `protect`, threw `error`. `code` is what the client receives, such
   * as "PermissionDenied"; it is "Internal" for anything but a ConnectError. Session errors are reported as
   * `refused` or `failed` instead. For logs: interceptors do not run for such a call.
   */
  | {
      readonly type: "gateThrew";
      readonly procedure: string;
      readonly code: string;
      readonly error: unknown;
    }
  /**
   * The source of a claim threw an error, or did not answer in time. The calls that wait for it are refused
   * with `unavailable`, or the old value counts; see `onError`. `error.cause` has the details. For logs.
   */
  | {
      readonly type: "claimSourceFailed";
      readonly claim: string;
      readonly sessionId: string;
      readonly error: SessionError;
    }
  /** A sign-in, or a request with session cookies, was refused: cross-site, or no valid anti-CSRF token. */
  | {
      readonly type: "csrfRefused";
      readonly check: "crossSite" | "token";
      /** The `Origin` header of the request, unverified and cut; null if there is none. */
      readonly origin: string | null;
      /** What to change if the page is one of the service's own; absent if no page is named. */
      readonly advice?: string;
    }
  /**
   * `backChannelLogoutHandler` refused a logout token, so no session ended. `why`: the rule that the
   * request breaks, in words.
   */
  | { readonly type: "logoutRefused"; readonly why: string }
  /** A session was ended. Theft has an event of its own, which the ends of forks follow. */
  | {
      readonly type: "revoked";
      readonly sessionId: string;
      readonly endedBy: EndedBy;
      /** Who did it and why, as they were passed to the call; absent if they were not. */
      readonly by?: string;
      readonly reason?: string;
    }
  /**
   * Reuse of a refresh token was detected: one of generation `presented`, after its successor had been
   * confirmed and the session had reached `generation`. Sent once per session. `at`: milliseconds
   * since 1970 by the store's clock. `kind`:
   *
   * - `previous`: the token came right before the current one, and came back after the overlap. A copy
   *   was stolen, or the client was set back to an earlier state, such as a backup.
   * - `older`: even its successor had been replaced. A client that only lost an answer never does that.
   */
  | {
      readonly type: "theft";
      readonly kind: TheftKind;
      readonly sessionId: string;
      readonly userId: string;
      readonly presented: number;
      readonly generation: number;
      readonly at: number;
    }
  /**
   * A valid refresh token of a bound session was refused, because the request did not prove the session's
   * key. Either somebody else has the token, or the client has lost its key. `why` says what was wrong:
   *
   * - `missing`: the request had no proof
   * - `otherKey`: it proved another key
   * - `stale`: the browser sent a proof that was made for another refresh (DBSC)
   * - `skipped`: the browser said that it could not make a proof now (DBSC)
   */
  | {
      readonly type: "proofRefused";
      readonly sessionId: string;
      readonly userId: string;
      readonly why: "missing" | "otherKey" | "stale" | "skipped";
    }
  /** The store was restored to a state older than its tokens, and the session was moved forward. */
  | {
      readonly type: "storeWentBack";
      readonly sessionId: string;
      readonly presented: number;
      readonly generation: number;
    }
  /**
   * A refresh token was refused with `unavailable`: the session cannot have reached generation
   * `presented` yet, or it is signed by an outdated secret. Either the secret has leaked, or the store
   * was restored and its clock or the list of secrets is wrong. The session goes on.
   */
  | {
      readonly type: "impossibleGeneration";
      readonly sessionId: string;
      readonly presented: number;
      readonly generation: number;
    }
  /** A call failed because of a fault of the service or an outage; `error.cause` has the details. For logs. */
  | {
      readonly type: "failed";
      readonly procedure: string | undefined;
      readonly error: SessionError;
    }
  /**
   * The change log has not been readable for longer than `maxStaleness`. Calls that need it are refused
   * with `unavailable` until it is readable. `staleFor`: milliseconds since it was last read.
   */
  | { readonly type: "feedStale"; readonly staleFor: number; readonly error: SessionError }
  /** The change log is readable again after `staleFor` milliseconds. */
  | { readonly type: "feedRecovered"; readonly staleFor: number }
  /**
   * A token, a session or a signing key was made under a secret that is not configured here. Make sure
   * that all servers have the same `secret` list, including former secrets. What was made under another
   * issuer counts likewise, unless `olderIssuers` lists that issuer.
   */
  | { readonly type: "unknownSecret"; readonly secretId: string }
  /**
   * Events of type `of` were left out because requests caused too many in one second. `count` is the
   * number of those left out with one cause. `reason` is that of `refused` and `failed`, and the check
   * of `csrfRefused`.
   */
  | {
      readonly type: "omitted";
      readonly of: SessionEvent["type"];
      readonly reason: string | undefined;
      readonly count: number;
    }
  /**
   * The server runs, but an option should be changed. Each is sent once: when the routes are built, or at
   * the first sign-in. Without `onEvent` and `logger` it is printed with `console.warn`.
   */
  | { readonly type: "warning"; readonly option: string; readonly advice: string };

/** Receives every {@link SessionEvent}. Its errors and rejections are ignored. */
export type SessionEventListener = (event: SessionEvent) => unknown;

/**
 * Combines listeners into one that never throws, so that a broken listener cannot fail a call. Without
 * listeners, warnings go to the console: they are for the developer who has not added one yet.
 */
export function safeListener(
  ...given: readonly (SessionEventListener | undefined)[]
): SessionEventListener {
  const present = given.filter((listener) => listener !== undefined);
  const listeners = present.length === 0 ? [warnOnConsole] : present;
  return (event) => {
    for (const listener of listeners) {
      // A broken listener must not break a sign-in, whether it throws or rejects.
      try {
        Promise.resolve(listener(event)).catch(() => {});
      } catch {}
    }
  };
}

function warnOnConsole(event: SessionEvent): void {
  if (event.type === "warning") {
    console.warn(`rpc-session: ${event.advice} (option ${event.option})`);
  }
}

/**
 * The destination of log lines. Methods receive fields, then a message, as in pino; `console` works
 * too. No field contains a token or other secret.
 */
export interface SessionLogger {
  info(fields: object, message: string): unknown;
  warn(fields: object, message: string): unknown;
  error(fields: object, message: string): unknown;
}

/**
 * Creates a listener that writes each event as one log line.
 *
 * ```ts
 * createSessions({ issuer, store, secret, onEvent: logEvents(pino()) });
 * ```
 */
export function logEvents(logger: SessionLogger): SessionEventListener {
  return (event) => {
    const { type, ...fields } = event;
    const { level, message } = lines[type];
    return logger[level]({ event: type, ...fields }, message);
  };
}

type Line = { readonly level: keyof SessionLogger; readonly message: string };

const lines: Readonly<Record<SessionEvent["type"], Line>> = {
  created: { level: "info", message: "created a session" },
  adoptionRefused: { level: "warn", message: "refused to adopt a session of another system" },
  refreshed: { level: "info", message: "refreshed a session" },
  recovered: { level: "info", message: "recovered a refresh whose response was lost" },
  claimsChanged: { level: "info", message: "changed the claims of a session" },
  dataChanged: { level: "info", message: "changed the private data of a session" },
  logoutRefused: { level: "warn", message: "refused a logout token of an identity provider" },
  revoked: { level: "info", message: "ended a session" },
  expired: { level: "info", message: "refused a refresh because the session has expired" },
  refused: { level: "info", message: "refused a call" },
  gateThrew: { level: "warn", message: "a gate of the application threw an error" },
  claimSourceFailed: { level: "error", message: "a source of claims failed" },
  csrfRefused: {
    level: "warn",
    message: "refused a request with session cookies as a possible CSRF attack",
  },
  theft: { level: "warn", message: "detected reuse of a refresh token and ended its session" },
  proofRefused: {
    level: "warn",
    message: "refused a refresh token that came without a proof by the key of its session",
  },
  storeWentBack: {
    level: "error",
    message: "the store was restored to a state older than its tokens",
  },
  impossibleGeneration: {
    level: "error",
    message: "refused a refresh token that is newer than its session can be",
  },
  failed: {
    level: "error",
    message: "a call failed because of a fault of the service or an outage",
  },
  feedStale: { level: "error", message: "the change log cannot be read, so calls are refused" },
  feedRecovered: { level: "info", message: "the change log can be read again" },
  unknownSecret: {
    level: "error",
    message:
      "a token, session or key was made under a secret that is not configured on this server",
  },
  omitted: { level: "warn", message: "left out events because requests caused too many of them" },
  warning: { level: "warn", message: "an option should be changed" },
};
