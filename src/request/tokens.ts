import { maxTokenLength } from "../base/wire.ts";
import type { CookieNames } from "./cookie-options.ts";
import { readCookie, withoutCookies } from "./cookies.ts";

/** The tokens of a request, not verified yet. */
export interface PresentedTokens {
  /** The token after `Bearer` in the Authorization header; undefined for any other scheme. */
  readonly bearer: string | undefined;
  /** The access cookies, at most the first three. */
  readonly accessCookies: readonly string[];
  /** The refresh cookies, at most the first three. */
  readonly refreshCookies: readonly string[];
}

/** The maximum number of copies of a cookie to consider. */
const maxCopies = 3;

/** Reads the tokens of a request. */
export function readTokens(headers: Headers, names: CookieNames): PresentedTokens {
  const cookies = headers.get("cookie");
  return {
    bearer: readBearer(headers.get("authorization")),
    accessCookies: readCookie(cookies, names.access, maxCopies),
    refreshCookies: readCookie(cookies, names.refresh, maxCopies),
  };
}

/** Whether a request carries no tokens at all. */
export function isEmpty(presented: PresentedTokens): boolean {
  return presented.bearer === undefined && !hasCookies(presented);
}

/** Whether a request carries a session cookie. */
export function hasCookies(presented: PresentedTokens): boolean {
  return presented.accessCookies.length + presented.refreshCookies.length > 0;
}

/**
 * Removes the session cookies from the headers that handlers will see. If the headers of a request
 * are immutable, as in a fetch handler, the cookies stay.
 */
export function hideTokens(headers: Headers, names: CookieNames): void {
  const cookies = headers.get("cookie");
  if (cookies === null || !(cookies.includes(names.access) || cookies.includes(names.refresh))) {
    return;
  }
  const rest = withoutCookies(cookies, [names.access, names.refresh]);
  try {
    if (rest === "") {
      headers.delete("cookie");
    } else {
      headers.set("cookie", rest);
    }
  } catch (error) {
    // By the Fetch standard, immutable headers throw a TypeError.
    if (!(error instanceof TypeError)) {
      throw error;
    }
  }
}

/**
 * Reads a Bearer token (RFC 6750 section 2.1); the case of the scheme does not matter. Returns the
 * empty string for a malformed or too long token, so that it is refused instead of ignored.
 */
function readBearer(authorization: string | null): string | undefined {
  if (authorization === null) {
    return undefined;
  }
  const [scheme, after] = [authorization.slice(0, 6), authorization[6]];
  const isBearer = scheme === "Bearer" || scheme.toLowerCase() === "bearer";
  if (!isBearer || !(after === " " || after === "\t" || after === undefined)) {
    return undefined;
  }
  const token = authorization.slice("bearer ".length).trim();
  return token.length <= maxTokenLength ? token : "";
}
