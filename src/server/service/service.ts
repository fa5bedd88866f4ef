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
import { header } from "../../base/wire.ts";
import { liveOf } from "../../engine/liveness.ts";
import type { Refreshed } from "../../engine/refresh/refresh.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionOwner, SessionRecord, Stored } from "../../engine/store.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { checkCrossSite, isFromBrowser } from "../../request/origins.ts";
import { authenticate } from "../authenticate/authenticate.ts";
import { hasOwnCookies, mayHaveOwnCookies } from "../authenticate/candidates.ts";
import { provenSessions } from "../authenticate/refresh.ts";
import { selectRefreshCookie } from "../authenticate/refresh-cookies.ts";
import { type Call, type CallKey, callOf } from "../call/call.ts";
import { raceSignal } from "../call/signal.ts";
import type { Core } from "../core.ts";
import { procedureOf } from "../policy/policy.ts";
import { refuseCall } from "../response/errors.ts";
import {
  addCookies,
  claimsForClient,
  copiesOf,
  endTokens,
  expireCookies,
  writeCurrent,
  writeTokens,
} from "../response/tokens.ts";
import { isPageToken, isSessionId } from "../session/by-id.ts";
import { presentSession } from "../session/handle.ts";

/**
 * Creates the implementation of `rpcsession.v1.SessionService`.
 *
 * Apart from `Refresh` and `SignOut`, its methods serve the caller's own sessions. They reject a
 * caller whose session has ended, whichever revocation check their policy asks for.
 *
 * @param registered called when a router registers the service
 */
