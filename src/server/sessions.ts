import type { ConnectRouter, ServiceImpl } from "@connectrpc/connect";
import type { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { assertMembers } from "../base/checks.ts";
import type { PolicyViolation } from "../base/errors.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { RevokeCause } from "../engine/audit/log.ts";
import type { Created } from "../engine/create.ts";
import type { Session, SessionInfo } from "../engine/session.ts";
import { checkChange, checkCrossSite } from "../request/origins.ts";
import { type Call, type CallKey, callOf, callOfExchange, createCallKey } from "./call/call.ts";
import { type ClientContext, type Exchange, isRpc, readExchange } from "./call/exchange.ts";
import { enterSession } from "./call/gate.ts";
import { assertRequestChecked } from "./call/gates-run.ts";
import type { Core } from "./core.ts";
import { noDemands } from "./policy/demands.ts";
import { type ClaimRules, type Policies, procedureOf } from "./policy/policy.ts";
import { ClaimSources } from "./policy/sources.ts";
import { type Protection, registerService, serviceOptions } from "./protect.ts";
import { unprotected, type VerifyingSessions, verifyingInstance } from "./reading.ts";
import { failCall, misuse, refuseCall } from "./response/errors.ts";
import { type DbscEndpoints, serveDbsc } from "./service/dbsc.ts";
import { createSessionService, signOut } from "./service/service.ts";
import { type AdoptedFacts, type AdoptedSession, isAdopted, readAdopted } from "./session/adopt.ts";
import { auditLogOf, type SessionAuditLog } from "./session/audit.ts";
import type { AuthenticationOptions } from "./session/authentication.ts";
import { revokeWhere, type SessionCondition } from "./session/by-condition.ts";
import {
  checkById,
  dataById,
  findById,
  listByOwner,
  revokeById,
  revokeByIds,
  revokeByOwner,
  type SessionDirectory,
  updateClaimsById,
  updateDataById,
} from "./session/by-id.ts";
import { SessionHandle } from "./session/handle.ts";
import {
  assertNotCommitted,
  type BindOption,
  checkRequest,
  type IssuedTokens,
  issue,
  type NewSessionOptions,
  type RedirectOptions,
  signIn,
} from "./session/sign-in.ts";
import { type ForkOptions, fork, reauthenticate } from "./session/successors.ts";
import {
  createTicket,
  redeemTicket,
  type SessionTicket,
  type TicketOptions,
} from "./session/tickets.ts";

/**
 * The server side of sessions over Connect. `createSessions` returns this and more.
 *
 * `Claims`: the claims that handlers read. `Given`: the claims that a sign-in gives.
 */
export interface ServerSessions<Claims extends object = JsonObject, Given extends object = object>
  extends Omit<VerifyingSessions<Session<Claims>>, "check">,
    SessionDirectory<Claims> {
  /**
   * The implementation of `rpcsession.v1.SessionService`, for `router.service`.
   *
   * A handler of yours may call its `refresh`. The refreshed session is then the session of the call:
   * `require` returns it, and its `revoke` clears the tokens. If the handler throws, the response carries no
   * new tokens, and the client keeps its former ones.
   */
  readonly service: Partial<ServiceImpl<typeof SessionService>>;
  /**
   * The options of SessionService, for a router that is built without `protect`: messages have at most
   * 4 KiB, because `Refresh` and `SignOut` read them from anybody.
   *
   * @example
   * router.service(SessionService, sessions.service, sessions.serviceOptions);
   */
  readonly serviceOptions: { readonly readMaxBytes: number };
  /**
   * Registers SessionService in a router, with its limits, the gate and the interceptor, unless the router
   * serves it already. Only routers that are built without `protect` need it, such as those of a framework.
   *
   * @example
   * connectNodeAdapter({ routes: (router) => sessions.register(router) });
   * @returns the router
   * @throws TypeError if the Connect that created the router is older than 2.2, which ignores gates
   */
  register(router: ConnectRouter): ConnectRouter;
  /**
   * Signs a user in: creates a session and writes its tokens to the response of this call. Ends the
   * session that came with the request. If the handler throws afterwards, the user stays signed in;
   * to undo the sign-in, revoke the new session.
   *
   * Works in the handler of an RPC and, with `fromNode`, `fromFastify` or `fromFetch` of
   * `rpc-session/http`, in any HTTP handler. There a GET request needs the option `afterRedirect`.
   *
   * @example
   * await sessions.create(context, { userId: "alice", claims: { role: "admin" } });
   * @throws ConnectError `PermissionDenied` for a cross-site request, a refused transport, or a user
   * who already has the maximum number of sessions; `Unavailable` for an outage; `Internal` for
   * misuse, such as claims that do not fit the schema. Outside RPCs, a SessionError instead, and a
   * TypeError for misuse
   */
  create(
    exchange: Exchange,
    options: NewSessionOptions<Given> &
      RedirectOptions &
      BindOption & {
        /**
         * How the tokens travel. A client that asks for the other way is refused, as is a browser that
         * would receive them in headers without `browserHeaderTransport`. Default: as the client asks,
         * else cookies for a browser on a page of `origins`, and headers for all others.
         */
        readonly transport?: TokenTransport;
      },
  ): Promise<Session<Claims>>;
  /**
   * Trades a session of another system for a new one, once. Writes its tokens to the response of this
   * call, as `create` does. The user does not sign in again: the new session keeps `createdAt` and
   * `authTime`, ends when a session of that age has to, and does not count as an authentication.
   *
   * First, your code must verify the other session on the server, with the library that made it. Nothing
   * here checks that it exists, whose it is, or when it began: take no part of the options from the
   * request. Afterwards, end it there.
   *
   * A further trade of the same session is refused: at the same moment on another server, and after the
   * new session has ended. There is one exception, for answers that are lost. If nothing shows that the
   * client has the new tokens, the trade may be repeated once, from `refresh.clientTimeout` to 5 minutes
   * after it. That ends the session of the first trade.
   *
   * @example
   * const old = await SuperTokens.getSession(req, res);
   * await sessions.adopt(fromNode(req, res), {
   *   userId: old.getUserId(),
   *   externalId: { issuer: "supertokens", sid: old.getHandle() },
   *   createdAt: new Date(await old.getTimeCreated()),
   * });
   * await old.revokeSession();
   * @throws ConnectError `Unauthenticated` if the session was adopted before (`SESSION_REVOKED`), or is
   * older than `lifetimes.absolute` or past `endsBy` (`SESSION_EXPIRED`); no tokens are cleared. Otherwise
   * as `create` does. A time in the future is misuse
   */
  adopt(
    exchange: Exchange,
    options: NewSessionOptions<Given> &
      AdoptedFacts &
      BindOption & {
        /** How the tokens travel; as for `create`. */
        readonly transport?: TokenTransport;
      },
  ): Promise<Session<Claims>>;
  /**
   * The same without a response, as `issue` does: the tokens are yours to deliver.
   *
   * @throws SessionError `unauthorized` as above; otherwise as `issue` does
   */
  adopt(
    options: NewSessionOptions<Given> & AdoptedFacts & IssueOptions,
  ): Promise<IssuedSession<Claims>>;
  /**
   * Checks the policies against the methods that a router serves. `protect` does this itself.
   * @throws TypeError if a policy names a method that the router does not serve, or contradicts
   * itself; if the Connect that created the router is older than 2.2, which ignores gates
   */
  check(router: ConnectRouter): void;
  /**
   * Checks the claims of a live session against rules, the same rules as in a policy.
   *
   * @example
   * const unmet = await sessions.check(id, { role: ["admin"], level: { gte: 3 } });
   * @returns a violation for each rule that is not met, empty if all are; undefined if there is no such
   * live session
   * @throws TypeError if a rule is not valid, or there is none
   */
  check(id: string, rules: ClaimRules): Promise<readonly PolicyViolation[] | undefined>;
  /**
   * Creates a session without a response, for tests, scripts and other ways to deliver tokens.
   *
   * @throws TypeError if an option or a claim is invalid
   * @throws SessionError `forbidden` for a user who already has the maximum number of sessions;
   * `unavailable` for an outage
   */
  issue(options: NewSessionOptions<Given> & IssueOptions): Promise<IssuedSession<Claims>>;
  /**
   * Replaces the session of this call. Call it after the user has authenticated again, and check that
   * it was the same user. The new session has another id, new tokens in the response, and `authTime`
   * set to now. Its `acr` and `amr` are those of the options; without them it has none. Everything else
   * is kept. The former session ends in the same transaction.
   *
   * Outside RPCs it reads the session first, as `getSession` does, unless you have read it before.
   *
   * @throws ConnectError as `require` and `create` do; outside RPCs, errors as `create`
   */
  reauthenticate(
    exchange: Exchange,
    options?: RedirectOptions & AuthenticationOptions,
  ): Promise<Session<Claims>>;
  /**
   * Signs the caller out, also with an expired access token: ends every session that the tokens of the
   * request prove, and clears the tokens in the response. `session.revoke()` does the same for the
   * session of a call that has a valid access token.
   *
   * @returns the ids of the sessions that are over now; empty if the request proves none
   * @throws ConnectError `PermissionDenied` for a cross-site request; `Unavailable` for an outage.
   * Outside RPCs, a SessionError instead, also for a HEAD request, a prefetch, and a GET of an image
   * or a frame
   */
  signOut(exchange: Exchange): Promise<readonly string[]>;
  /**
   * Creates a second session of the caller for a second token holder, such as a command-line tool
   * or a server that renders pages. Do not share one session between two holders: reuse detection
   * would revoke it.
   *
   * The new session has the same claims and data and ends no later. If reuse detection ends the
   * session it comes from, it ends too. Nothing is written to the response. It counts towards the
   * user's session limit but never ends the session it comes from: if no other session can be ended,
   * the call is refused. So is a fork of forks that are eight deep.
   *
   * @throws ConnectError `PermissionDenied` with the hint `STEP_UP` if the user has not authenticated
   * within `freshWithin`; otherwise as `require` and `create` do. Outside RPCs it reads the session
   * first, as `reauthenticate` does
   */
  fork(exchange: Exchange, options?: ForkOptions): Promise<IssuedSession<Claims>>;
  /**
   * Offers Device Bound Session Credentials at sign-ins from now on, and returns their endpoints.
   * `dbscHandler` of `rpc-session/http` calls it, so that nothing is offered that nobody serves.
   * @param path the path of the endpoints, such as "/dbsc"
   * @throws TypeError if the path is wrong, or the cookies are partitioned
   */
  dbsc(path: string): DbscEndpoints;
  /**
   * Creates a ticket for the session of this call, where its tokens cannot go: a WebSocket, or a download
   * from another host. Whoever has the ticket may redeem it once, on any server that shares the store.
   * Nothing is written to the response or to the store. Reads the session from the store.
   *
   * @example
   * const { ticket } = await sessions.ticket(context, { purpose: "download", within: "30s" });
   * @throws ConnectError `Unauthenticated` if the session is bound to a key that the call has not proven;
   * otherwise as `require` does. Outside RPCs it reads the session first, as `fork` does
   */
  ticket(exchange: Exchange, options: TicketOptions): Promise<SessionTicket>;
  /**
   * Redeems a ticket: returns its session, once. The session must still be live in the store. Checks no
   * policy. Writes nothing to a response.
   *
   * @example
   * const { userId } = await sessions.redeemTicket(ticket, { purpose: "download" });
   * @param ticket what the request sent, checked or not
   * @throws SessionError `unauthorized` for a ticket of another purpose or service, one that was used or
   * has expired, and one whose session is over; `unavailable` for an outage, after which the ticket may
   * count as used
   * @throws TypeError if the purpose is not valid
   */
  redeemTicket(
    ticket: string | null | undefined,
    options: Pick<TicketOptions, "purpose">,
  ): Promise<SessionInfo<Claims>>;
  /** What happened to the sessions of a user; see the option `auditLog`. */
  readonly auditLog: SessionAuditLog;
  /**
   * Returns the methods that create or take tokens of one host without a request of it. Only with the
   * option `hosts`; `issue`, `redeemTicket` and `adopt` without a response are then refused on the sessions
   * themselves.
   *
   * @example
   * await sessions.host("shop-a.example").issue({ userId: "alice" });
   * @param name the host of one of the issuers in `hosts`, with its port unless that is the default one
   * @throws TypeError if the host is not listed, or the service has no option `hosts`
   */
  host(name: string): HostSessions<Claims, Given>;
}

/** Options of a session whose tokens are not written to a response. */
export interface IssueOptions {
  /** How the tokens will travel. Default "header". */
  readonly transport?: TokenTransport;
  /**
   * The thumbprint of the client's public key, to which the session is bound (RFC 7638, SHA-256,
   * base64url). The tokens must travel in headers. Default: the session is bound to no key.
   */
  readonly boundKey?: string | undefined;
}

/** What is done for one host of several, without a request; see `sessions.host`. */
export interface HostSessions<Claims extends object = JsonObject, Given extends object = object>
  extends Pick<ServerSessions<Claims, Given>, "issue" | "redeemTicket"> {
  /** Trades a session of another system for a new one of this host; see `adopt` of the sessions. */
  adopt(
    options: NewSessionOptions<Given> & AdoptedFacts & IssueOptions,
  ): Promise<IssuedSession<Claims>>;
}

/** A session and its tokens, to deliver outside of a response. */
export interface IssuedSession<Claims extends object = JsonObject> {
  readonly session: Session<Claims>;
  readonly tokens: IssuedTokens;
}

/** How the methods of an instance work on calls: those of RPCs, and of plain HTTP requests. */
function callsOf(core: Core, key: CallKey, policies: Policies) {
  /** Runs work on a call. A failure is written to its response. */
  const onCall = async <T>(
    { given, method }: { readonly given: unknown; readonly method: string },
    work: (call: Call, context: ClientContext) => Promise<T>,
  ): Promise<T> => {
    const exchange = readExchange(method, given);
    if (!isRpc(exchange)) {
      const { call, context } = callOfExchange(core, key, exchange);
      try {
        return await core.operations.run(() => work(call, context));
      } catch (error) {
        throw error instanceof TypeError
          ? error
          : failCall(core, call, { error, procedure: undefined });
      }
    }
    if (!exchange.values.get(key)?.admitted) {
      throw unprotected(key, exchange);
    }
    const call = callOf(core, key, exchange);
    assertRequestChecked(call);
    try {
      return await work(call, exchange);
    } catch (error) {
      if (error instanceof TypeError) {
        throw misuse(error.message, error);
      }
      throw refuseCall(core, call, { error, procedure: procedureOf(exchange.method) });
    }
  };

  /**
   * Makes sure that a call has its session. The gate has read that of an RPC.
   * @param isTrusted whether the page that sent the request does not matter
   * @throws SessionError
   */
  const enter = async (call: Call, context: ClientContext, isTrusted: boolean): Promise<void> => {
    if (isRpc(context)) {
      return;
    }
    if (call.session === undefined) {
      const check = policies.checkOf(undefined);
      const crossSite = isTrusted ? "unchecked" : "checked";
      const doAntiCsrfCheck = isTrusted ? false : undefined;
      const asked = { auth: "required", check, foreignBearer: "refuse", crossSite } as const;
      const policy = { ...asked, doAntiCsrfCheck, ...noDemands };
      await enterSession(core, call, policy, undefined);
    } else if (call.byCookie && !isTrusted) {
      // It may have been read for a navigation, where nothing changes.
      checkCrossSite(core, call);
    }
  };

  /** Runs work on a call that has its session, and that another site must not cause. */
  const onSession = <T>(
    { given, method }: { readonly given: unknown; readonly method: string },
    work: (call: Call) => Promise<T>,
  ): Promise<T> =>
    onCall({ given, method }, async (call, context) => {
      if (!isRpc(context)) {
        checkChange(core, call, { method });
      }
      await enter(call, context, false);
      return work(call);
    });

  return { onCall, onSession, enter };
}

/** Notices that users sign in although their clients could not refresh here. */
class Registration {
  readonly #emit: Core["emit"];
  #isSettled = false;

  constructor(emit: Core["emit"]) {
    this.#emit = emit;
  }

  /** Reports that a router has registered SessionService. */
  registered(): void {
    this.#isSettled = true;
  }

  /** Warns at the first sign-in if no router has. Another process may serve it, so this is not an error. */
  signsIn(): void {
    if (!this.#isSettled) {
      this.#isSettled = true;
      this.#emit({
        type: "warning",
        option: "routes",
        advice:
          "users sign in here, but no router of this process has registered SessionService, so their clients cannot refresh; serve the routes that sessions.protect returns, or call sessions.register(router). If another process serves it, nothing is wrong",
      });
    }
  }
}

