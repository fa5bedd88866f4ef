import { assertId, assertMembers, readChoice } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import { header, type TokenTransport } from "../../base/wire.ts";
import type { ForeignTimes } from "../../engine/adoption/once.ts";
import type { Created, NewCreation } from "../../engine/create.ts";
import type { Engine } from "../../engine/engine.ts";
import { type OwnLifetimes, readOwnLifetimes } from "../../engine/lifetimes.ts";
import type { Session } from "../../engine/session.ts";
import type { Device, ExternalId } from "../../engine/store.ts";
import { isThumbprint } from "../../jwt/claims.ts";
import {
  type AfterRedirect,
  checkCrossSite,
  checkSignInRequest,
  isFromBrowser,
  isTrustedSite,
  pageRefused,
  reportPage,
} from "../../request/origins.ts";
import { hasOwnCookies } from "../authenticate/candidates.ts";
import { type BindMode, proofError, readBindMode } from "../authenticate/proofs.ts";
import { provenSessions } from "../authenticate/refresh.ts";
import { type Call, endOwn } from "../call/call.ts";
import { type ClientContext, isRpc } from "../call/exchange.ts";
import type { Core } from "../core.ts";
import { copiesOf, expireCookies, writeTokens } from "../response/tokens.ts";
import { type AuthenticationOptions, readAuthentication } from "./authentication.ts";
import { readExternalId } from "./by-id.ts";
import { readData } from "./edits.ts";

export type { AuthenticationOptions } from "./authentication.ts";

/** The user who signs in, and the content of the session. `Claims`: the input of the `claims` schema. */
export type NewSessionOptions<Claims extends object = object> = SessionFacts &
  (Record<never, never> extends Claims
    ? { readonly claims?: Claims }
    : {
        /**
         * Claims of the session, as JSON: every access token carries them, and `session.claims`
         * returns them. Services that verify the token and clients that hold it can read them. Names
         * defined by RFC 7519 and names used by rpc-session are refused.
         */
        readonly claims: Claims;
      });

/** The facts about a new session besides its claims. */
export interface SessionFacts extends AuthenticationOptions {
  /** The user's id, 1 to 255 characters; becomes `sub` of the access token. */
  readonly userId: string;
  /** The tenant of the session, 1 to 255 characters; becomes `tid` of the access token. Default none. */
  readonly tenantId?: string;
  /** Private data as JSON, at most 64 KiB: only the service sees it, no token carries it. Default {}. */
  readonly data?: object;
  /** The user's name for the device, at most 255 characters. Default none. */
  readonly label?: string;
  /**
   * What the identity provider calls this session and its user, so that `revokeAll` and
   * `backChannelLogoutHandler` find it. It stays the same for the life of the session, and forks and
   * `reauthenticate` keep it. Only the service sees it. Default none.
   *
   * @example
   * externalId: { issuer: idToken.iss, sid: idToken.sid, sub: idToken.sub }
   */
  readonly externalId?: ExternalId;
  /** Lifetimes of this session, shorter than those of the service. Default: those of the service. */
  readonly lifetimes?: OwnLifetimes;
}

/** The tokens of a session, to pass on outside of a response. They are secrets. */
export interface IssuedTokens {
  readonly accessToken: string;
  readonly refreshToken: string;
}

/** The option that decides whether a sign-in binds its session to a key. */
export interface BindOption {
  /**
   * Whether the session is bound to a key: that of the client's proof (DPoP, RFC 9449) or, with tokens in
   * cookies, that of the browser (DBSC). It can be stricter than the option `bind` of the service, and
   * looser. Default: as the service.
   *
   * - `preferred`: if the request has a proof, or the browser registers a key.
   * - `required`: a request without a proof is refused. With tokens in cookies, the browser must prove its
   *   key within 5 minutes (`dbscHandler` of `rpc-session/http`), or the session is not refreshed.
   * - `off`: never.
   */
  readonly bind?: BindMode;
}

/** Options of a new session; the schema checks its claims at run time. */
type UntypedOptions = SessionFacts & { readonly claims?: object };

/** The option that chooses how the tokens travel. */
interface WithTransport {
  readonly transport?: TokenTransport;
}

