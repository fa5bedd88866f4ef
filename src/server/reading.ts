import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { assertMembers, type Duration, durationMs, readChoice } from "../base/checks.ts";
import { SessionError } from "../base/errors.ts";
import type { RevocationCheck } from "../engine/revocation/check.ts";
import type { VerifiedSession } from "../engine/session.ts";
import {
  type Call,
  type CallKey,
  callOf,
  callOfExchange,
  callOfOther,
  callOfRpc,
} from "./call/call.ts";
import {
  type Exchange,
  isIntercepted,
  type RpcContext,
  readContext,
  readExchange,
} from "./call/exchange.ts";
import { createGate, createGateAlone, enterSession, type RequestGate } from "./call/gate.ts";
import { assertConnectRunsGates, assertRequestChecked, assertRunsGates } from "./call/gates-run.ts";
import { createInterceptor } from "./call/interceptor.ts";
import type { VerifyingCore } from "./core.ts";
import { noDemands } from "./policy/demands.ts";
import { assertFresh, type StepUpDemand, sessionMeeting } from "./policy/in-handler.ts";
import {
  type ClaimRules,
  type ForeignBearerPolicy,
  type MethodDescription,
  procedureOf,
} from "./policy/policy.ts";
import { type Protection, type ProtectOptions, protect } from "./protect.ts";
import { failCall, misuse, refuseCall, relayFailure, sessionMissing } from "./response/errors.ts";
import { OpenStreams } from "./streams/open.ts";

export type { StepUpDemand } from "./policy/in-handler.ts";

/** The options of `getSession`. */
export interface GetSessionOptions<Required extends boolean = boolean> {
  /**
   * Whether a cookie session must present its anti-CSRF token. Has no effect if the service has
   * `antiCsrf: "off"`. A service that only verifies refuses true. Default: true, except on GET.
   */
  readonly doAntiCsrfCheck?: boolean;
  /** How to find out whether the session has ended. Default: the option `revocation`. */
  readonly check?: RevocationCheck;
  /** What happens to a bearer token that is not one of this service's. Default "refuse". */
  readonly foreignBearer?: ForeignBearerPolicy;
  /**
   * Which requests may use cookies. "checked": those of this service's own pages. "navigations": also
   * links from anywhere, so that downloads and pages open from a mail or another site. These are GET and
   * HEAD requests with `Sec-Fetch-Mode: navigate` and `Sec-Fetch-Dest: document`; frames, images and
   * scripts stay refused.
   *
   * Any page can then open this URL as the user, and browsers may prefetch it. Use it only where the
   * handler changes nothing. Default "checked".
   */
  readonly crossSite?: "checked" | "navigations";
  /** Whether a missing session is an error. Default true. */
  readonly required?: Required;
}

/** The adapter option that creates context values from the request of the framework. */
export interface RequestContext<R> {
  readonly contextValues?: (request: R) => ContextValues;
}

/** The adapter option for requests that no route serves. Its type is that of the adapter. */
export interface Fallback<F> {
  readonly fallback?: F;
}

/** Options of `sessions.drain`. */
export interface DrainOptions {
  /**
   * The time over which many streams end, so that their clients do not come back all at once. A few
   * hundred end within 100 ms. From "0s", which ends all of them at once, to "5m". Default "5s".
   */
  readonly within?: Duration;
}

