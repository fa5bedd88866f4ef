import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type Interceptor,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../errors.ts";
import { type Session, sessionOf } from "../session/session.ts";
import type { TokenTransport } from "../transport.ts";
import { authenticate } from "./authenticate.ts";
import {
  type CallKey,
  callOf,
  createCallKey,
  type Exchange,
  enterSession,
  failCall,
  refuseCall,
} from "./call.ts";
import type { Core } from "./core.ts";
import { createGate, type RequestGate } from "./gate.ts";
import { createInterceptor } from "./interceptor.ts";
import { type MethodDescription, type Policies, procedureOf } from "./policy.ts";
import { type Protection, type ProtectOptions, protect } from "./protect.ts";
import { forbidCaching } from "./respond.ts";
import { createSessionService } from "./service.ts";
import { type IssuedTokens, issue, type NewSessionOptions, signIn } from "./sign-in.ts";

/** How `getSession` checks. */
export interface GetSessionOptions<Required extends boolean = boolean> {
  /**
   * Whether a cookie session must come with its anti-CSRF token. Counts as false where the service
   * has `antiCsrf: "off"`. Default: true on everything but GET.
   */
  readonly doAntiCsrfCheck?: boolean;
  /** Whether having no session is an error. Default true. */
  readonly required?: Required;
}

/** The server side of sessions over Connect; what `createSessions` returns is this and more. */
export interface ServerSessions {
  /**
   * Protects an adapter: returns its options with the request gate, the interceptor and
   * SessionService built in. Every method needs a session unless a policy says otherwise.
   *
   * Where the adapter builds its routes, a policy that names a method which is not served, or that
   * asks for what is not supported, throws a TypeError.
   */
  protect<O extends ProtectOptions>(options: O): NoInfer<O>;
  /**
   * The gate alone. One router takes one: see `composeGates`. By hand, add the interceptor as well,
   * and `check` the router.
   */
  readonly requestGate: RequestGate;
  /** The interceptor alone: authenticates too, without clearing cookies on most failed calls. */
  readonly interceptor: Interceptor;
  /** The implementation of `rpcsession.v1.SessionService`, for `router.service`. */
  readonly service: Partial<ServiceImpl<typeof SessionService>>;
  /**
   * GetSession: verifies the tokens of an exchange, which a `HandlerContext` is. On failure it
   * writes what the client must know to `responseHeader`: cookies are expired by `unauthorized`
   * and left alone by everything else.
   *
   * @throws SessionError
   */
  getSession(exchange: Exchange, options?: GetSessionOptions<true>): Promise<Session>;
  getSession(exchange: Exchange, options: GetSessionOptions): Promise<Session | undefined>;
  /**
   * The session of a call.
   * @throws ConnectError `Unauthenticated` where the method's policy lets calls without a session
   * pass; `Internal` where nothing authenticates the method
   */
  require(context: HandlerContext): Session;
  /**
   * The session of a call, if it has one.
   * @throws ConnectError `Internal` where nothing authenticates the method
   */
  current(context: HandlerContext): Session | undefined;
  /**
   * Begins a session and writes its tokens to the response of this call: signs in. A session that
   * came with the request is ended by it.
   *
   * @throws ConnectError `PermissionDenied` for a cross-site request or a refused transport,
   * `Unavailable` for an outage, `Internal` for misuse, such as reserved claim names
   */
  create(context: HandlerContext, options: NewSessionOptions): Promise<Session>;
  /**
   * Begins a session without a response, for tests, scripts and other ways to hand tokens over.
   * @throws SessionError TypeError
   */
  issue(
    options: NewSessionOptions & {
      /** How the tokens will travel. Default "header". */
      readonly transport?: TokenTransport;
    },
  ): Promise<{ readonly session: Session; readonly tokens: IssuedTokens }>;
  /**
   * Checks the policies against what a router serves; `protect` does it by itself.
   * @throws TypeError when a policy names a method that the router does not serve, or asks for what
   * is not supported
   */
  check(router: ConnectRouter): void;
  /** Every method of a router with its policy. */
  describe(router: ConnectRouter): MethodDescription[];
}