/** The option of a sign-in in the callback of a redirect. */
export interface RedirectOptions {
  /**
   * Allows a sign-in in the callback of a redirect, as in OAuth, outside RPCs. Such a request comes from
   * another site, so that the cross-site check cannot protect it. Pass "state-verified" only after you
   * have done both, or any page can sign its visitors in to the account of somebody else:
   *
   * - You compared `state` with the value that you kept for this browser (RFC 6749 section 10.12).
   * - You exchanged the code with the PKCE verifier of the same browser (RFC 7636).
   *
   * The request must be a GET, or a POST for `response_mode=form_post`, that opens a page in a tab. The
   * tokens travel in cookies. Default: a GET request and the form of another site are refused.
   */
  readonly afterRedirect?: AfterRedirect;
}

interface Continuing {
  /** The session of another system that the new one continues; absent for none. */
  readonly foreign?: ForeignTimes | undefined;
}

/** What a sign-in creates. */
interface SignIn extends Continuing {
  readonly options: UntypedOptions & WithTransport & RedirectOptions & BindOption;
}

/**
 * Creates a session and writes its tokens to the response of a call. Ends the session that the
 * request proves to belong to.
 * @throws SessionError TypeError
 */
export async function signIn(
  core: Core,
  call: Call,
  context: ClientContext,
  { options, foreign }: SignIn,
): Promise<Session> {
  // 1. Check the request, the content of the session, and that the response can still carry its tokens.
  const method = foreign === undefined ? "sessions.create" : "sessions.adopt";
  const { afterRedirect, bind, ...facts } = options ?? {};
  const isRedirected = checkRequest(core, call, context, { method, afterRedirect });
  const given = await readNewSession(core, facts);
  assertNotCommitted(call, method);

  // 2. Choose how the tokens travel. A browser that follows a redirect keeps only cookies.
  if (isRedirected && options.transport === "header") {
    throw new TypeError(
      'sessions.create: after a redirect the tokens travel in cookies; leave out transport: "header"',
    );
  }
  const trustedSite = isRedirected || isTrustedSite(core, call);
  const wanted = options.transport ?? (isRedirected ? "cookie" : undefined);
  const transport = transportFor(core, call, { trustedSite, given: wanted });
  if (transport === "cookie" && !core.cookies.kept) {
    throw new TypeError(
      `${method}: browsers do not keep Secure cookies from ${core.issuer}; use an https issuer, or cookies: { insecure: true } for development`,
    );
  }

  // 3. The key that the session is bound to.
  const mode = bind === undefined ? core.proofs.mode : readBindMode("bind", bind);
  const boundKey = await keyToBind(core, call, { mode, transport });
  const device: Device = {
    ...{ ...deviceOf(core, context), ...given.device },
    ...(mode === "required" && transport === "cookie" && { bind: mode }),
  };

  // 4. Cookies are only set or expired for this service's own pages. An app that wants headers leaves
  // cookies alone: they may be those of its WebView.
  const actsOnCookies =
    transport === "cookie" ||
    (isFromBrowser(call.requestHeader) && (await hasOwnCookies(core, call.presented)));
  if (actsOnCookies && !trustedSite) {
    checkCrossSite(core, call);
  }

  // 5. Find the former sessions. Nobody holds their tokens after this response.
  const engine = await core.engine();
  const former = [...(await formerSessions(core, call, actsOnCookies))];
  if (boundKey === null) {
    await assertUnbound(core, call);
  }

  // 6. Create the session; one of another system is traded once. The former session ends in the same
  // transaction. The others end before: copies of a cookie may belong to several sessions.
  const creation = { ...given, device, transport, boundKey };
  const makeRoom = async (retakes: string | null) => {
    const rest = former.filter((id) => id !== retakes);
    const [replaces = null, ...others] = retakes === null ? rest : [retakes, ...rest];
    for (const other of others) {
      await engine.revoke(other, "replaced");
    }
    return replaces;
  };
  const created = await endOwn(call, async () =>
    foreign === undefined
      ? engine.creator.create({ ...creation, replaces: await makeRoom(null) })
      : engine.creator.adopt(creation, foreign, makeRoom),
  );

  // 7. Write its tokens. From now on it is the session of this call.
  if (actsOnCookies && transport === "header") {
    expireCookies(core, call);
  }
  await writeCreated(core, call, engine, created);
  if (mode !== "off" && transport === "cookie") {
    await core.dbsc.offer(engine, call, created.record);
  }
  return enterCreated(core, call, created);
}

