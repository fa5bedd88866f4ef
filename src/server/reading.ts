import {
  type ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { type Duration, durationMs } from "../base/checks.ts";
import type { RevocationCheck } from "../engine/revocation/check.ts";
import type { VerifiedSession } from "../engine/session.ts";
import { authenticate } from "./authenticate/authenticate.ts";
import { type Call, type CallKey, callOf, type Exchange } from "./call/call.ts";
import { createGate, enterSession, type RequestGate } from "./call/gate.ts";
import { createInterceptor } from "./call/interceptor.ts";
import { failCall, refuseCall } from "./call/refusal.ts";
import { Waits } from "./call/waits.ts";
import type { VerifyingCore } from "./core.ts";
import { assertFresh } from "./policy/demands.ts";
import { type MethodDescription, procedureOf } from "./policy/policy.ts";
import { type Protection, type ProtectOptions, protect } from "./protect.ts";
import { misuse, sessionMissing } from "./response/errors.ts";
import { forbidCaching } from "./response/tokens.ts";

/** How `getSession` checks. */
export interface GetSessionOptions<Required extends boolean = boolean> {
  /**
   * Whether a cookie session must come with its anti-CSRF token. Counts as false where the service
   * has `antiCsrf: "off"`. Default: true on everything but GET.
   */
  readonly doAntiCsrfCheck?: boolean;
  /** How the session's end is looked up. Default: the option `revocation`. */
  readonly check?: RevocationCheck;
  /** Whether having no session is an error. Default true. */
  readonly required?: Required;
}

/** The option of adapters that makes context values of the request as the framework has it. */
export interface RequestContext<R> {
  readonly contextValues?: (request: R) => ContextValues;
}

/** The part of the server side that reads sessions. */
export interface VerifyingSessions<S extends VerifiedSession<object> = VerifiedSession> {
  /**
   * Protects an adapter: returns its options with the request gate, the interceptor and, where
   * sessions are made, SessionService built in. Every method needs a session unless a policy says
   * otherwise.
   *
   * Fits the adapters of Connect as they are: Node, Express, Fastify, and a router for
   * `createFetchHandler`. Their option `contextValues` is given the request as the framework has it.
   *
   * Where the adapter builds its routes, a policy that names a method which is not served, or that
   * asks for what is not supported, throws a TypeError.
   */
  protect<O extends ProtectOptions, R = unknown>(
    options: O & RequestContext<R>,
  ): NoInfer<O> & ConnectRouterOptions & RequestContext<R>;
  /**
   * The gate alone. One router takes one: see `composeGates`. By hand, add the interceptor as well,
   * and `check` the router.
   */
  readonly requestGate: RequestGate;
  /** The interceptor alone: authenticates too, without clearing cookies on most failed calls. */
  readonly interceptor: Interceptor;
  /**
   * GetSession: verifies the tokens of an exchange, which a `HandlerContext` is. On failure it
   * writes what the client must know to `responseHeader`: cookies are expired by `unauthorized`
   * and left alone by everything else.
   *
   * @throws SessionError
   * @throws TypeError when `check` needs a store and there is none
   */
  getSession(exchange: Exchange, options?: GetSessionOptions<true>): Promise<S>;
  getSession(exchange: Exchange, options: GetSessionOptions): Promise<S | undefined>;
  /**
   * The session of a call.
   * @throws ConnectError `Unauthenticated` where the method's policy lets calls without a session
   * pass; `Internal` where nothing authenticates the method
   */
  require(context: HandlerContext): S;
  /**
   * The session of a call whose user proved who they are not longer ago than `within`, such as
   * "10m": for what a stolen session must not do. Let them sign in again, then call
   * `reauthenticate`.
   * @throws ConnectError `PermissionDenied` with the hint `STEP_UP` (RFC 9470) when it was longer ago;
   * and as `require` does
   */
  requireFresh(context: HandlerContext, within: Duration): S;
  /**
   * The session of a call, if it has one.
   * @throws ConnectError `Internal` where nothing authenticates the method
   */
  current(context: HandlerContext): S | undefined;
  /**
   * Checks the policies against what a router serves; `protect` does it by itself.
   * @throws TypeError when a policy names a method that the router does not serve, or asks for what
   * is not supported
   */
  check(router: ConnectRouter): void;
  /** Every method of a router with its policy. */
  describe(router: ConnectRouter): MethodDescription[];
}

/** What the reading part works with. */
export interface VerifyingParts extends Pick<Protection, "service" | "policies"> {
  readonly key: CallKey;
}

/** Makes the part of the server side that reads sessions. */
export function createVerifyingSessions<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  { key, policies, service }: VerifyingParts,
): VerifyingSessions<S> {
  const protection: Protection = {
    gate: createGate(core, key, policies),
    interceptor: createInterceptor(core, key, policies),
    service,
    policies,
  };
  const current = (context: HandlerContext): S | undefined => sessionIn(core, key, context);
  const require = (context: HandlerContext): S => {
    const session = current(context);
    if (session === undefined) {
      const isPublic = policies.of(context.method).auth === "none";
      throw isPublic ? publicMethod(context) : missingSession(core, key, context);
    }
    return session;
  };
  return {
    protect: (options) => protect(protection, options),
    requestGate: protection.gate,
    interceptor: protection.interceptor,
    getSession: getSessionWith(core, key, policies),
    current,
    require,
    requireFresh: (context, within) => {
      const session = require(context);
      assertFreshOn(core, callOf(core, key, context), { context, session, within });
      return session;
    },
    check: (router) => policies.assertServed(router.handlers.map(({ method }) => method)),
    describe: (router) => policies.describe(router.handlers.map(({ method }) => method)),
  };
}

