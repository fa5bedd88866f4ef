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
import type { JsonObject } from "../../base/json.ts";
import type { Engine } from "../../engine/engine.ts";
import { badRefreshToken, isLive, liveOf } from "../../engine/liveness.ts";
import type { Refreshed } from "../../engine/refresh/refresh.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionOwner, SessionRecord, Stored } from "../../engine/store.ts";
import { checkCrossSite } from "../../request/origins.ts";
import { provenSessions, proveRefresh } from "../authenticate/refresh.ts";
import { type Call, type CallKey, callOf } from "../call/call.ts";
import { raceSignal } from "../call/signal.ts";
import type { Core } from "../core.ts";
import { procedureOf } from "../policy/policy.ts";
import { refuseCall } from "../response/errors.ts";
import { claimsForClient, endTokens, expireCookies, writeTokens } from "../response/tokens.ts";
import { isPageToken, isSessionId } from "../session/by-id.ts";
import { presentSession } from "../session/handle.ts";

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
        const { access, ...refreshed } = await refresh(core, call, request.refreshToken);
        return { session: describeCurrent(refreshed, access.claims.exp * 1000) };
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

/** A refresh, and the claims that its client may read. */
interface RefreshedCall extends Refreshed {
  readonly claims: JsonObject | undefined;
}

/**
 * Refreshes the session of a call and writes its new tokens to the response. A refresh token in the
 * message takes precedence over cookies.
 *
 * @param inMessage `RefreshRequest.refresh_token`; empty for a cookie session
 * @throws SessionError
 */
async function refresh(core: Core, call: Call, inMessage: string): Promise<RefreshedCall> {
  call.byCookie = inMessage === "" && call.presented.hasCookies;
  return inMessage === ""
    ? await refreshByCookie(core, call)
    : await refreshByMessage(core, call, inMessage);
}

async function refreshByCookie(core: Core, call: Call): Promise<RefreshedCall> {
  const { refreshCookies, accessCookies } = call.presented;

  // 1. There must be something to refresh with.
  if (refreshCookies.length === 0) {
    throw new SessionError("unauthorized", "SESSION_MISSING", {
      message: "the request has no refresh token; sign in",
    });
  }

  // 2. Cookies only count on requests from this service's own pages.
  checkCrossSite(core, call);

  // 3. Select the refresh token. A browser may hold several copies of the cookie.
  const engine = await core.engine();
  const token = await selectCookie(core, engine, refreshCookies);

  // 4. Exchange it: the engine rotates it, or revokes the session if it detects reuse.
  const refreshed = await engine.refresher.refresh({ token, transport: "cookie" });

  // 5. Write the tokens. Expiring the copies also expires the cookie to keep, so write it again.
  const expireCopies = refreshCookies.length > 1 || accessCookies.length > 1;
  const refreshToken =
    refreshed.refreshToken ??
    (expireCopies ? await engine.refreshTokens.mint(refreshed.record) : undefined);
  const antiCsrf =
    core.antiCsrf === "token" ? await engine.antiCsrf.mint(refreshed.record.id) : undefined;
  const claims = await writeTokens(core, call.responseHeader, {
    ...refreshed,
    refreshToken,
    event: "refreshed",
    antiCsrf,
    expireCopies,
  });
  return { ...refreshed, claims };
}

async function refreshByMessage(core: Core, call: Call, token: string): Promise<RefreshedCall> {
  const { presented, responseHeader } = call;

  // 1. Cookies that came along are expired in step 3. Another site must not be able to do that.
  if (presented.hasCookies) {
    checkCrossSite(core, call);
  }

  // 2. Exchange the token.
  const engine = await core.engine();
  const refreshed = await engine.refresher.refresh({ token, transport: "header" });

  // 3. Expire the cookies: the client now uses headers.
  if (presented.hasCookies) {
    expireCookies(core, responseHeader);
  }

  // 4. Write the tokens.
  const claims = await writeTokens(core, responseHeader, {
    ...refreshed,
    event: "refreshed",
    antiCsrf: undefined,
    expireCopies: false,
  });
  return { ...refreshed, claims };
}

interface Candidate {
  readonly token: string;
  readonly proven: ProvenRefreshToken;
}

/** Returns the best of several refresh cookies; a single one is returned without checking it. */
async function selectCookie(
  core: Core,
  engine: Engine,
  cookies: readonly string[],
): Promise<string> {
  const [first, ...more] = cookies;
  if (first !== undefined && more.length === 0) {
    return first;
  }
  const { candidates, unknown } = await proveCookies(engine, cookies);
  const sessions = new Set(candidates.map(({ proven }) => proven.record.id));
  if (sessions.size > 1 && !core.cookies.hostOnly) {
    // Without the __Host- prefix, a sibling host may have planted one of them.
    throw new SessionError("unauthorized", "TOKEN_CONFLICT", {
      message: "the request has refresh cookies of several sessions; sign in again",
      clearTokens: true,
    });
  }
  const best = candidates.toSorted(byPreference)[0];
  if (best === undefined) {
    throw unknown ?? badRefreshToken();
  }
  return best.token;
}

/** Returns the authentic cookies, and an error if one was made with a secret unknown to this server. */
async function proveCookies(engine: Engine, cookies: readonly string[]) {
  const candidates: Candidate[] = [];
  let unknown: UnknownSecretError | undefined;
  for (const token of cookies) {
    const proven = await proveRefresh(engine, token, "cookie");
    if (proven instanceof UnknownSecretError) {
      unknown = proven;
    } else if (proven !== undefined) {
      candidates.push({ token, proven });
    }
  }
  return { candidates, unknown };
}

/** Sorts live sessions first, then the newest session, then the highest generation. */
function byPreference(a: Candidate, b: Candidate): number {
  return (
    Number(isLive(b.proven)) - Number(isLive(a.proven)) ||
    b.proven.record.createdAt - a.proven.record.createdAt ||
    b.proven.generation - a.proven.generation
  );
}

/**
 * Ends every session that the request proves to belong to: by a refresh token of any generation, or
 * by an access token, expired or not. If a header or the message proves a session, the sessions of
 * the cookies are left alone. Cookies are expired in any case, also if their session cannot be ended
 * here.
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
    // First, so that nothing below keeps a user signed in who asked for the opposite.
    expireCookies(core, responseHeader);
  }
  const engine = await core.engine();
  const { sessions, unknown } = await provenSessions(engine, presented, inMessage);
  if (sessions.size === 0 && unknown !== undefined) {
    // The session is still alive. A retry may reach a server that can end it.
    throw unknown;
  }
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
}

async function getSession(core: Core, session: Session): Promise<SessionInfo> {
  const engine = await core.engine();
  const stored = await engine.load(session.id);
  const record = liveOf(session.id, stored);
  const claims = await claimsForClient(core, record);
  return describeCurrent({ record, claims, now: stored.now }, session.accessExpiresAt.getTime());
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
      const info = describe(record, await claimsForClient(core, record));
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
function describeCurrent(
  { record, now, claims }: Stored<SessionRecord> & Pick<RefreshedCall, "claims">,
  accessExpiresAt: number,
): SessionInfo {
  const left = Math.max(0, accessExpiresAt - now);
  const info = describe(record, claims);
  info.current = true;
  info.accessExpiresIn = create(DurationSchema, {
    seconds: BigInt(Math.floor(left / 1000)),
    nanos: (left % 1000) * 1_000_000,
  });
  return info;
}

/** @param claims the claims that the client may read; undefined for none */
function describe(record: SessionRecord, claims: JsonObject | undefined): SessionInfo {
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