/**
 * Returns the key that a sign-in binds its session to; null for none.
 * @throws SessionError `unauthorized` if a proof is required and there is none, or it is not valid
 */
async function keyToBind(
  core: Core,
  call: Call,
  { mode, transport }: { readonly mode: BindMode; readonly transport: TokenTransport },
): Promise<string | null> {
  if (mode === "off") {
    return null;
  }
  const engine = await core.engine();
  if (transport === "cookie" && core.dbsc.isOffered) {
    return null; // the browser registers a key later
  }
  const key = transport === "header" ? await core.proofs.prove(engine, call, undefined) : undefined;
  if (key === undefined && mode === "required") {
    const why =
      transport === "header"
        ? "This sign-in binds its session to a key; send a proof (DPoP) with it."
        : "This sign-in binds its session to a key, which needs tokens in headers, or dbscHandler at a service with https.";
    throw await proofError(engine, "PROOF_REQUIRED", why);
  }
  return key ?? null;
}

/**
 * A bound session is replaced only by a bound one: nobody turns it into one that a copied token is
 * enough for.
 * @throws SessionError `unauthorized`
 */
async function assertUnbound(core: Core, { presented: { bearer } }: Call): Promise<void> {
  if (bearer === undefined) {
    return;
  }
  const engine = await core.engine();
  const verified = await engine.verify(bearer, engine.revocations.storeNow());
  if ("claims" in verified && verified.claims.jkt !== undefined) {
    const why =
      "The request comes with the token of a session that is bound to a key; send a proof (DPoP) with the sign-in, or leave the token out.";
    throw await proofError(engine, "PROOF_REQUIRED", why, verified.claims.sid);
  }
}

/** The method that signs a user in, and its option. */
interface SignInRequest {
  readonly method: string;
  readonly afterRedirect: AfterRedirect | undefined;
}

/**
 * Checks that the request of a plain exchange may sign a user in. The gate has checked that of an RPC.
 * @returns whether it follows a redirect, so that its page does not matter
 * @throws SessionError `forbidden`
 * @throws TypeError if the option is wrong
 */
export function checkRequest(
  core: Core,
  call: Call,
  context: ClientContext,
  { method, afterRedirect }: SignInRequest,
): boolean {
  if (afterRedirect !== undefined) {
    readChoice("afterRedirect", afterRedirect, ["state-verified"]);
  }
  if (!isRpc(context)) {
    return checkSignInRequest(core, call, { method, afterRedirect });
  }
  if (afterRedirect !== undefined) {
    throw new TypeError(
      `${method}: afterRedirect is for the callback of a redirect, which is never an RPC; leave it out`,
    );
  }
  return false;
}

/** What `issue` creates. */
interface Issue extends Continuing {
  readonly options: UntypedOptions & WithTransport & { readonly boundKey?: string | undefined };
}

/**
 * Creates a session without a response.
 * @throws SessionError TypeError
 */
export async function issue(
  core: Core,
  { options: { boundKey, ...options }, foreign }: Issue,
): Promise<Created> {
  const given = await readNewSession(core, options);
  if (core.proofs.mode === "required" && boundKey === undefined) {
    const method = foreign === undefined ? "sessions.issue" : "sessions.adopt";
    throw new TypeError(
      `${method}: bind is "required", so the session needs a key; pass boundKey, the thumbprint of the client's key`,
    );
  }
  const transport = readTransport(options.transport);
  const engine = await core.engine();
  const creation = { ...given, transport, boundKey: readBoundKey(boundKey, transport) ?? null };
  return foreign === undefined
    ? engine.creator.create({ ...creation, replaces: null })
    : engine.creator.adopt(creation, foreign, async (retakes) => retakes);
}

