import type { Code } from "@connectrpc/connect";
import type { JsonObject } from "../base/json.ts";

/** What a client knows about its session. A new object for every change, so that it can be compared. */
export interface SessionState {
  /**
   * `unknown`: nothing was heard yet, as after a page load with cookies; calls are sent as if
   * there were a session. It stays so after a sign-in where CORS does not expose the `rpcsession-*`
   * response headers. `signedOut`: it is known that there is none; nothing is refreshed.
   */
  readonly status: "unknown" | "signedIn" | "signedOut";
  /** The id of the session, once it is known. No secret. */
  readonly sessionId?: string;
  /** The issuer, once it is known. */
  readonly realm?: string;
  /**
   * What the service lets this client read of the claims, as it said last: with a sign-in, a refresh
   * or a change. After a page load with cookies it is not known before the first of them.
   */
  readonly claims?: JsonObject;
}

/** Who ended a session: this client, the server's word, or another tab of the browser. */
export type SignedOutBy = "signOut" | "server" | "otherTab";

/** Something that happened to the session of a client. Holds no token and no other secret. */
export type SessionClientEvent =
  | { readonly type: "signedIn"; readonly sessionId: string; readonly realm: string }
  | { readonly type: "signedOut"; readonly sessionId: string | undefined; readonly by: SignedOutBy }
  | { readonly type: "refreshed"; readonly sessionId: string | undefined }
  /** A refresh failed. The session is kept unless a `signedOut` came with it. */
  | { readonly type: "refreshFailed"; readonly code: Code }
  /** A token was refused right after a refresh; the next refresh is tried after `retryIn` ms. */
  | { readonly type: "refreshRefused"; readonly retryIn: number }
  /**
   * Tokens of an answer were dropped. `stale`: the session changed after the call was sent;
   * `unreadable`: the answer names no token this client can read (not listed in CORS
   * `Access-Control-Expose-Headers`, or the server answered in cookies).
   */
  | {
      readonly type: "answerDropped";
      readonly sessionId: string;
      readonly why: "stale" | "unreadable";
    }
  /** The token store failed; `error` is the name of what it threw. The session goes on. */
  | {
      readonly type: "storeFailed";
      readonly operation: "load" | "save";
      readonly error: string;
    };

/** Receives every {@link SessionClientEvent}. What it throws is ignored. */
export type SessionClientEventListener = (event: SessionClientEvent) => void;

/** Calls every listener; what one throws keeps nothing from the others. */
export function notify<T>(listeners: Iterable<(value: T) => void>, value: T): void {
  for (const listener of listeners) {
    try {
      listener(value);
    } catch {
      // A broken listener must not break a call.
    }
  }
}
