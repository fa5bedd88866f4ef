import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { encodeNotice, header, type SessionNotice } from "../../base/wire.ts";
import type { AccessToken } from "../../engine/access-tokens.ts";
import { endedError } from "../../engine/liveness.ts";
import type { SessionRecord } from "../../engine/store.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { CookieNames } from "../../request/cookie-options.ts";
import type { Copies } from "../../request/cookies.ts";
import { hideWhenInspected } from "../../request/tokens.ts";
import { hasForeignCookies } from "../authenticate/candidates.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";

/** The tokens of a session, to be written to a response. */
export interface TokensToWrite {
  readonly event: "created" | "refreshed" | "reissued";
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  /** Undefined if the client keeps the one it has. */
  readonly refreshToken: string | undefined;
  readonly antiCsrf: string | undefined;
  /** The other copies of the cookies that are expired first, in both jars. */
  readonly expireCopies: Copies;
}

/**
 * Writes the tokens of a session as cookies or headers, depending on its token transport.
 * @returns the claims that the client may read; see {@link claimsForClient}
 */
export async function writeTokens(
  core: VerifyingCore,
  call: AnsweredCall,
  tokens: TokensToWrite,
): Promise<JsonObject | undefined> {
  const { record, access } = tokens;
  const { responseHeader: headers } = call;
  const claims = await claimsForClient(core, record);
  putTokens(core, call, tokens);
  if (tokens.antiCsrf !== undefined) {
    headers.set(header.csrf, tokens.antiCsrf);
  }
  notify(headers, {
    event: tokens.event,
    session: record.id,
    user: record.userId,
    ...realmsOf(core),
    generation: access.claims.gen,
    claimsVersion: access.claims.cv,
    expiresAt: access.claims.exp,
    expiresIn: access.expiresIn,
    ...(claims === undefined ? {} : { claims }),
  });
  headers.set("cache-control", "no-store");
  return claims;
}

/** Writes an access token that replaces the presented one. */
export async function writeReissued(
  core: VerifyingCore,
  call: AnsweredCall,
  reissued: Pick<TokensToWrite, "record" | "now" | "access"> &
    Partial<Pick<TokensToWrite, "event">>,
): Promise<void> {
  await writeTokens(core, call, {
    event: "reissued",
    ...reissued,
    refreshToken: undefined,
    antiCsrf: undefined,
    expireCopies: false,
  });
}

/**
 * Returns the claims of a session that the client may read. If the option `clientClaims` fails, the
 * failure is reported as an event and the call goes on without them.
 */
export async function claimsForClient(
  core: VerifyingCore,
  record: Pick<SessionRecord, "claims">,
): Promise<JsonObject | undefined> {
  try {
    return await core.claims.forClient(record.claims);
  } catch (cause) {
    const message = "clientClaims failed, so the client receives no claims; see the cause";
    const error = new SessionError("general", "INTERNAL", { message, cause });
    core.emit({ type: "failed", procedure: undefined, error });
    return undefined;
  }
}

function putTokens(core: VerifyingCore, call: AnsweredCall, tokens: TokensToWrite): void {
  const { responseHeader: headers } = call;
  hideWhenInspected(headers);
  const { record, now, access, refreshToken } = tokens;
  if (record.transport === "header") {
    headers.set(header.accessToken, access.token);
    if (refreshToken !== undefined) {
      headers.set(header.refreshToken, refreshToken);
    }
  } else {
    // Both cookies outlive their tokens, so that an expired token differs from an absent one.
    const maxAge = Math.floor((record.expiresAt - now) / 1000);
    const { names } = core.cookies;
    const values = [
      [names.access, access.token],
      ...(refreshToken === undefined ? [] : ([[names.refresh, refreshToken]] as const)),
    ] as const;
    const { expireCopies } = tokens;
    for (const [name, cookies] of core.cookies.write(values, { maxAge, expireCopies })) {
      replaceCookie(headers, name, cookies);
    }
    expireOthers(core, call, refreshToken === undefined ? ["access"] : ["access", "refresh"]);
  }
}

/**
 * Expires cookies that came under the other names of the service. Those of another service stay.
 * @param kinds the cookies that the response writes or expires under their present names
 */
function expireOthers(
  core: VerifyingCore,
  { presented: { otherCookies }, responseHeader }: AnsweredCall,
  kinds: readonly (keyof CookieNames)[],
): void {
  const { otherNames } = core.cookies;
  if (otherNames === undefined || hasForeignCookies(core, { accessCookies: otherCookies.access })) {
    return;
  }
  for (const kind of kinds) {
    if (otherCookies[kind].length > 0) {
      const name = otherNames[kind];
      replaceCookie(responseHeader, name, core.cookies.expire(name));
    }
  }
}

/** Expires the session cookies of a call in both jars. */
export function expireCookies(core: VerifyingCore, call: CookieCall): void {
  const headers = call.responseHeader;
  const copies = reachOf(core, call);
  for (const name of [core.cookies.names.access, core.cookies.names.refresh]) {
    replaceCookie(headers, name, core.cookies.expire(name, copies));
  }
  expireOthers(core, call, ["access", "refresh"]);
  headers.set("cache-control", "no-store");
}

/** The parts of a call that a response with tokens needs. */
export type AnsweredCall = Pick<Call, "presented" | "responseHeader">;

/** The parts of a call that show which cookies its browser has. */
type CookieCall = AnsweredCall & Pick<Call, "url">;

/**
 * Returns the copies to expire when a call writes cookies: none, unless it came with several. Beside
 * those of another service there are always several.
 */