/** The server side of one issuer, and the parts of it that adapters get. */
export interface ServerInstance {
  readonly sessions: ServerSessions;
  readonly protection: Protection;
}

/** The methods on sessions by id, by user and by tenant. */
export function directoryOf(core: Core): Omit<SessionDirectory, "check"> {
  const run = <T>(work: () => Promise<T>): Promise<T> => core.operations.run(work);
  return {
    find: (id) => run(() => findById(core, id)),
    list: (options) => run(() => listByOwner(core, options)),
    updateClaims: (id, change) => run(() => updateClaimsById(core, id, change)),
    data: (id) => run(() => dataById(core, id)),
    updateData: (id, change) => run(() => updateDataById(core, id, change)),
    revoke: ((ids: string | readonly string[], cause?: RevokeCause) =>
      run<unknown>(() =>
        Array.isArray(ids) ? revokeByIds(core, ids, cause) : revokeById(core, ids as string, cause),
      )) as SessionDirectory["revoke"],
    revokeAll: (options, cause) => run(() => revokeByOwner(core, options, cause)),
    revokeWhere: (condition, cause) =>
      run(() => revokeWhere(core, condition as SessionCondition, cause)),
  };
}

/** Assembles the server side: each public method and the function that carries it out. */
export function createInstance(given: Core, policies: Policies): ServerInstance {
  const core: Core = { ...given, sources: new ClaimSources(given) };
  const key = createCallKey();
  const registration = new Registration(core.emit);
  const service = createSessionService(core, key, () => registration.registered());
  const { sessions: verifying, protection } = verifyingInstance(core, { key, policies, service });
  const { requestGate, interceptor } = verifying;
  const { onCall, onSession, enter } = callsOf(core, key, policies);
  const run = <T>(work: () => Promise<T>): Promise<T> => core.operations.run(work);

  const sessions: ServerSessions = {
    ...verifying,
    service,
    serviceOptions,
    register: (router) => registerService({ service, requestGate, interceptor }, router),
    // Sessions of a call.
    create: (given, options) =>
      onCall({ given, method: "sessions.create" }, (call, context) => {
        registration.signsIn();
        return signIn(core, call, context, { options });
      }),
    adopt: ((given: Exchange | AdoptedSession, options?: AdoptedSession) =>
      isAdopted(given, options)
        ? run(async () => toIssued(core, await issue(core, readAdopted(given))))
        : onCall({ given, method: "sessions.adopt" }, (call, context) => {
            registration.signsIn();
            return signIn(core, call, context, readAdopted(options));
          })) as ServerSessions["adopt"],
    issue: (options) => run(async () => toIssued(core, await issue(core, { options }))),
    reauthenticate: (given, options = {}) => {
      const method = "sessions.reauthenticate";
      return onCall({ given, method }, async (call, context) => {
        assertMembers(method, options, { afterRedirect: 0, acr: 0, amr: 0 });
        const { afterRedirect, ...authentication } = options;
        const isTrusted = checkRequest(core, call, context, { method, afterRedirect });
        await enter(call, context, isTrusted);
        return reauthenticate(core, call, context, authentication);
      });
    },
    signOut: (given) => {
      const method = "sessions.signOut";
      return onCall({ given, method }, async (call, context) => {
        assertNotCommitted(call, method);
        if (!isRpc(context)) {
          checkChange(core, call, { method });
        }
        return signOut(core, call, "");
      });
    },
    fork: (given, options = {}) =>
      onSession({ given, method: "sessions.fork" }, async (call) =>
        toIssued(core, await fork(core, call, options)),
      ),
    ticket: (given, options) =>
      onSession({ given, method: "sessions.ticket" }, (call) => createTicket(core, call, options)),
    redeemTicket: (ticket, options) => run(() => redeemTicket(core, ticket, options)),
    // Sessions by id, by user and by tenant.
    ...directoryOf(core),
    check: ((given: ConnectRouter | string, rules: ClaimRules) =>
      typeof given === "object"
        ? verifying.check(given)
        : run(() => checkById(core, given, rules))) as ServerSessions["check"],
    dbsc: (path) => serveDbsc(core, path),
    auditLog: core.operations.tracked(auditLogOf(core)),
    host: () => {
      throw new TypeError(
        "sessions.host is for a service with several hosts; list them in the option hosts, or call the method of sessions itself",
      );
    },
  };
  return { sessions, protection };
}

async function toIssued(core: Core, created: Created): Promise<IssuedSession> {
  const { access, refreshToken, record } = created;
  const read = await core.claims.read(record.claims);
  const session = new SessionHandle(core, { claims: access.claims, read });
  return { session, tokens: { accessToken: access.token, refreshToken } };
}
