import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import type { Session } from "../../engine/session.ts";
import { type Call, type CallKey, callOf, refuseCall } from "../call/call.ts";
import type { Core } from "../core.ts";
import { raceSignal } from "../call/gate.ts";
import { describeCurrent, describeOwn, listSessions, revokeSession } from "./own-sessions.ts";
import { procedureOf } from "../policy/policy.ts";
import { refreshOnCall } from "./refresh.ts";
import { signOut } from "./sign-out.ts";

/**
 * The implementation of `rpcsession.v1.SessionService`. Methods that are left out answer
 * Unimplemented.
 */
export function createSessionService(
  core: Core,
  key: CallKey,
): Partial<ServiceImpl<typeof SessionService>> {
  const answer = answerWith(core, key);
  return {
    refresh: (request, context) =>
      answer(context, async (call) => {
        const { record, now, access } = await refreshOnCall(core, call, request.refreshToken);
        return { session: await describeCurrent(core, { record, now }, access.claims.exp * 1000) };
      }),
    signOut: (request, context) =>
      answer(context, async (call) => {
        await signOut(core, call, request.refreshToken);
        return {};
      }),
    getSession: (_request, context) =>
      answer(context, async (call) => ({ session: await describeOwn(core, present(call)) })),
    listSessions: (request, context) =>
      answer(context, (call) => listSessions(core, present(call), request)),
    revokeSession: ({ sessionId }, context) =>
      answer(context, async (call) => ({
        revoked: await revokeSession(core, present(call), sessionId),
      })),
    revokeOtherSessions: (_request, context) =>
      answer(context, async (call) => ({
        revoked: (await present(call).revokeOthers()).length,
      })),
  };
}

/** Answers a call; it ends with its signal, and its failures are the call's. */
function answerWith(core: Core, key: CallKey) {
  return async <T>(context: HandlerContext, work: (call: Call) => Promise<T>): Promise<T> => {
    const call = callOf(core, key, context);
    try {
      return await raceSignal(work(call), context.signal);
    } catch (error) {
      throw error instanceof SessionError
        ? refuseCall(core, call, { error, procedure: procedureOf(context.method) })
        : error;
    }
  };
}

/** The session of a call; the gate has put it there, for these methods need one. */
function present({ session }: Call): Session {
  if (session === undefined) {
    throw new SessionError("unauthorized", "SESSION_MISSING", {
      message: "the call needs a session",
    });
  }
  return session as Session;
}
