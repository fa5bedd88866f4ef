import {
  Code,
  ConnectError,
  type ContextKey,
  type ContextValues,
  createContextKey,
} from "@connectrpc/connect";
import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { type Session, sessionOf } from "../session/session.ts";
import { hasCookies, hideTokens, type PresentedTokens, readTokens } from "../tokens/source.ts";
import { toConnectError } from "./connect-error.ts";
import type { VerifyingCore } from "./core.ts";
import { endTokens, expireCookies, writeRefusal } from "./respond.ts";

/** The request and response headers of one call: what a `HandlerContext` has. */
export interface Exchange {
  readonly requestHeader: Headers;
  readonly responseHeader: Headers;
  /** The HTTP method, such as "POST". */
  readonly requestMethod: string;
}

/** What this instance knows of one call. */
export interface Call {
  readonly presented: PresentedTokens;
  /** The headers as they came, for the cross-site check. */
  readonly requestHeader: Headers;
  readonly requestMethod: string;
  /** The signal of the RPC; undefined outside of RPCs. */
  readonly signal: AbortSignal | undefined;
  /** Whether the token that decides came in a cookie: then cookies are what a failure expires. */
  byCookie: boolean;
  /** Where tokens are written. */
  responseHeader: Headers;
  session: Session | undefined;
  /** Whether the gate or the interceptor has held the call against its method's policy. */
  admitted: boolean;
  /** The session whose tokens this response carries already: nothing else may take them back. */
  written: string | undefined;
  /** The failure that this response tells of already. */
  failure: SessionError | undefined;
  /** Whether the response headers are on their way: then no token can be written any more. */
  committed: boolean;
  /** The call as a stream that ends with its session; undefined where it is none. */
  stream: CallStream | undefined;
}

/** An open stream, told by its own call of what happens to its session. */
export interface CallStream {
  /** The call belongs to this session from now on. */
  follow(session: Session): void;
  /** Runs what ends the session of the stream; its handler may still answer. */
  ownEnd<T>(work: () => Promise<T>): Promise<T>;
}

/** Runs what may end the session of this very call. */
export function endOwn<T>({ stream }: Call, work: () => Promise<T>): Promise<T> {
  return stream === undefined ? work() : stream.ownEnd(work);
}

/** Where a `Call` is kept in the context values; one key per instance, so that two never meet. */
export type CallKey = ContextKey<Call | undefined>;

export function createCallKey(): CallKey {
  return createContextKey<Call | undefined>(undefined, { description: "rpc-session call" });
}

/** Reads the tokens of an exchange, and takes the cookies out of what handlers see. */
export function openCall(
  core: VerifyingCore,
  exchange: Exchange & { readonly signal?: AbortSignal },
): Call {
  const { requestHeader, responseHeader, requestMethod, signal } = exchange;
  const presented = readTokens(requestHeader, core.cookies.names);
  hideTokens(requestHeader, core.cookies.names);
  return {
    presented,
    requestHeader,
    requestMethod,
    signal,
    byCookie: presented.bearer === undefined && hasCookies(presented),
    responseHeader,
    session: undefined,
    admitted: false,
    written: undefined,
    failure: undefined,
    committed: false,
    stream: undefined,
  };
}

/** The call that a context belongs to; opened now when neither gate nor interceptor ran. */
export function callOf(
  core: VerifyingCore,
  key: CallKey,
  exchange: Exchange & { readonly values?: ContextValues },
): Call {
  const call = exchange.values?.get(key) ?? openCall(core, exchange);
  // The interceptor alone has no response headers; a handler's context does.
  call.responseHeader = exchange.responseHeader;
  exchange.values?.set(key, call);
  return call;
}

/** Puts the session of verified claims into the call. */
export function enterSession(core: VerifyingCore, call: Call, claims: AccessClaims): Session {
  const session = sessionOf(claims, () => endSession(core, call, session));
  call.session = session;
  call.stream?.follow(session);
  return session;
}

/** What was thrown, and by which method's call; undefined outside of RPCs. */
export interface Failure {
  readonly error: unknown;
  readonly procedure: string | undefined;
}

/**
 * Writes what a failed call tells in its headers.
 * @returns the failure as a SessionError
 */
export function failCall(core: VerifyingCore, call: Call, failure: Failure): SessionError {
  const { procedure } = failure;
  const error =
    failure.error instanceof SessionError
      ? failure.error
      : new SessionError("general", "INTERNAL", { message: "unforeseen", cause: failure.error });
  call.failure = error;
  if (error.kind === "unavailable" || error.kind === "general") {
    core.emit({ type: "failed", procedure, error });
  }
  const byCookie = call.byCookie && call.written === undefined;
  writeRefusal(core, call.responseHeader, { error, byCookie });
  return error;
}

/**
 * The call of a request that its context values know already.
 * @throws ConnectError `Internal` when it is the call of another request: then the values are shared,
 * and one caller would be taken for the other
 */
export function knownCall(
  values: ContextValues,
  key: CallKey,
  isSame: (call: Call) => boolean,
): Call | undefined {
  const call = values.get(key);
  if (call !== undefined && !isSame(call)) {
    throw new ConnectError(
      "the adapter's option contextValues returned the same object for two requests; create one for each",
      Code.Internal,
    );
  }
  return call;
}

/** Refuses a call: writes its headers, and makes the error that goes on the wire. */
export function refuseCall(
  core: VerifyingCore,
  call: Call,
  failure: Failure & { readonly procedure: string },
): ConnectError {
  const { procedure } = failure;
  return toConnectError(failCall(core, call, failure), { realm: core.issuer, procedure });
}

/**
 * The error that a handler let through. What this response tells already stays; any other is of
 * something else than the tokens of this call, and takes none of them away.
 */
export function relayFailure(
  core: VerifyingCore,
  call: Call,
  { error, procedure }: { readonly error: SessionError; readonly procedure: string },
): ConnectError {
  if (error === call.failure) {
    return toConnectError(error, { realm: core.issuer, procedure });
  }
  const { kind, reason, message, session, retryAfter, violations } = error;
  const kept = new SessionError(kind, reason, {
    message,
    violations,
    cause: error,
    ...(session === undefined ? {} : { session }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
  return refuseCall(core, call, { error: kept, procedure });
}

async function endSession(core: VerifyingCore, call: Call, session: Session): Promise<void> {
  const engine = await core.engine();
  const replaced = call.written !== undefined && call.written !== session.id;
  // Where this response can clear the tokens, late calls need not; else the next call does.
  const endedBy = call.committed && !replaced ? "revoked" : "signOut";
  await endOwn(call, () => engine.revoke(session.id, endedBy));
  if (call.committed || replaced) {
    return;
  }
  call.written = undefined;
  if (session.transport === "cookie") {
    expireCookies(core, call.responseHeader);
  }
  endTokens(core, call.responseHeader, session.id);
}