function sessionIn<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  key: CallKey,
  context: HandlerContext,
): S | undefined {
  const call = context.values.get(key);
  if (!call?.admitted && call?.session === undefined) {
    throw unprotected(context);
  }
  // This instance made it: the key is its own.
  return callOf(core, key, context).session as S | undefined;
}

/** The error of a call that came past every part of ours. */
export function unprotected({ method }: HandlerContext): ConnectError {
  return misuse(
    `nothing authenticates ${procedureOf(method)}: wrap the adapter's options in sessions.protect(), or add sessions.requestGate or sessions.interceptor to the router of this instance`,
  );
}

function assertFreshOn(
  core: VerifyingCore,
  call: Call,
  given: {
    readonly context: HandlerContext;
    readonly session: VerifiedSession<object>;
    readonly within: Duration;
  },
): void {
  const { id, authTime } = given.session;
  try {
    const within = durationMs("requireFresh", given.within);
    assertFresh(core, { sessionId: id, authTime: authTime.getTime(), within });
  } catch (error) {
    throw error instanceof TypeError
      ? misuse(error.message, error)
      : refuseCall(core, call, { error, procedure: procedureOf(given.context.method) });
  }
}

function publicMethod({ method }: HandlerContext): ConnectError {
  return misuse(
    `sessions.require: ${procedureOf(method)} is public, so its calls have no session; make it "optional" or "required"`,
  );
}

function missingSession(core: VerifyingCore, key: CallKey, context: HandlerContext): ConnectError {
  return refuseCall(core, callOf(core, key, context), {
    error: sessionMissing(),
    procedure: procedureOf(context.method),
  });
}

function getSessionWith<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  key: CallKey,
  policies: Pick<Protection["policies"], "checkOf">,
): VerifyingSessions<S>["getSession"] {
  // An exchange without values is known again by its headers: its cookies are hidden after the first time.
  const plain = new WeakMap<Headers, ContextValues>();
  const valuesOf = (headers: Headers): ContextValues => {
    const values = plain.get(headers) ?? createContextValues();
    plain.set(headers, values);
    return values;
  };
  const getSession = async (
    exchange: Exchange & { readonly values?: ContextValues; readonly signal?: AbortSignal },
    options: GetSessionOptions = {},
  ): Promise<S | undefined> => {
    const check = policies.checkOf(options.check);
    const { requestHeader, responseHeader, requestMethod, signal } = exchange;
    const call = callOf(core, key, {
      ...{ requestHeader, responseHeader, requestMethod },
      values: exchange.values ?? valuesOf(requestHeader),
      ...(signal === undefined ? {} : { signal }),
    });
    forbidCaching(responseHeader, requestMethod);
    const waits = new Waits(undefined);
    try {
      const claims = await authenticate(core, call, {
        required: options.required ?? true,
        doAntiCsrfCheck: options.doAntiCsrfCheck ?? call.requestMethod !== "GET",
        check,
        waits,
      });
      if (claims === undefined) {
        return undefined;
      }
      await enterSession(core, call, claims, waits);
      return call.session as S | undefined;
    } catch (error) {
      throw failCall(core, call, { error, procedure: undefined });
    }
  };
  return getSession as VerifyingSessions<S>["getSession"];
}
