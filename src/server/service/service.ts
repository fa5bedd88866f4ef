import { create } from "@bufbuild/protobuf";
import { DurationSchema, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type ListSessionsRequest,
  type SessionInfo,
  SessionInfoSchema,
  type SessionService,
} from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import { liveOf } from "../../engine/liveness.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionOwner, SessionRecord, Stored } from "../../engine/store.ts";
import { hasCookies, isEmpty } from "../../request/tokens.ts";
import { checkCrossSite, provenSessions } from "../authenticate/refresh.ts";
import { type Call, type CallKey, callOf } from "../call/call.ts";
import { refuseCall } from "../call/refusal.ts";
import { raceSignal } from "../call/waits.ts";
import type { Core } from "../core.ts";
import { procedureOf } from "../policy/policy.ts";
import { sessionMissing } from "../response/errors.ts";
import { claimsForClient, endTokens, expireCookies } from "../response/tokens.ts";
import { isPageToken, mayBeSession } from "../session/by-id.ts";
import { refreshOnCall } from "./refresh.ts";

// What SessionService answers a caller about the sessions of the same user. Whatever check the methods
// have, a caller whose session has ended learns and ends nothing.

/** The caller's session, as the store knows it. */
export async function describeOwn(core: Core, session: Session): Promise<SessionInfo> {
  const engine = await core.engine();
  const stored = await engine.load(session.id);
  const record = liveOf(session.id, stored);
  return describeCurrent(core, { record, now: stored.now }, session.accessExpiresAt.getTime());
}

/** @param accessExpiresAt milliseconds since 1970 */
export async function describeCurrent(
  core: Core,
  { record, now }: Stored<SessionRecord>,
  accessExpiresAt: number,
): Promise<SessionInfo> {
  const left = Math.max(0, accessExpiresAt - now);
  const info = await describe(core, record);
  info.current = true;
  info.accessExpiresIn = create(DurationSchema, {
    seconds: BigInt(Math.floor(left / 1000)),
    nanos: (left % 1000) * 1_000_000,
  });
  return info;
}

/** A page of the sessions of the caller's user. A page token that is none gives the first page. */
export async function listSessions(
  core: Core,
  session: Session,
  { pageSize, pageToken }: ListSessionsRequest,
): Promise<{ sessions: SessionInfo[]; nextPageToken: string }> {
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const page = await engine.list(ownerOf(session), {
    cursor: isPageToken(pageToken) ? pageToken : undefined,
    limit: pageSize > 0 ? Math.min(pageSize, maxPage) : defaultPage,
  });
  const sessions = await Promise.all(
    page.records.map(async (record) => {
      const info = await describe(core, record);
      info.current = record.id === session.id;
      return info;
    }),
  );
  return { sessions, nextPageToken: page.cursor ?? "" };
}

/** Ends a session of the caller's user; false when there is no such live session of theirs. */
export async function revokeSession(core: Core, session: Session, id: string): Promise<boolean> {
  if (id === session.id) {
    await session.revoke();
    return true;
  }
  if (id === "" || !mayBeSession(id)) {
    return false;
  }
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const found = await engine.find(id);
  const { userId, tenantId } = ownerOf(session);
  const theirs =
    found !== undefined &&
    found.record.userId === userId &&
    (tenantId === null || found.record.tenantId === tenantId);
  return theirs && engine.revoke(id, "revoked");
}

const defaultPage = 50;
const maxPage = 200;

/** Ids of users may repeat between tenants, so a session of a tenant sees that tenant alone. */
function ownerOf({ userId, tenantId }: Session): SessionOwner & { readonly userId: string } {
  return { userId, tenantId: tenantId ?? null };
}

async function describe(core: Core, record: SessionRecord): Promise<SessionInfo> {
  const claims = await claimsForClient(core, record);
  const { userAgent = "", ip = "", label = "" } = record.device;
  return create(SessionInfoSchema, {
    id: record.id,
    userId: record.userId,
    createdAt: timestampFromMs(record.createdAt),
    authenticatedAt: timestampFromMs(record.authTime),
    idleExpiresAt: timestampFromMs(record.idleExpiresAt),
    expiresAt: timestampFromMs(record.expiresAt),
    lastSeenAt: timestampFromMs(record.lastSeenAt),
    tenantId: record.tenantId ?? "",
    device: { userAgent, ip, label },
    ...(claims === undefined ? {} : { claims: { ...claims } as StructInput }),
  });
}

/** Mutable, as the generated type has it. */
type StructInput = NonNullable<SessionInfo["claims"]>;

/**
 * Ends the session of any authentic token of the call: a refresh token of whatever generation, or
 * an access token, expired or not. A header that proves a
 * session wins over cookies, which are expired in any case.
 *
 * @param inMessage `SignOutRequest.refresh_token`; empty for a cookie session
 * @throws SessionError `forbidden` for a cross-site request, `unavailable`, also where all there is
 * is a refresh token under a secret not known here
 */
export async function signOut(core: Core, call: Call, inMessage: string): Promise<void> {
  const { presented, responseHeader } = call;
  if (inMessage === "" && isEmpty(presented)) {
    return;
  }
  if (hasCookies(presented)) {
    checkCrossSite(core, call);
  }
  const engine = await core.engine();
  const now = engine.revocations.storeNow();
  const { sessions, unknown } = await provenSessions(engine, presented, { inMessage, now });
  if (sessions.size === 0 && unknown !== undefined) {
    // Its session lives on, and a server that can end it may be asked next.
    throw unknown;
  }
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
  if (hasCookies(presented)) {
    expireCookies(core, responseHeader);
  }
}

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
    throw sessionMissing();
  }
  return session as Session;
}