/** Verified sessions: everything that a service needs to read them. */
export interface VerifyingSessions<S extends VerifiedSession<object> = VerifiedSession> {
  /**
   * Protects an adapter. Returns its options with the request gate, the interceptor and, if this
   * instance creates sessions, SessionService. Every method requires a session unless a policy
   * allows calls without one.
   *
   * Works with the Connect adapters for Node.js, Express and Fastify, and with a router for
   * `createFetchHandler`. Their option `contextValues` receives the request of the framework.
   *
   * ```ts
   * connectNodeAdapter(sessions.protect({ routes }));
   * ```
   *
   * When the adapter builds its routes, a TypeError is thrown for a policy that names a method which
   * is not served, or that contradicts itself.
   */
  protect<O extends ProtectOptions, R = unknown, F = never>(
    options: O & RequestContext<R> & Fallback<F>,
  ): NoInfer<O> & ConnectRouterOptions & RequestContext<R> & Fallback<F>;
  /**
   * The gate alone, for routers that are built without `protect`. Add the interceptor too, and call
   * `check` with the router. A router accepts one gate; combine several with `composeGates`.
   */
  readonly requestGate: RequestGate;
  /**
   * The interceptor alone. Without the gate it authenticates too, but cannot clear cookies on most
   * failed calls.
   */
  readonly interceptor: Interceptor;
  /**
   * Verifies the tokens of an exchange: a `HandlerContext`, or a plain HTTP request through `fromNode`,
   * `fromFastify` or `fromFetch` of `rpc-session/http`. On failure it writes the headers for the client
   * to `responseHeader`. Cookies are only expired by an error of kind `unauthorized`.
   *
   * @throws SessionError if there is no valid session
   * @throws TypeError if the exchange, `check`, `foreignBearer` or `crossSite` is not valid, if `check` needs a store and there
   * is none, or if `doAntiCsrfCheck` is true in a service that only verifies
   */
  getSession(exchange: Exchange, options?: GetSessionOptions<true>): Promise<S>;
  getSession(exchange: Exchange, options: GetSessionOptions): Promise<S | undefined>;
  /**
   * Returns the session of a call. Pass the context of a handler or a gate, or the request that an
   * interceptor receives. Gates and interceptors must run after those of this instance; `protect`
   * orders them so.
   *
   * @throws ConnectError `Unauthenticated` if the call has no session, which the policy "optional"
   * permits; `Internal` if the method is public or nothing authenticates it
   */
  require(context: RpcContext): S;
  /**
   * Returns the session of a call whose user authenticated recently, such as at most "10m" ago, or in a
   * certain way. Use it to protect operations from a stolen session. After the user has authenticated
   * again, call `reauthenticate`.
   *
   * @param demand the maximum time since the user authenticated; or this and the accepted classes
   * @example
   * sessions.requireFresh(context, { freshWithin: "10m", acr: ["phr"] });
   * @throws ConnectError `PermissionDenied` with the hint `STEP_UP` (RFC 9470) if the user has not
   * authenticated so; otherwise as `require` does
   */
  requireFresh(context: RpcContext, demand: Duration | StepUpDemand): S;
  /**
   * Returns the session of a call whose claims meet rules, the same rules as in a policy. Use it where a
   * rule depends on the request; a policy refuses the call before its body is read.
   *
   * @example
   * await sessions.requireClaims(context, { projects: [request.project] });
   * @throws ConnectError `PermissionDenied` with a violation for each rule that is not met; `Internal`
   * for a rule that is not valid; otherwise as `require` does
   */
  requireClaims(context: RpcContext, rules: ClaimRules): Promise<S>;
  /**
   * Returns the session of a call; undefined if it has none.
   * @throws ConnectError `Internal` if nothing authenticates the method
   */
  current(context: RpcContext): S | undefined;
  /**
   * Checks the policies against the methods that a router serves. `protect` does this itself.
   * @throws TypeError if a policy names a method that the router does not serve, or contradicts
   * itself; if the Connect that created the router is older than 2.2, which ignores gates
   */
  check(router: ConnectRouter): void;
  /** Returns every method of a router with its policy. */
  describe(router: ConnectRouter): MethodDescription[];
  /**
   * Prepares this server for its stop: ends its streams with a hint that makes `session.resume` open
   * them again at once, on another server. Refuses new streams with the same hint. Other calls go on, and so do uploads and streams of
   * the policy "never". With `createSessions`, `health().status` is "draining" from now on, so that a
   * load balancer that asks `healthHandler` sends no more calls.
   *
   * Call it once no load balancer sends new requests, and the server takes no new connections.
   *
   * @returns when all of them have ended; a further call returns the same
   * @throws TypeError for an invalid option
   */
  drain(options?: DrainOptions): Promise<void>;
}

/** The parts that an instance creates before its sessions. */
interface VerifyingParts extends Pick<Protection, "service" | "policies"> {
  readonly key: CallKey;
}

/** What reads the sessions of one issuer, and the parts of it that adapters get. */
interface VerifyingInstance<S extends VerifiedSession> {
  readonly sessions: VerifyingSessions<S>;
  readonly protection: Protection;
}

/** Creates everything that reads sessions. */
export function verifyingInstance<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  { key, policies, service }: VerifyingParts,
): VerifyingInstance<S> {
  assertConnectRunsGates();
  const streams = new OpenStreams(core);
  const interceptor = createInterceptor(core, key, { policies, streams, behindGate: false });
  const protection: Protection = {
    gate: createGate(core, key, policies),
    interceptor: createInterceptor(core, key, { policies, streams, behindGate: true }),
    service,
    policies,
    emit: core.emit,
    uploads: {
      clock: core.clock,
      isRefused: (values) => {
        const call = values.get(key);
        return call?.refusedByApp || (call?.failure !== undefined && !call.admitted);
      },
    },
    gateThrew: (context, error) => gateThrew(core, callOf(core, key, context), { context, error }),
  };
  const current = (given: RpcContext, method = "sessions.current"): S | undefined =>
    sessionIn(core, key, readContext(method, given));
  const require = (context: RpcContext, method = "sessions.require"): S => {
    const session = current(context, method);
    if (session === undefined) {
      const isPublic = policies.of(context.method).auth === "none";
      throw isPublic ? publicMethod(context) : missingSession(core, key, context);
    }
    return session;
  };
  const sessions: VerifyingSessions<S> = {
    protect: (options) => protect(protection, options),
    requestGate: createGateAlone(core, key, policies),
    interceptor,
    getSession: getSessionWith(core, key, policies),
    current: (context) => current(context),
    require: (context) => require(context),
    requireFresh: (context, demand) => {
      const session = require(context, "sessions.requireFresh");
      assertFresh(core, callOfRpc(core, key, context), { context, session, demand });
      return session;
    },
    requireClaims: async (context, rules) => {
      require(context, "sessions.requireClaims");
      return (await sessionMeeting(core, callOfRpc(core, key, context), { context, rules })) as S;
    },
    check(router) {
      assertRunsGates(router);
      policies.assertServed(router.handlers.map(({ method }) => method));
    },
    describe: (router) => policies.describe(router.handlers.map(({ method }) => method)),
    drain: async (options = {}) => {
      assertMembers("drain", options, { within: 0 });
      await streams.drain(durationMs("drain: within", options.within ?? "5s", { max: 300_000 }));
    },
  };
  return { sessions, protection };
}

