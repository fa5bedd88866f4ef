import { Code, ConnectError, type ContextValues, createContextKey } from "@connectrpc/connect";
import { SessionError } from "../../base/errors.ts";
import { andThen } from "../../base/promises.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { hasCookies, hideTokens, readTokens } from "../../request/tokens.ts";
import type { VerifyingCore } from "../core.ts";
import { toConnectError } from "../response/errors.ts";
import { writeRefusal } from "../response/tokens.ts";
import { type Call, type CallKey, OpenedCall } from "./state.ts";

export type { Call, CallKey } from "./state.ts";

/** The request and response headers of one call: what a `HandlerContext` has. */
export interface Exchange {
  readonly requestHeader: Headers;
  readonly responseHeader: Headers;
  /** The HTTP method, such as "POST". */
  readonly requestMethod: string;
}

export function createCallKey(): CallKey {
  return createContextKey<Call | undefined>(undefined, { description: "rpc-session call" });
}

/** Reads the tokens of an exchange, and takes the cookies out of what handlers see. */
export function openCall(
  core: VerifyingCore,
  exchange: Exchange & { readonly signal?: AbortSignal },
): Call {
  const { requestHeader } = exchange;
  const presented = readTokens(requestHeader, core.cookies.names);
  if (hasCookies(presented)) {
    hideTokens(requestHeader, core.cookies.names);
  }
  return new OpenedCall(presented, exchange);
}

/**
 * The call that a context belongs to; opened now when neither gate nor interceptor ran.
 * @throws ConnectError `Internal` when the context shares its values with another one
 */
export function callOf(
  core: VerifyingCore,
  key: CallKey,
  exchange: Exchange & { readonly values?: ContextValues; readonly signal?: AbortSignal },
): Call {
  // An interceptor may have replaced the headers or the signal of the request, not both.
  const isSame = (call: Call): boolean =>
    call.responseHeader === exchange.responseHeader ||
    call.requestHeader === exchange.requestHeader ||
    (call.signal !== undefined && call.signal === exchange.signal);
  const known = exchange.values && knownCall(exchange.values, key, isSame);
  const call = known ?? openCall(core, exchange);
  // The interceptor alone has no response headers; a handler's context does.
  answerWith(call, exchange.responseHeader);
  exchange.values?.set(key, call);
  return call;
}

/**
 * From now on the call writes to these headers. What waited for them goes there first, so that
 * whatever the handler writes takes its place.
 */
export function answerWith(call: Call, headers: Headers): void {
  if (call.waits) {
    call.waits = false;
    call.responseHeader.forEach((value, name) => {
      if (name === "set-cookie" || name === "vary") {
        headers.append(name, value);
      } else {
        headers.set(name, value);
      }
    });
  }
  call.responseHeader = headers;
}

/**
 * Puts the session of verified claims into the call.
 * @throws SessionError `forbidden` when the claims are not as the service expects them
 */
export function enterSession(
  core: VerifyingCore,
  call: Call,
  claims: TokenClaims,
): void | Promise<void> {
  return andThen(core.claims.read(claims.claims), (read) =>
    call.enter(() => core.sessionOn(core, { claims, read }, call)),
  );
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
  const { kind, reason, message, sessionId: session, retryAfter, violations } = error;
  const kept = new SessionError(kind, reason, {
    message,
    violations,
    cause: error,
    ...(session === undefined ? {} : { sessionId: session }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
  return refuseCall(core, call, { error: kept, procedure });
}
