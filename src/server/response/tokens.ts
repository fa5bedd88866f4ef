import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { encodeNotice, header, type SessionNotice } from "../../base/wire.ts";
import type { AccessToken } from "../../engine/access-tokens.ts";
import type { SessionRecord } from "../../engine/store.ts";
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
  /** Whether all other copies of the cookies are expired first, including those in the other jar. */
  readonly expireCopies: boolean;
}

/**
 * Writes the tokens of a session as cookies or headers, depending on its token transport.
 * @returns the claims that the client may read; see {@link claimsForClient}
 */
export async function writeTokens(
  core: VerifyingCore,
  headers: Headers,
  tokens: TokensToWrite,
): Promise<JsonObject | undefined> {
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
  return claims;
}

/** Writes an access token that replaces the presented one. */
export async function writeReissued(
  core: VerifyingCore,
  headers: Headers,
  reissued: Pick<TokensToWrite, "record" | "now" | "access"> &
    Partial<Pick<TokensToWrite, "event">>,
): Promise<void> {
  await writeTokens(core, headers, {
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
  record: SessionRecord,
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

function putTokens(core: VerifyingCore, headers: Headers, tokens: TokensToWrite): void {
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
  }
}

/** How `util.inspect` of Node.js, Deno and Bun asks an object what to print. */
const inspected = Symbol.for("nodejs.util.inspect.custom");

/** Makes `util.inspect` print response headers without tokens: handlers log their context. */
function hideWhenInspected(headers: Headers): void {
  const hidden = new Set<string>([
    "set-cookie",
    header.accessToken,
    header.refreshToken,
    header.csrf,
  ]);
  const printed = (): object =>
    Object.fromEntries(
      [...headers].map(([name, value]) => [name, hidden.has(name) ? "[hidden]" : value]),
    );
  Object.defineProperty(headers, inspected, { value: printed, configurable: true });
}

/** Expires the session cookies in both jars. */
export function expireCookies(core: VerifyingCore, headers: Headers): void {
  for (const name of [core.cookies.names.access, core.cookies.names.refresh]) {
    replaceCookie(headers, name, core.cookies.expire(name));
  }
  headers.set("cache-control", "no-store");
}

/** Notifies the client that its session has ended, and removes tokens that this call has written. */
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

/** Adds `no-store` to a response with tokens or cookies, whatever the handler set for caching. */
export function keepTokensUncached(headers: Headers): void {
  if (headers.get("cache-control")?.includes("no-store")) {
    return;
  }
  if (["set-cookie", header.accessToken, header.refreshToken].some((name) => headers.has(name))) {
    headers.set("cache-control", "no-store");
  }
}

function notify(headers: Headers, notice: SessionNotice): void {
  headers.set(header.session, encodeNotice(notice));
}

/** Replaces the Set-Cookie values that this response has for a cookie. */
function replaceCookie(headers: Headers, name: string, values: readonly string[]): void {
  const others = headers.getSetCookie().filter((cookie) => !cookie.startsWith(`${name}=`));
  headers.delete("set-cookie");
  for (const cookie of [...others, ...values]) {
    headers.append("set-cookie", cookie);
  }
}