function sessionIn<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  key: CallKey,
  context: RpcContext,
): S | undefined {
  // The key belongs to this instance, so the session does too.
  const call = callOfRpc(core, key, context);
  if (!call.admitted && call.session === undefined) {
    throw unprotected(key, context);
  }
  assertRequestChecked(call);
  if (call.unreadable !== undefined) {
    const procedure = procedureOf(context.method);
    throw refuseCall(core, call, { error: call.unreadable, procedure });
  }
  return call.session as S | undefined;
}

/**
 * Reports an error of a gate of the application, which keeps its code.
 * @returns the error to send: one of ours gets its details
 */
function gateThrew(
  core: VerifyingCore,
  call: Call,
  { context, error }: { readonly context: HandlerContext; readonly error: unknown },
): unknown {
  const procedure = procedureOf(context.method);
  call.refusedByApp = true;
  if (error instanceof SessionError) {
    return relayFailure(core, call, { error, procedure });
  }
  const sent = error instanceof ConnectError ? error : undefined;
  // Errors of `sessions.require` and the like were reported when they were made.
  if (!(sent?.cause instanceof SessionError)) {
    core.emit({ type: "gateThrew", procedure, code: Code[sent?.code ?? Code.Internal], error });
  }
  return error;
}

function valuesOf(context: RpcContext): ContextValues {
  return isIntercepted(context) ? context.contextValues : context.values;
}

/** The error of a call that neither a gate nor an interceptor of this instance has seen yet. */
export function unprotected(key: CallKey, context: RpcContext): ConnectError {
  const procedure = procedureOf(context.method);
  const add =
    "add sessions.requestGate or sessions.interceptor of this instance to the router. Gates and interceptors that read the session must come after them";
  return misuse(
    callOfOther(key, valuesOf(context)) === undefined
      ? `nothing authenticates ${procedure}; wrap the options of the adapter in sessions.protect(), or ${add}`
      : `nothing authenticates ${procedure} for this instance, but ${useOther}, or ${add}`,
  );
}

const useOther =
  "another instance of createSessions or verifySessions does; use the instance whose protect() serves the method";

/** @throws TypeError if another instance has taken the cookies of an RPC, so that none are left here */
function assertOwnCookies(call: Call, other: Call | undefined): void {
  if (
    other?.presented.hasCookies === true &&
    call.presented.isEmpty &&
    other.cookieNames.access === call.cookieNames.access
  ) {
    throw new TypeError(`sessions.getSession finds no cookies, because ${useOther}`);
  }
}

function publicMethod({ method }: Pick<RpcContext, "method">): ConnectError {
  return misuse(
    `sessions.require was called in ${procedureOf(method)}, which is public, so its calls have no session; set its auth to "optional" or "required"`,
  );
}

function missingSession(core: VerifyingCore, key: CallKey, context: RpcContext): ConnectError {
  return refuseCall(core, callOfRpc(core, key, context), {
    error: sessionMissing(),
    procedure: procedureOf(context.method),
  });
}

function getSessionWith<S extends VerifiedSession>(
  core: VerifyingCore<S>,
  key: CallKey,
  policies: Pick<Protection["policies"], "checkOf" | "assertVerifies">,
): VerifyingSessions<S>["getSession"] {
  const getSession = async (
    given: Exchange,
    options: GetSessionOptions = {},
  ): Promise<S | undefined> => {
    const exchange = readExchange("sessions.getSession", given);
    const check = policies.checkOf(options.check);
    policies.assertVerifies(options.doAntiCsrfCheck);
    const foreignBearer = readChoice("foreignBearer", options.foreignBearer, ["refuse", "ignore"]);
    const crossSite = readChoice("crossSite", options.crossSite, ["checked", "navigations"]);
    const { call, context } = callOfExchange(core, key, exchange);
    assertRequestChecked(call);
    assertOwnCookies(call, callOfOther(key, context.values));
    if (call.written !== undefined && call.session !== undefined) {
      // The response already carries the tokens of another session than the request.
      return call.session as S;
    }
    const { required = true, doAntiCsrfCheck } = options;
    const auth = required ? "required" : "optional";
    const asked = { auth, doAntiCsrfCheck, check, foreignBearer, crossSite } as const;
    const policy = { ...asked, ...noDemands };
    try {
      const hasSession = await enterSession(core, call, policy, undefined);
      return hasSession ? (call.session as S) : undefined;
    } catch (error) {
      throw failCall(core, call, { error, procedure: undefined });
    }
  };
  const tracked: typeof getSession = (given, options) =>
    core.operations.run(() => getSession(given, options));
  return tracked as VerifyingSessions<S>["getSession"];
}