/** @throws TypeError if it is not a thumbprint, or the tokens travel in cookies */
export function readBoundKey(
  boundKey: string | undefined,
  transport: TokenTransport,
): string | undefined {
  if (boundKey === undefined) {
    return undefined;
  }
  if (!isThumbprint(boundKey)) {
    throw new TypeError(
      "boundKey must be the SHA-256 thumbprint of a public key in base64url, 43 characters (RFC 7638)",
    );
  }
  if (transport === "cookie") {
    throw new TypeError('boundKey needs tokens in headers; set transport: "header"');
  }
  return boundKey;
}

const memberNames: Readonly<Record<keyof UntypedOptions | "transport", 0>> = {
  ...{ userId: 0, tenantId: 0, claims: 0, data: 0, label: 0 },
  ...{ externalId: 0, lifetimes: 0, transport: 0, acr: 0, amr: 0 },
};

/** @throws TypeError if an option is wrong */
async function readNewSession(
  core: Core,
  options: UntypedOptions,
): Promise<Omit<NewCreation, "transport">> {
  assertMembers("the new session", options, memberNames);
  const { userId, tenantId, label, externalId, lifetimes, data = {} } = options;
  assertId("userId", userId);
  if (tenantId !== undefined) {
    assertId("tenantId", tenantId);
  }
  if (label !== undefined) {
    assertId("label", label);
  }
  const claims = await core.claims.accept(options.claims ?? {}, {
    now: core.revocations.storeNow(),
  });
  return {
    userId,
    tenantId: tenantId ?? core.tenantId ?? null,
    claims,
    data: readData(data),
    device: label === undefined ? {} : { label },
    externalId: externalId === undefined ? null : readExternalId(externalId),
    authentication: readAuthentication(options),
    ...(lifetimes === undefined ? {} : { life: readOwnLifetimes(core.lifetimes, lifetimes) }),
  };
}

/** @throws TypeError unless it is "header" or "cookie" */
export function readTransport(transport: TokenTransport = "header"): TokenTransport {
  if (transport !== "header" && transport !== "cookie") {
    throw new TypeError('transport must be "header" or "cookie"');
  }
  return transport;
}

/** @throws TypeError if the response can no longer carry tokens */
export function assertNotCommitted(call: Call, method: string): void {
  if (call.committed) {
    throw new TypeError(
      `${method}: the response headers have already been sent (a stream sends them with its first message); call it earlier`,
    );
  }
}

/** The maximum number of characters kept of a User-Agent; real ones are shorter. */
const maxUserAgent = 512;
/** The maximum number of characters kept of an IP address; the longest IPv6 address with a zone fits. */
const maxIp = 64;

/**
 * Describes the device that a call comes from.
 * @throws TypeError if `clientIp` returns something else than a string or undefined
 * @throws SessionError `general` if `clientIp` throws
 */
export function deviceOf(core: Core, context: ClientContext): Device {
  const userAgent = context.requestHeader.get("user-agent")?.slice(0, maxUserAgent).toWellFormed();
  const ip = ipOf(core, context)?.slice(0, maxIp).toWellFormed();
  return { ...(userAgent ? { userAgent } : {}), ...(ip ? { ip } : {}) };
}

function ipOf({ clientIp }: Core, context: ClientContext): string | undefined {
  let ip: unknown;
  try {
    ip = clientIp?.(context);
  } catch (cause) {
    throw new SessionError("general", "INTERNAL", {
      message: "the option clientIp threw an error",
      cause,
    });
  }
  if (ip !== undefined && typeof ip !== "string") {
    throw new TypeError("clientIp must return a string, or undefined if the address is unknown");
  }
  return ip;
}

/**
 * @throws TypeError if `given` is not a transport
 * @throws SessionError `forbidden`, as {@link chooseTransport} does
 */
function transportFor(
  core: Core,
  call: Call,
  { trustedSite, given }: Pick<TransportRequest, "trustedSite" | "given">,
): TokenTransport {
  const { requestHeader: headers } = call;
  const request: TransportRequest = {
    given: given === undefined ? undefined : readTransport(given),
    wanted: headers.get(header.transport) ?? undefined,
    fromBrowser: isFromBrowser(headers),
    trustedSite,
    browserHeaderTransport: core.browserHeaderTransport,
  };
  const isChosen = request.given !== undefined || request.wanted !== undefined;
  if (request.fromBrowser && !isChosen && !trustedSite && !core.browserHeaderTransport) {
    // A page that is not among the origins: it would keep neither cookies nor headers.
    reportPage(core, call);
    throw transportRefused(pageRefused(core, call));
  }
  return chooseTransport(request);
}