/** Makes the server side. */
export function createServerSessions(core: Core, policies: Policies): ServerSessions {
  const key = createCallKey();
  const protection: Protection = {
    gate: createGate(core, key, policies),
    interceptor: createInterceptor(core, key, policies),
    service: createSessionService(core, key),
    policies,
  };
  const current = (context: HandlerContext): Session | undefined => sessionIn(core, key, context);
  return {
    protect: (options) => protect(protection, options),
    requestGate: protection.gate,
    interceptor: protection.interceptor,
    service: protection.service,
    getSession: getSessionWith(core, key),
    current,
    require(context) {
      const session = current(context);
      if (session !== undefined) {
        return session;
      }
      throw policies.of(context.method).auth === "none"
        ? publicMethod(context)
        : missingSession(core, key, context);
    },
    create: (context, options) => createOn(core, key, { context, options }),
    async issue(options) {
      const created = await issue(core, options);
      const { access, refreshToken } = created;
      const { claims } = access;
      const session = sessionOf(claims, async () => {
        await (await core.engine()).revoke(claims.sid, "revoked");
      });
      return { session, tokens: { accessToken: access.token, refreshToken } };
    },
    check: (router) => policies.check(router.handlers.map(({ method }) => method)),
    describe: (router) => policies.describe(router.handlers.map(({ method }) => method)),
  };
}

function sessionIn(core: Core, key: CallKey, context: HandlerContext): Session | undefined {
  const call = context.values.get(key);
  if (!call?.admitted && call?.session === undefined) {
    throw unprotected(context);
  }
  return callOf(core, key, context).session;
}

function unprotected({ method }: HandlerContext): ConnectError {
  return misuse(
    `nothing authenticates ${procedureOf(method)}: wrap the adapter's options in sessions.protect(), or add sessions.requestGate or sessions.interceptor to the router of this instance`,
  );
}

function publicMethod({ method }: HandlerContext): ConnectError {
  return misuse(
    `sessions.require: ${procedureOf(method)} is public, so its calls have no session; make it "optional" or "required"`,
  );
}

function missingSession(core: Core, key: CallKey, context: HandlerContext): ConnectError {
  return refuseCall(core, callOf(core, key, context), {
    error: new SessionError("unauthorized", "SESSION_MISSING", {
      message: "the call needs a session",
    }),
    procedure: procedureOf(context.method),
  });
}

async function createOn(
  core: Core,
  key: CallKey,
  { context, options }: { readonly context: HandlerContext; readonly options: NewSessionOptions },
): Promise<Session> {
  if (!context.values.get(key)?.admitted) {
    throw unprotected(context);
  }
  const call = callOf(core, key, context);
  try {
    return await signIn(core, call, options);
  } catch (error) {
    throw error instanceof TypeError
      ? misuse(error.message, error)
      : refuseCall(core, call, { error, procedure: procedureOf(context.method) });
  }
}

function getSessionWith(core: Core, key: CallKey): ServerSessions["getSession"] {
  // An exchange without values is known again by its headers: its cookies are hidden after the first time.
  const plain = new WeakMap<Headers, ContextValues>();
  const valuesOf = (headers: Headers): ContextValues => {
    const values = plain.get(headers) ?? createContextValues();
    plain.set(headers, values);
    return values;
  };
  const getSession = async (
    exchange: Exchange & { readonly values?: ContextValues },
    options: GetSessionOptions = {},
  ): Promise<Session | undefined> => {
    const { requestHeader, responseHeader, requestMethod } = exchange;
    const values = exchange.values ?? valuesOf(requestHeader);
    const call = callOf(core, key, { requestHeader, responseHeader, requestMethod, values });
    forbidCaching(responseHeader, requestMethod);
    try {
      const claims = await authenticate(
        core,
        { headers: call.requestHeader, method: call.requestMethod, presented: call.presented },
        {
          required: options.required ?? true,
          doAntiCsrfCheck: options.doAntiCsrfCheck ?? call.requestMethod !== "GET",
        },
      );
      return claims === undefined ? undefined : enterSession(core, call, claims);
    } catch (error) {
      throw failCall(core, call, { error, procedure: undefined });
    }
  };
  return getSession as ServerSessions["getSession"];
}

/** A developer's mistake: the message is for them, and holds nothing of the request. */
function misuse(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Internal, undefined, undefined, cause);
}
