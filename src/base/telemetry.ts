import type { SessionEvent } from "./events.ts";

/**
 * An operation that a {@link SessionTelemetry} observes:
 *
 * - `verify`: a call was authenticated; shown only if it waited
 * - `refresh`, `signIn`, `adopt`, `fork`, `reauthenticate`, `revoke`: changes of sessions
 * - `feedRead`: the change log was read
 * - `keyRotation`: the next signing key was created
 * - `sourceFetch`: a claim was fetched from its source, or the keys of an issuer
 */
export type ObservedOperation =
  | "verify"
  | "refresh"
  | "signIn"
  | "adopt"
  | "fork"
  | "reauthenticate"
  | "revoke"
  | "feedRead"
  | "keyRotation"
  | "sourceFetch";

/** What is known about an operation. Contains no token, no secret and no claim. */
export interface OperationFacts {
  /** For example "notes.v1.NotesService/ListNotes"; absent outside RPCs. */
  readonly procedure?: string | undefined;
  readonly sessionId?: string | undefined;
  readonly userId?: string | undefined;
  /** What was fetched: the name of a claim, or "jwks". */
  readonly source?: string;
  /** How many sessions it concerned; absent for one. */
  readonly count?: number;
  /** Milliseconds between each end of a session and its arrival here by the change log. */
  readonly delays?: readonly number[];
}

/** An operation that begins. */
export interface Operation<T = unknown> {
  readonly name: ObservedOperation;
  /** The headers of the request that asks for it, which may name the trace of its caller. */
  readonly headers?: Headers | undefined;
  /** Whether no call asks for it, so that it belongs to no trace. Default false. */
  readonly inBackground?: boolean;
  /**
   * For operations that seldom take time: whether this one did. It is asked at the end; the result is
   * undefined if the operation failed. If not, nothing is recorded. Default: it always is.
   */
  readonly took?: (result: T | undefined) => boolean;
  /** What is known at the end; the result is undefined if the operation failed. */
  readonly facts?: (result: T | undefined) => OperationFacts;
}

/** The state of an instance at a moment. Reading it does no I/O. */
export interface TelemetryReadings {
  /** Verifications of access tokens by the cache (`warm`) and by their signature (`cold`), since the start. */
  readonly verifications: { readonly warm: number; readonly cold: number };
  /** Access tokens in the cache. */
  readonly cachedTokens: number;
  /** The state of the change log; undefined if there is none, or it is not open. */
  readonly feed: FeedReadings | undefined;
  /** Open streams that end with their sessions. */
  readonly streams: number;
}

/** The state of the change log; see `health`. Times are milliseconds. */
export interface FeedReadings {
  readonly status: "fresh" | "stale" | "unsure" | "draining";
  readonly staleness: number;
  readonly lag: number;
  readonly changes: number;
}

/** An RPC that a handler answers. */
export interface ObservedCall {
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
  readonly headers: Headers;
  readonly isStream: boolean;
}

/**
 * Observes the sessions of a server. `openTelemetry` of `rpc-session/otel` creates one; write your own
 * to use another system. Its methods must not throw, except for what `work` throws.
 */
export interface SessionTelemetry {
  /** Runs an operation, and observes how long it takes and how it ends. */
  run<T>(operation: Operation<T>, work: () => Promise<T>): Promise<T>;
  /** Runs an operation of the store, which is the name of a method of `SessionStore`, such as `load`. */
  store<T>(operation: string, work: () => Promise<T>): Promise<T>;
  /** Runs the handler of a call, in the trace of its caller. A stream has only begun when it returns. */
  handle<T>(call: ObservedCall, work: () => Promise<T>): Promise<T>;
  /** Receives every event, also those that `onEvent` omits in a flood. */
  event(event: SessionEvent): void;
  /**
   * Called once for each instance. `read` may be called at any time.
   * @returns a function that is called when the instance closes
   */
  start(read: () => TelemetryReadings): () => void;
}

/** Observes nothing. */
export const noTelemetry: SessionTelemetry = {
  run: (_operation, work) => work(),
  store: (_operation, work) => work(),
  handle: (_call, work) => work(),
  event() {},
  start: () => () => {},
};

/** @throws TypeError if the value of the option `telemetry` is not a {@link SessionTelemetry} */
export function readTelemetry(given: SessionTelemetry | undefined): SessionTelemetry | undefined {
  const methods = ["run", "store", "handle", "event", "start"] as const;
  const missing = methods.find(
    (name) => given !== undefined && typeof given?.[name] !== "function",
  );
  if (missing !== undefined) {
    throw new TypeError(
      `telemetry has no method "${missing}"; pass openTelemetry() of rpc-session/otel, or an object with the methods ${methods.join(", ")}`,
    );
  }
  return given;
}
