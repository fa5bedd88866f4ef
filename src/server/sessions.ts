import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { Created } from "../engine/create.ts";
import type { Session } from "../engine/session.ts";
import { type Call, type CallKey, callOf, createCallKey } from "./call/call.ts";
import { refuseCall } from "./call/refusal.ts";
import type { Core } from "./core.ts";
import { type Policies, procedureOf } from "./policy/policy.ts";
import { createVerifyingSessions, unprotected, type VerifyingSessions } from "./reading.ts";
import { misuse } from "./response/errors.ts";
import { createSessionService } from "./service/service.ts";
import { createSessionDirectory, type SessionDirectory } from "./session/by-id.ts";
import { sessionHandle } from "./session/handle.ts";
import { type IssuedTokens, issue, type NewSessionOptions, signIn } from "./session/sign-in.ts";
import { type ForkOptions, fork, reauthenticate } from "./session/successors.ts";

/**
 * The server side of sessions over Connect; what `createSessions` returns is this and more.
 * `Claims`: what handlers read; `Given`: what a sign-in gives.
 */
export interface ServerSessions<Claims extends object = JsonObject, Given extends object = object>
  extends VerifyingSessions<Session<Claims>>,
    SessionDirectory<Claims> {
  /** The implementation of `rpcsession.v1.SessionService`, for `router.service`. */
  readonly service: Partial<ServiceImpl<typeof SessionService>>;
  /**
   * Begins a session and writes its tokens to the response of this call: signs in. A session that
   * came with the request is ended by it.
   *
   * @throws ConnectError `PermissionDenied` for a cross-site request, a refused transport, or a user
   * with as many sessions as are allowed, `Unavailable` for an outage, `Internal` for misuse, such as
   * claims that do not fit
   */
  create(context: HandlerContext, options: NewSessionOptions<Given>): Promise<Session<Claims>>;
  /**
   * Begins a session without a response, for tests, scripts and other ways to hand tokens over.
   * @throws SessionError TypeError
   */
  issue(
    options: NewSessionOptions<Given> & {
      /** How the tokens will travel. Default "header". */
      readonly transport?: TokenTransport;
    },
  ): Promise<IssuedSession<Claims>>;
  /**
   * Begins the session of this call anew, after you have seen its user prove again who they are:
   * another id and new tokens in the response, `authTime` now, all else as it was. The former
   * session ends in the same transaction.
   *
   * @throws ConnectError as `require` and `create` do
   */
  reauthenticate(context: HandlerContext): Promise<Session<Claims>>;
  /**
   * Begins a second session of the caller, for a second holder of tokens such as a command-line
   * tool or a server that renders pages: two that share one session end in theft. It says what this
   * one says, and ends no later. Nothing is written to the response. It counts among the sessions of
   * its user, but never ends the one it comes from: where no other can, it is refused.
   *
   * @throws ConnectError as `require` and `create` do
   */
  fork(context: HandlerContext, options?: ForkOptions): Promise<IssuedSession<Claims>>;
}

/** A session, and its tokens to hand over. */
export interface IssuedSession<Claims extends object = JsonObject> {
  readonly session: Session<Claims>;
  readonly tokens: IssuedTokens;
}

/** Makes the server side. */
export function createServerSessions(core: Core, policies: Policies): ServerSessions {
  const key = createCallKey();
  const service = createSessionService(core, key);
  const on = callRunner(core, key);
  return {
    ...createVerifyingSessions(core, { key, policies, service }),
    ...createSessionDirectory(core),
    service,
    create: (context, options) => on(context, (call) => signIn(core, call, { options, context })),
    issue: async (options) => handOver(core, await issue(core, options)),
    reauthenticate: (context) => on(context, (call) => reauthenticate(core, call, context)),
    fork: (context, options = {}) =>
      on(context, async (call) => handOver(core, await fork(core, call, options))),
  };
}

async function handOver(core: Core, created: Created): Promise<IssuedSession> {
  const { access, refreshToken, record } = created;
  const read = await core.claims.read(record.claims);
  const session = sessionHandle(core, { claims: access.claims, read });
  return { session, tokens: { accessToken: access.token, refreshToken } };
}

/** Does work on a call that was admitted, and makes its failures the call's. */
function callRunner(core: Core, key: CallKey) {
  return async <T>(context: HandlerContext, work: (call: Call) => Promise<T>): Promise<T> => {
    if (!context.values.get(key)?.admitted) {
      throw unprotected(context);
    }
    const call = callOf(core, key, context);
    try {
      return await work(call);
    } catch (error) {
      if (error instanceof TypeError) {
        throw misuse(error.message, error);
      }
      throw refuseCall(core, call, { error, procedure: procedureOf(context.method) });
    }
  };
}