export function createSessionService(
  core: Core,
  key: CallKey,
  registered: () => void,
): Partial<ServiceImpl<typeof SessionService>> {
  /** Runs a method. The call ends with its signal, and a failure is written to its response. */
  const run = async <T>(context: HandlerContext, work: (call: Call) => Promise<T>): Promise<T> => {
    const call = callOf(core, key, context);
    try {
      return await raceSignal(
        core.operations.run(() => work(call)),
        context.signal,
      );
    } catch (error) {
      throw error instanceof SessionError
        ? refuseCall(core, call, { error, procedure: procedureOf(context.method) })
        : error;
    }
  };

  const refreshCall: ServiceImpl<typeof SessionService>["refresh"] = (request, context) =>
    run(context, async (call) => {
      const inMessage = tokenIn(request, call);
      if (request.onlyIfNeeded) {
        const kept = await keepAccess(core, call, inMessage);
        if (kept !== undefined) {
          return kept;
        }
      }
      const { access, ...refreshed } = await refresh(core, call, inMessage);
      return { session: describeCurrent(refreshed, access.claims.exp * 1000) };
    });

  return {
    get refresh() {
      // Read by a router that registers the service, and by a copy of the service that will be.
      registered();
      return refreshCall;
    },
    signOut: (request, context) =>
      run(context, async (call) => {
        await signOut(core, call, tokenIn(request, call));
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

/**
 * Returns the refresh token of a message; empty if it has none. The interceptor takes it out of the
 * message; a handler of the application may pass one itself.
 */
function tokenIn({ refreshToken }: { readonly refreshToken: string }, call: Call): string {
  return refreshToken === "" ? (call.messageToken ?? "") : refreshToken;
}

/** The session of the caller, as a handle: this service only runs where sessions are created. */
function caller(call: Call): Session {
  return presentSession(call) as Session;
}

/** The part of an access token's lifetime after which it is replaced although it is still valid. */
const dueAfter = 0.8;

/**
 * Answers a refresh that is not needed: the access token of the call is valid, or there is no session
 * at all. Tells the client which.
 *
 * @param inMessage `RefreshRequest.refresh_token`
 * @returns undefined if the session must be refreshed
 * @throws SessionError
 */
async function keepAccess(
  core: Core,
  call: Call,
  inMessage: string,
): Promise<{ readonly session?: SessionInfo } | undefined> {
  const { responseHeader } = call;
  try {
    // 1. The access token, by itself.
    const claims = await authenticate(core, call, {
      ...{ required: false, doAntiCsrfCheck: false },
      ...{ check: "none", foreignBearer: "refuse", signal: undefined },
    });
    if (claims === undefined && inMessage !== "") {
      return undefined;
    }
    responseHeader.set("cache-control", "no-store");
    if (claims === undefined) {
      await writeCurrent(core, responseHeader, undefined);
      return {};
    }

    // 2. Its session, by the store's word.
    const engine = await core.engine();
    const stored = await engine.load(claims.sid);
    const record = liveOf(claims.sid, stored);
    const isDue = stored.now > (claims.iat + (claims.exp - claims.iat) * dueAfter) * 1000;
    if (isDue || record.claimsVersion !== claims.cv) {
      return undefined;
    }

    // 3. The client learns the session, and the anti-CSRF token that a new page does not have.
    await writeCurrent(core, responseHeader, claims);
    if (core.antiCsrf === "token" && record.transport === "cookie") {
      responseHeader.set(header.csrf, await engine.antiCsrf.mint(record.id));
    }
    await enterCaller(core, call, claims);
    const shown = await claimsForClient(core, record);
    return {
      session: describeCurrent({ record, claims: shown, now: stored.now }, claims.exp * 1000),
    };
  } catch (error) {
    if (error instanceof SessionError && error.kind === "tryRefreshToken") {
      return undefined;
    }
    throw error;
  }
}

/** A refresh, and the claims that its client may read. */
interface RefreshedCall extends Refreshed {
  readonly claims: JsonObject | undefined;
}

/**
 * Refreshes the session of a call and writes its new tokens to the response. Cookies beside a token in
 * the message or in the Authorization header do not count, and are left alone.
 *
 * @param inMessage `RefreshRequest.refresh_token`; empty for a cookie session
 * @throws SessionError
 */
async function refresh(core: Core, call: Call, inMessage: string): Promise<RefreshedCall> {
  call.byCookie = asksByCookie(call, inMessage);
  if (!call.byCookie && inMessage === "") {
    throw nothingToRefresh(false);
  }
  const refreshed = call.byCookie
    ? await refreshByCookie(core, call)
    : await refreshByMessage(core, call, inMessage);
  await enterRefreshed(core, call, refreshed);
  return refreshed;
}

/** Makes a refreshed session the session of its call, for handlers that wrap `Refresh`. */
async function enterRefreshed(core: Core, call: Call, { record, access }: Refreshed) {
  const { id: session, transport } = record;
  call.written = { session, transport, event: "refreshed" };
  await enterCaller(core, call, access.claims);
}

async function enterCaller(core: Core, call: Call, claims: TokenClaims): Promise<void> {
  try {
    call.enter(core, { claims, read: await core.claims.read(claims.claims) });
  } catch (error) {
    // Claims that no longer fit the schema do not stop a refresh, only handlers that read them.
    call.unreadable = error as SessionError;
  }
}

/** Whether a call to Refresh or SignOut is made with cookies: it has no other token. */
function asksByCookie({ presented }: Call, inMessage: string): boolean {
  return inMessage === "" && presented.bearer === undefined && presented.hasCookies;
}

/** @param clearTokens whether there are other tokens, which are of no use any more */
function nothingToRefresh(clearTokens: boolean): SessionError {
  return new SessionError("unauthorized", "SESSION_MISSING", {
    message: "the request has no refresh token; sign in",
    clearTokens,
  });
}

async function refreshByCookie(core: Core, call: Call): Promise<RefreshedCall> {
  const { presented } = call;

  // 1. Cookies of another service are left alone.
  if (presented.refreshCookies.length === 0 && !mayHaveOwnCookies(core, presented)) {
    throw nothingToRefresh(false);
  }

  // 2. Cookies only count on requests from this service's own pages.
  checkCrossSite(core, call);

  // 3. There must be something to refresh with. If not, what is left of ours is of no use.
  if (presented.refreshCookies.length === 0) {
    throw nothingToRefresh(true);
  }

  // 4. Select the refresh token. A browser may hold several copies of the cookie.
  const engine = await core.engine();
  const { token, besideForeign } = await selectRefreshCookie(core, engine, presented);

  // 5. The proof that the browser has the key of the session. It is used once.
  addCookies(call.responseHeader, core.dbsc.cookies.expire(call.requestHeader.get("cookie")));
  const proof = await core.dbsc.proofOn(engine, call, token);

  // 6. Exchange the token: the engine rotates it, or revokes the session if it detects reuse.
  const exchanged = engine.refresher.refresh({ token, transport: "cookie", ...proof });
  const refreshed = await exchanged.catch((thrown: unknown) => {
    const { error, cookies } = core.dbsc.refusalOf(call, thrown);
    addCookies(call.responseHeader, cookies);
    throw error;
  });

  // 7. Write the tokens. Expiring the copies also expires the cookie to keep, so write it again.
  // Copies of another service stay where they are. A cookie under another name moves to the present one.
  const expireCopies = !besideForeign && copiesOf(core, call);
  const isMoved = presented.otherCookies.refresh.length > 0;
  const refreshToken = refreshed.refreshToken ?? (expireCopies || isMoved ? token : undefined);
  const antiCsrf =
    core.antiCsrf === "token" ? await engine.antiCsrf.mint(refreshed.record.id) : undefined;
  const claims = await writeTokens(core, call, {
    ...refreshed,
    refreshToken,
    event: "refreshed",
    antiCsrf,
    expireCopies,
  });
  return { ...refreshed, claims };
}

async function refreshByMessage(core: Core, call: Call, token: string): Promise<RefreshedCall> {
  const engine = await core.engine();
  const provenKey = await core.proofs.prove(engine, call, undefined);
  const refreshed = await engine.refresher.refresh({ token, transport: "header", provenKey });
  const claims = await writeTokens(core, call, {
    ...refreshed,
    event: "refreshed",
    antiCsrf: undefined,
    expireCopies: false,
  });
  return { ...refreshed, claims };
}

/**
 * Ends every session that the request proves to belong to: by a refresh token of any generation, or
 * by an access token, expired or not. If a header or the message proves a session, the sessions of
 * the cookies are left alone. Cookies are expired too, even if their session cannot be ended here,
 * except for an app that is not a browser and has a token in the header or the message.
 *
 * @param inMessage `SignOutRequest.refresh_token`; empty for a cookie session
 * @returns the ids of the sessions that are over now
 * @throws SessionError `forbidden` for a cross-site request; `unavailable` for an outage, and when
 * the only token is a refresh token made with a secret unknown to this server
 */
export async function signOut(
  core: Core,
  call: Call,
  inMessage: string,
): Promise<readonly string[]> {
  const { presented, requestHeader, responseHeader } = call;

  // 1. Without tokens of ours there is nothing to end.
  const asksForCookies = asksByCookie(call, inMessage) || isFromBrowser(requestHeader);
  const actsOnCookies = asksForCookies && (await hasOwnCookies(core, presented));
  if (inMessage === "" && presented.bearer === undefined && !actsOnCookies) {
    return [];
  }

  // 2. Cookies only count on requests from this service's own pages.
  if (actsOnCookies) {
    checkCrossSite(core, call);
    // First, so that nothing below keeps a user signed in who asked for the opposite.
    expireCookies(core, call);
  }

  // 3. End the sessions.
  const engine = await core.engine();
  const counted = { message: inMessage, actsOnCookies };
  const { sessions, unknown } = await provenSessions(engine, presented, counted);
  if (sessions.size === 0 && unknown !== undefined) {
    // The session is still alive. A retry may reach a server that can end it.
    throw unknown;
  }
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
  return [...sessions];
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
  return isTheirs && engine.revoke(id, "revoked", { from: session.id });
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
