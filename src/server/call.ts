import {
  type ConnectError,
  type ContextKey,
  type ContextValues,
  createContextKey,
} from "@connectrpc/connect";
import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { type Session, sessionOf } from "../session/session.ts";
import { hideTokens, type PresentedTokens, readTokens } from "../tokens/source.ts";
import { hasCookies } from "./authenticate.ts";
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
  /** Whether the token that decides came in a cookie: then cookies are what a failure expires. */
  byCookie: boolean;
  /** Where tokens are written. */
  responseHeader: Headers;
  session: Session | undefined;
  /** Whether the gate or the interceptor has authenticated the call, or found that it need not. */
  checked: boolean;
  /** Whether the response headers are on their way: then no token can be written any more. */
  committed: boolean;
}

/** Where a `Call` is kept in the context values; one key per instance, so that two never meet. */
export type CallKey = ContextKey<Call | undefined>;

export function createCallKey(): CallKey {
  return createContextKey<Call | undefined>(undefined, { description: "rpc-session call" });
}

/** Reads the tokens of an exchange, and takes the cookies out of what handlers see. */
export function openCall(core: VerifyingCore, exchange: Exchange): Call {
  const { requestHeader, responseHeader, requestMethod } = exchange;
  const presented = readTokens(requestHeader, core.cookies.names);
  hideTokens(requestHeader, core.cookies.names);
  return {
    presented,
    requestHeader,
    requestMethod,
    byCookie: presented.bearer === undefined && hasCookies(presented),
    responseHeader,
    session: undefined,
    checked: false,
    committed: false,
  };
}

/** The call that a context belongs to; opened now when neither gate nor interceptor ran. */
export function callOf(
  core: VerifyingCore,
  key: CallKey,
  exchange: Exchange & { readonly values?: ContextValues },
): Call {
  const known = exchange.values?.get(key);
  const call = known ?? openCall(core, exchange);
  // The interceptor alone has no response headers; a handler's context does.
  call.responseHeader = exchange.responseHeader;
  exchange.values?.set(key, call);
  return call;
}

/** Puts the session of verified claims into the call. */
export function enterSession(core: VerifyingCore, call: Call, claims: AccessClaims): Session {
  const session = sessionOf(claims, () => endSession(core, call, session));
  call.session = session;
  return session;
}

/**
 * Writes what a failed call tells in its headers.
 * @returns the failure as a SessionError
 */
export function failCall(core: VerifyingCore, call: Call, failure: unknown): SessionError {
  const error =
    failure instanceof SessionError
      ? failure
      : new SessionError("general", "INTERNAL", "unforeseen", { cause: failure });
  writeRefusal(core, call.responseHeader, { error, byCookie: call.byCookie });
  return error;
}

/** Refuses a call: writes its headers, and makes the error that goes on the wire. */
export function refuseCall(
  core: VerifyingCore,
  call: Call,
  { error, procedure }: { readonly error: unknown; readonly procedure: string },
): ConnectError {
  return toConnectError(failCall(core, call, error), { realm: core.issuer, procedure });
}

async function endSession(core: VerifyingCore, call: Call, session: Session): Promise<void> {
  const engine = await core.engine();
  // Where this response can clear the tokens, late calls need not; else the next call does.
  await engine.revoke(session.id, call.committed ? "revoked" : "signOut");
  if (call.committed) {
    return;
  }
  if (session.transport === "cookie") {
    expireCookies(core, call.responseHeader);
  }
  endTokens(core, call.responseHeader, session.id);
}
