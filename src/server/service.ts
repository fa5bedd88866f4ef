import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type SessionInfo,
  SessionInfoSchema,
  type SessionService,
} from "../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../errors.ts";
import { liveOf } from "../session/ended.ts";
import type { SessionRecord } from "../session/store.ts";
import { type Call, type CallKey, callOf, refuseCall } from "./call.ts";
import type { Core } from "./core.ts";
import { raceSignal } from "./gate.ts";
import { procedureOf } from "./policy.ts";
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
  const answer = async <T>(
    context: HandlerContext,
    work: (call: Call) => Promise<T>,
  ): Promise<T> => {
    const call = callOf(core, key, context);
    try {
      return await raceSignal(work(call), context.signal);
    } catch (error) {
      throw error instanceof SessionError
        ? refuseCall(core, call, { error, procedure: procedureOf(context.method) })
        : error;
    }
  };
  return {
    refresh: (request, context) =>
      answer(context, async (call) => {
        const { record, now, access } = await refreshOnCall(core, call, request.refreshToken);
        return { session: infoOf(record, now, access.claims.exp * 1000) };
      }),
    signOut: (request, context) =>
      answer(context, async (call) => {
        await signOut(core, call, request.refreshToken);
        return {};
      }),
    getSession: (_request, context) =>
      answer(context, async (call) => ({ session: await describeSession(core, call) })),
  };
}

async function describeSession(core: Core, { session }: Call): Promise<SessionInfo> {
  if (session === undefined) {
    throw new SessionError("unauthorized", "SESSION_MISSING", {
      message: "the call needs a session",
    });
  }
  const engine = await core.engine();
  const stored = await engine.load(session.id);
  return infoOf(liveOf(session.id, stored), stored.now, session.accessExpiresAt.getTime());
}

function infoOf(record: SessionRecord, now: number, accessExpiresAt: number): SessionInfo {
  const left = Math.max(0, accessExpiresAt - now);
  return create(SessionInfoSchema, {
    id: record.id,
    userId: record.userId,
    createdAt: timestampFromMs(record.createdAt),
    authenticatedAt: timestampFromMs(record.authTime),
    idleExpiresAt: timestampFromMs(record.idleExpiresAt),
    expiresAt: timestampFromMs(record.expiresAt),
    accessExpiresIn: {
      seconds: BigInt(Math.floor(left / 1000)),
      nanos: (left % 1000) * 1_000_000,
    },
  });
}