/** The facts that determine the token transport of a new session. */
interface TransportRequest {
  /** The option `transport` of the sign-in. Default: the client decides. */
  readonly given?: TokenTransport | undefined;
  /** The request header `rpcsession-transport`; undefined if it is absent. */
  readonly wanted: string | undefined;
  /** Whether a browser sent the request: it carries `Sec-Fetch-Site` or `Origin`. */
  readonly fromBrowser: boolean;
  /** Whether the request comes from a page that may use cookies. */
  readonly trustedSite: boolean;
  /** Whether browsers may receive tokens in headers, where scripts can read them. */
  readonly browserHeaderTransport: boolean;
}

/**
 * Chooses the token transport of a new session: the one that the service or the client asks for, else
 * cookies for a browser that will keep them, else headers.
 *
 * @throws SessionError `forbidden` if a browser would receive tokens in headers and may not, or if
 * the client asks for an unknown transport or for another one than the service
 */
export function chooseTransport(request: TransportRequest): TokenTransport {
  const { given, wanted, fromBrowser } = request;
  if (wanted !== undefined && wanted !== "cookie" && wanted !== "header") {
    throw transportRefused('the request header rpcsession-transport must be "cookie" or "header"');
  }
  if (given !== undefined && wanted !== undefined && given !== wanted) {
    // The client could not keep the tokens, and the session would be left behind.
    throw transportRefused(
      `the client asks for its tokens by "${wanted}", and this method sends them only by "${given}"; set the option tokens of the client to match`,
    );
  }
  const transport = given ?? wanted ?? (fromBrowser && request.trustedSite ? "cookie" : "header");
  if (transport === "header" && fromBrowser && !request.browserHeaderTransport) {
    throw transportRefused(
      "browsers must use session cookies at this service; to allow header transport, set browserHeaderTransport",
    );
  }
  return transport;
}

function transportRefused(message: string): SessionError {
  return new SessionError("forbidden", "TRANSPORT_REFUSED", { message });
}

/** Returns the sessions whose tokens the response replaces. */
async function formerSessions(
  core: Core,
  { written, presented }: Call,
  actsOnCookies: boolean,
): Promise<Iterable<string>> {
  if (written !== undefined) {
    // The call has already created or refreshed a session, and its response carries the tokens.
    return [written.session];
  }
  if (presented.isEmpty) {
    return [];
  }
  const engine = await core.engine();
  const { sessions } = await provenSessions(engine, presented, { message: "", actsOnCookies });
  return sessions;
}

/**
 * Writes the tokens of a new session to the response of the call. Revokes the session if that fails.
 * @throws SessionError
 */
export async function writeCreated(
  core: Core,
  call: Call,
  engine: Engine,
  created: Created,
): Promise<void> {
  const { record } = created;
  const byCookie = record.transport === "cookie";
  try {
    await writeTokens(core, call, {
      ...created,
      event: "created",
      antiCsrf:
        byCookie && core.antiCsrf === "token" ? await engine.antiCsrf.mint(record.id) : undefined,
      expireCopies: copiesOf(core, call),
    });
    // Headers of a fetch Response and of an RPC can still be set when nobody reads them any more.
    assertNotCommitted(call, "the sign-in");
  } catch (error) {
    // Nobody will ever hold its tokens.
    await engine.revoke(record.id, "revoked");
    throw new SessionError("general", "INTERNAL", {
      message: "the tokens of the new session could not be written to the response",
      cause: error,
    });
  }
}

/** Makes a session whose tokens were written the session of its call. */
export async function enterCreated(core: Core, call: Call, created: Created): Promise<Session> {
  const { id: session, transport } = created.record;
  call.written = { session, transport, event: "created" };
  const { claims } = created.access;
  const read = await core.claims.read(created.record.claims);
  call.enter(core, { claims, read });
  return call.session as Session;
}
