import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { type Session, sessionOf } from "../session/session.ts";
import type { TokenTransport } from "../transport.ts";
import { type CallKey, callOf, createCallKey, refuseCall } from "./call.ts";
import type { Core } from "./core.ts";
import { type Policies, procedureOf } from "./policy.ts";
import { createSessionService } from "./service.ts";
import { type IssuedTokens, issue, type NewSessionOptions, signIn } from "./sign-in.ts";
import {
  createVerifyingSessions,
  misuse,
  unprotected,
  type VerifyingSessions,
} from "./verifying.ts";

/** The server side of sessions over Connect; what `createSessions` returns is this and more. */
export interface ServerSessions extends VerifyingSessions<Session> {
  /** The implementation of `rpcsession.v1.SessionService`, for `router.service`. */
  readonly service: Partial<ServiceImpl<typeof SessionService>>;
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
}

/** Makes the server side. */
export function createServerSessions(core: Core, policies: Policies): ServerSessions {
  const key = createCallKey();
  const service = createSessionService(core, key);
  return {
    ...createVerifyingSessions(core, { key, policies, service }),
    service,
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
  };
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
