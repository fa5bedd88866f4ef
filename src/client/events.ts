import type { Code } from "@connectrpc/connect";
import type { JsonObject } from "../base/json.ts";

/**
 * The state of a client's session. Every change creates a new object, so states can be compared by
 * identity.
 */
export interface SessionState {
  /**
   * - `unknown`: the service has not reported on the session yet, as after a page load with cookies.
   *   The first answered call tells, or `session.load()`. Until then, calls are sent as if there were
   *   a session. The status stays `unknown` if CORS does not expose the `rpcsession-*` response
   *   headers; the event `headersNotExposed` reports that.
   * - `signedIn`: there is a session.
   * - `signedOut`: there is no session, so nothing is refreshed.
   */
  readonly status: "unknown" | "signedIn" | "signedOut";
  /** The id of the session, once known. Not a secret. */
  readonly sessionId?: string;
  /** The id of the user, once known. */
  readonly userId?: string;
  /** The issuer, once known. */
  readonly realm?: string;
  /**
   * The claims that the service selects with `clientClaims`. A sign-in, a refresh or a change of
   * claims updates them.
   */
  readonly claims?: JsonObject;
}

/** Creates a state from the facts of a session. */
export function stateOf(
  facts: {
    readonly [name in keyof SessionState]-?: SessionState[name] | undefined;
  } & Pick<SessionState, "status">,
): SessionState {
  const { status, sessionId, userId, realm, claims } = facts;
  return Object.freeze({
    status,
    ...(sessionId !== undefined && { sessionId }),
    ...(userId !== undefined && { userId }),
    ...(realm !== undefined && { realm }),
    ...(claims !== undefined && { claims }),
  });
}

/** Who ended a session: this client, the server, or another tab of the browser. */
export type SignedOutBy = "signOut" | "server" | "otherTab";

/** An event of a client's session. Contains no token or other secret. */
export type SessionClientEvent =
  | { readonly type: "signedIn"; readonly sessionId: string; readonly realm: string }
  | { readonly type: "signedOut"; readonly sessionId: string | undefined; readonly by: SignedOutBy }
  | { readonly type: "refreshed"; readonly sessionId: string | undefined }
  /** A refresh failed. The session is kept unless a `signedOut` event came with it. */
  | { readonly type: "refreshFailed"; readonly code: Code }
  /** A token was refused right after a refresh. The next refresh is allowed after `retryIn` ms. */
  | { readonly type: "refreshRefused"; readonly retryIn: number }
  /**
   * The browser sent no session cookie although this client is signed in. The browser did not keep
   * the cookies, or they were deleted. A `signedOut` event follows.
   */
  | { readonly type: "cookiesMissing"; readonly sessionId: string }
  /**
   * The response to a refresh has no readable `rpcsession-session` header. List the headers of
   * `sessionCors` in `Access-Control-Expose-Headers`, or the client cannot know its session. Reported
   * once.
   */
  | { readonly type: "headersNotExposed" }
  /**
   * The tokens of a response were dropped.
   * - `stale`: the session changed after the call was sent.
   * - `foreign`: the session is of a realm other than the option `realm`. If the issuer of the service
   *   has changed, change the option too.
   * - `unreadable`: the response contains no token that this client can read. Either CORS does not
   *   list the headers in `Access-Control-Expose-Headers`, or the server responded with cookies.
   */
  | {
      readonly type: "answerDropped";
      readonly sessionId: string;
      readonly why: "stale" | "foreign" | "unreadable";
    }
  /**
   * The token store failed; `error` is the name of the error it threw, `TypeError` if it returned an
   * invalid value, or `TimeoutError` if it took longer than `refreshTimeout`. The session continues.
   */
  | {
      readonly type: "storeFailed";
      readonly operation: "load" | "save";
      readonly error: string;
    };

/**
 * Receives every {@link SessionClientEvent}. Errors that it throws are ignored, and so is a promise
 * that it returns.
 */
export type SessionClientEventListener = (event: SessionClientEvent) => void;

/** What a call demands of the authentication of its user (RFC 9470). */
export interface StepUpHint {
  /** The refused method, such as "account.v1.AccountService/ChangePassword". */
  readonly procedure: string;
  /** The accepted authentication context classes; empty if any is. */
  readonly acrValues: readonly string[];
  /** The maximum time since the user authenticated, in seconds; undefined for any time. */
  readonly maxAge: number | undefined;
}

/**
 * Lets the user authenticate again. Resolves when the service has replaced the session; false if the
 * user did not.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: a function that returns nothing has succeeded.
export type StepUpListener = (hint: StepUpHint) => Promise<boolean | void>;

/** Calls a listener of the application. One that throws or rejects must not break a call. */
export function notify<T extends readonly unknown[]>(
  listener: ((...values: T) => unknown) | undefined,
  ...values: T
): void {
  try {
    // An asynchronous listener returns a promise, whatever its type says.
    Promise.resolve(listener?.(...values)).catch(() => {});
  } catch {
    // The error is the application's own.
  }
}
