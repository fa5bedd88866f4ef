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
import { checkCrossSite } from "../../request/origins.ts";
import { provenSessions } from "../authenticate/refresh.ts";
import { type Call, type CallKey, callOf } from "../call/call.ts";
import { raceSignal } from "../call/signal.ts";
import type { Core } from "../core.ts";
import { procedureOf } from "../policy/policy.ts";
import { refuseCall } from "../response/errors.ts";
import { claimsForClient, endTokens, expireCookies } from "../response/tokens.ts";
import { isPageToken, isSessionId } from "../session/by-id.ts";
import { presentSession } from "../session/handle.ts";
import { refreshCall } from "./refresh.ts";

/**
 * Creates the implementation of `rpcsession.v1.SessionService`.
 *
 * Apart from `Refresh` and `SignOut`, its methods serve the caller's own sessions. They reject a
 * caller whose session has ended, whichever revocation check their policy asks for.
 */
export function createSessionService(
  core: Core,
  key: CallKey,
): Partial<ServiceImpl<typeof SessionService>> {
  /** Runs a method. The call ends with its signal, and a failure is written to its response. */
  const run = async <T>(context: HandlerContext, work: (call: Call) => Promise<T>): Promise<T> => {
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
      run(context, async (call) => {
        const { record, now, access } = await refreshCall(core, call, request.refreshToken);
        return { session: await describeCurrent(core, { record, now }, access.claims.exp * 1000) };
      }),
    signOut: (request, context) =>
      run(context, async (call) => {
        await signOut(core, call, request.refreshToken);
        return {};
      }),
    getSession: (_request, context) =>
      run(context, async (call) => ({ session: await getSession(core, caller(call)) })),
    listSessions: (request, context) =>
      run(context, (call) => listSessions(core, caller(call), request)),
    revokeSession: ({ sessionId }, context) =>
      run(context, async (call) => ({
        revoked: await revokeSession(core, caller(call), sessionId),
      })),
    revokeOtherSessions: (_request, context) =>
      run(context, async (call) => ({ revoked: (await caller(call).revokeOthers()).length })),
  };
}

/** The session of the caller, as a handle: this service only runs where sessions are created. */
function caller(call: Call): Session {
  return presentSession(call) as Session;
}

/**
 * Ends every session that the request proves to belong to: by a refresh token of any generation, or
 * by an access token, expired or not. If a header or the message proves a session, the sessions of
 * the cookies are left alone. Cookies are expired in any case.
 *
 * @param inMessage `SignOutRequest.refresh_token`; empty for a cookie session
 * @throws SessionError `forbidden` for a cross-site request; `unavailable` for an outage, and when
 * the only token is a refresh token made with a secret unknown to this server
 */
async function signOut(core: Core, call: Call, inMessage: string): Promise<void> {
  const { presented, responseHeader } = call;
  if (inMessage === "" && presented.isEmpty) {
    return;
  }
  if (presented.hasCookies) {
    checkCrossSite(core, call);
  }
  const engine = await core.engine();
  const now = engine.revocations.storeNow();
  const { sessions, unknown } = await provenSessions(engine, presented, { inMessage, now });
  if (sessions.size === 0 && unknown !== undefined) {
    // The session is still alive. A retry may reach a server that can end it.
    throw unknown;
  }
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
  if (presented.hasCookies) {
    expireCookies(core, responseHeader);
  }
}

async function getSession(core: Core, session: Session): Promise<SessionInfo> {
  const engine = await core.engine();
  const stored = await engine.load(session.id);
  const record = liveOf(session.id, stored);
  return describeCurrent(core, { record, now: stored.now }, session.accessExpiresAt.getTime());
}

/** Page sizes of `ListSessions`: larger ones are reduced to the maximum. */
const pageSizes = { default: 50, max: 200 } as const;

/** Returns a page of the sessions of the caller's user. A malformed page token means the first page. */
async function listSessions(
  core: Core,
  session: Session,
  { pageSize, pageToken }: ListSessionsRequest,
): Promise<{ sessions: SessionInfo[]; nextPageToken: string }> {
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const page = await engine.list(ownerOf(session), {
    cursor: isPageToken(pageToken) ? pageToken : undefined,
    limit: pageSize > 0 ? Math.min(pageSize, pageSizes.max) : pageSizes.default,
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

/** Ends a session of the caller's user. Returns false if the user has no such live session. */
async function revokeSession(core: Core, session: Session, id: string): Promise<boolean> {
  if (id === session.id) {
    await session.revoke();
    return true;
  }
  if (id === "" || !isSessionId(id)) {
    return false;
  }
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const found = await engine.find(id);
  const { userId, tenantId } = ownerOf(session);
  const isTheirs =
    found !== undefined &&
    found.record.userId === userId &&
    (tenantId === null || found.record.tenantId === tenantId);
  return isTheirs && engine.revoke(id, "revoked");
}

/** User ids may repeat between tenants, so a session with a tenant sees only that tenant. */
function ownerOf({ userId, tenantId }: Session): SessionOwner & { readonly userId: string } {
  return { userId, tenantId: tenantId ?? null };
}

/** @param accessExpiresAt milliseconds since 1970 */
async function describeCurrent(
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

/** The generated type of `claims`, which is mutable. */
type StructInput = NonNullable<SessionInfo["claims"]>;
