import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { encodeNotice, header, type SessionNotice } from "../../base/wire.ts";
import type { AccessToken } from "../../engine/access-tokens.ts";
import type { SessionRecord } from "../../engine/store.ts";
import type { VerifyingCore } from "../core.ts";
import { actionOf, hintFlags } from "./errors.ts";

/** Tokens to write. */
export interface TokensToWrite {
  readonly event: "created" | "refreshed" | "reissued";
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  /** Undefined when the client's stays. */
  readonly refreshToken: string | undefined;
  readonly antiCsrf: string | undefined;
  /** Whether other copies of the cookies, in the other jar too, are expired first. */
  readonly expireCopies: boolean;
}

/** Writes the tokens of a session: cookies, or headers, as its transport says. */
export async function writeTokens(
  core: VerifyingCore,
  headers: Headers,
  tokens: TokensToWrite,
): Promise<void> {
  const { record, access } = tokens;
  const claims = await claimsForClient(core, record);
  putTokens(core, headers, tokens);
  if (tokens.antiCsrf !== undefined) {
    headers.set(header.csrf, tokens.antiCsrf);
  }
  notify(headers, {
    event: tokens.event,
    session: record.id,
    realm: core.issuer,
    generation: access.claims.gen,
    claimsVersion: access.claims.cv,
    expiresAt: access.claims.exp,
    expiresIn: access.expiresIn,
    ...(claims === undefined ? {} : { claims }),
  });
  headers.set("cache-control", "no-store");
}

/** Writes an access token that takes the place of the presented one. */
export function writeReissued(
  core: VerifyingCore,
  headers: Headers,
  reissued: Pick<TokensToWrite, "record" | "now" | "access"> &
    Partial<Pick<TokensToWrite, "event">>,
): Promise<void> {
  return writeTokens(core, headers, {
    event: "reissued",
    ...reissued,
    refreshToken: undefined,
    antiCsrf: undefined,
    expireCopies: false,
  });
}

/** What the client may read of a session's claims. That it cannot be told is no reason to fail. */
export async function claimsForClient(
  core: VerifyingCore,
  record: SessionRecord,
): Promise<JsonObject | undefined> {
  try {
    return await core.claims.forClient(record.claims);
  } catch (cause) {
    const message = "clientClaims: the client cannot be told its claims";
    const error = new SessionError("general", "INTERNAL", { message, cause });
    core.emit({ type: "failed", procedure: undefined, error });
    return undefined;
  }
}

function putTokens(core: VerifyingCore, headers: Headers, tokens: TokensToWrite): void {
  const { record, now, access, refreshToken } = tokens;
  if (record.transport === "header") {
    headers.set(header.accessToken, access.token);
    if (refreshToken !== undefined) {
      headers.set(header.refreshToken, refreshToken);
    }
  } else {
    // Both cookies outlive their tokens, so that "expired" is told apart from "absent".
    const maxAge = Math.floor((record.expiresAt - now) / 1000);
    const { names } = core.cookies;
    const values = [
      [names.access, access.token],
      ...(refreshToken === undefined ? [] : ([[names.refresh, refreshToken]] as const)),
    ] as const;
    const written = values.map(([name, value]) => {
      const copies = tokens.expireCopies
        ? core.cookies.expire(name)
        : core.cookies.expireOlder(name);
      return [name, [...copies, core.cookies.set(name, value, maxAge)]] as const;
    });
    for (const [name, cookies] of written) {
      replaceCookie(headers, name, cookies);
    }
  }
}

/** Expires the session cookies, in both jars. */
export function expireCookies(core: VerifyingCore, headers: Headers): void {
  for (const name of [core.cookies.names.access, core.cookies.names.refresh]) {
    replaceCookie(headers, name, core.cookies.expire(name));
  }
  headers.set("cache-control", "no-store");
}

/** Tells the client that its session is over, and takes back tokens written by the same call. */
export function endTokens(core: VerifyingCore, headers: Headers, session: string): void {
  for (const name of [header.accessToken, header.refreshToken, header.csrf]) {
    headers.delete(name);
  }
  notify(headers, {
    event: "ended",
    session,
    realm: core.issuer,
    generation: 0,
    claimsVersion: 0,
    expiresAt: 0,
    expiresIn: 0,
  });
  headers.set("cache-control", "no-store");
}

const variesBy = "Cookie, Authorization, Sec-Fetch-Site, Origin";

/**
 * Makes the response of a call that looks at tokens one that no cache keeps or mixes up. What it
 * varies by is for GET alone: it is said to caches that keep a response after all, and those keep
 * none of a POST that says `no-store` (RFC 9111 section 3).
 */
export function forbidCaching(headers: Headers, requestMethod: string): void {
  if (requestMethod !== "GET") {
    headers.set("cache-control", "no-store");
    return;
  }
  headers.set("cache-control", "private, no-store");
  if (!headers.get("vary")?.includes(variesBy)) {
    headers.append("vary", variesBy);
  }
}

/** Whatever the handler said of caching: no cache keeps a response that carries a token or a cookie. */
export function keepTokensUncached(headers: Headers): void {
  if (headers.get("cache-control")?.includes("no-store")) {
    return;
  }
  if (["set-cookie", header.accessToken, header.refreshToken].some((name) => headers.has(name))) {
    headers.set("cache-control", "no-store");
  }
}

/**
 * Writes what a refused call tells in its headers.
 * @param byCookie whether the failed token came in a cookie
 */
export function writeRefusal(
  core: VerifyingCore,
  headers: Headers,
  { error, byCookie }: { readonly error: SessionError; readonly byCookie: boolean },
): void {
  if (error.clearTokens && byCookie) {
    expireCookies(core, headers);
  }
  const flag = hintFlags[actionOf(error)];
  if (flag !== undefined) {
    headers.set(header.hint, flag);
  }
  if (error.kind === "unauthorized" || error.kind === "tryRefreshToken") {
    // RFC 6750 section 3.1: no error code where no token was presented.
    const code = error.reason === "SESSION_MISSING" ? "" : ', error="invalid_token"';
    headers.set("www-authenticate", `Bearer realm="${core.issuer}"${code}`);
  } else if (error.reason === "STEP_UP_REQUIRED") {
    // RFC 9470 section 3.
    const code = "insufficient_user_authentication";
    headers.set("www-authenticate", `Bearer realm="${core.issuer}", error="${code}"`);
  }
}

function notify(headers: Headers, notice: SessionNotice): void {
  headers.set(header.session, encodeNotice(notice));
}

/** Puts the values in the place of what this response says of the cookie so far. */
function replaceCookie(headers: Headers, name: string, values: readonly string[]): void {
  const others = headers.getSetCookie().filter((cookie) => !cookie.startsWith(`${name}=`));
  headers.delete("set-cookie");
  for (const cookie of [...others, ...values]) {
    headers.append("set-cookie", cookie);
  }
}