export function copiesOf(core: VerifyingCore, call: CookieCall): Copies {
  return hasCopies(call) && !hasForeignCookies(core, call.presented) && reachOf(core, call);
}

/** Returns the copies that a call may expire. Those of another service stay. */
function reachOf(core: VerifyingCore, call: CookieCall): Copies {
  return {
    // Only several copies show that there may be one below the path of the cookies.
    requestPath: hasCopies(call) ? pathOf(call.url) : undefined,
    belowOnly: hasForeignCookies(core, call.presented),
  };
}

function hasCopies({ presented: { accessCookies, refreshCookies } }: CookieCall): boolean {
  return accessCookies.length > 1 || refreshCookies.length > 1;
}

function pathOf(url: string | undefined): string | undefined {
  return url === undefined ? undefined : new URL(url, "http://localhost").pathname;
}

/**
 * Tells a client whether its call belongs to a session, and to which one, if the client took it for
 * another. Clients with cookies cannot see their tokens, and other tabs may have replaced them.
 *
 * @param claims the claims of the session; undefined if the call has none
 * @returns a promise only if there is something to tell
 */
export function tellSession(
  core: VerifyingCore,
  { requestHeader, responseHeader }: Pick<Call, "requestHeader" | "responseHeader">,
  claims: TokenClaims | undefined,
): Promise<void> | undefined {
  const known = requestHeader.get(header.session);
  return known === null || known === (claims?.sid ?? "signedOut") || !core.tellsClients
    ? undefined
    : writeCurrent(core, responseHeader, claims);
}

/** Writes the notice of the session that a call belongs to, or that it belongs to none. */
export async function writeCurrent(
  core: VerifyingCore,
  headers: Headers,
  token: TokenClaims | undefined,
): Promise<void> {
  const claims = token && (await claimsForClient(core, token));
  const { sid = "", sub, gen = 0, cv = 0, exp = 0 } = token ?? {};
  notify(headers, {
    event: token === undefined ? "none" : "current",
    session: sid,
    ...(sub !== undefined && { user: sub }),
    ...realmsOf(core),
    generation: gen,
    claimsVersion: cv,
    expiresAt: exp,
    expiresIn: Math.max(0, exp * 1000 - core.revocations.storeNow()),
    ...(claims && { claims }),
  });
}

/** Notifies the client that its session has ended, and removes tokens that this call has written. */
export function endTokens(core: VerifyingCore, headers: Headers, session: string): void {
  for (const name of [header.accessToken, header.refreshToken, header.csrf]) {
    headers.delete(name);
  }
  notify(headers, {
    event: "ended",
    session,
    ...realmsOf(core),
    generation: 0,
    claimsVersion: 0,
    expiresAt: 0,
    expiresIn: 0,
  });
  headers.set("cache-control", "no-store");
}

/**
 * Takes back the new tokens of a response that must not deliver them:
 *
 * - Their session has ended meanwhile, by whatever means. The client is told to drop its tokens.
 * - The call has failed after a refresh. The client keeps its former tokens, as after a lost response:
 *   its next refresh gets the same successor.
 */
export function takeBackTokens(core: VerifyingCore, call: Call, failed: boolean): void {
  const { written, responseHeader: headers } = call;
  if (written === undefined || call.committed) {
    return;
  }
  const end = core.revocations.get(written.session);
  if (end === undefined && !(failed && written.event === "refreshed")) {
    return;
  }
  call.written = undefined;
  for (const name of [header.accessToken, header.refreshToken, header.csrf, header.session]) {
    headers.delete(name);
  }
  if (written.transport === "cookie") {
    const { names, otherNames = names } = core.cookies;
    for (const name of [names, otherNames].flatMap(({ access, refresh }) => [access, refresh])) {
      replaceCookie(headers, name, []);
    }
  }
  // A sign-out or a replacement elsewhere has already cleared the client's tokens.
  if (end !== undefined && endedError(end, core.revocations.storeNow()).clearTokens) {
    if (written.transport === "cookie") {
      expireCookies(core, call);
    }
    endTokens(core, headers, written.session);
  }
}

/**
 * Checks the tokens in the response of a unary call before it is sent: takes back those that it must
 * not deliver, and adds `no-store` if it has any, or a notice, whatever the handler set for caching.
 */
export function checkWrittenTokens(core: VerifyingCore, call: Call): void {
  takeBackTokens(core, call, false);
  const { responseHeader: headers } = call;
  if (headers.get("cache-control")?.includes("no-store")) {
    return;
  }
  const personal = ["set-cookie", header.accessToken, header.refreshToken, header.session];
  if (personal.some((name) => headers.has(name))) {
    headers.set("cache-control", "no-store");
  }
}

/** A client knows its session by an older issuer until it has refreshed. */
function realmsOf({
  issuer,
  olderIssuers,
}: VerifyingCore): Pick<SessionNotice, "realm" | "olderRealms"> {
  return { realm: issuer, ...(olderIssuers.length > 0 && { olderRealms: olderIssuers }) };
}

function notify(headers: Headers, notice: SessionNotice): void {
  headers.set(header.session, encodeNotice(notice));
}

/** Adds Set-Cookie values for other cookies than those of the session. */
export function addCookies(headers: Headers, values: readonly string[]): void {
  for (const value of values) {
    headers.append("set-cookie", value);
  }
}

/** Replaces the Set-Cookie values that this response has for a cookie. */
function replaceCookie(headers: Headers, name: string, values: readonly string[]): void {
  const others = headers.getSetCookie().filter((cookie) => !cookie.startsWith(`${name}=`));
  headers.delete("set-cookie");
  for (const cookie of [...others, ...values]) {
    headers.append("set-cookie", cookie);
  }
}
