import type { CookieNames } from "./cookie-options.ts";
import { readCookie, withoutCookies } from "./cookies.ts";

/** The tokens that came with a request, unproven. */
export interface PresentedTokens {
  /** What follows `Bearer` in the Authorization header; undefined without that scheme. */
  readonly bearer: string | undefined;
  /** The access cookies, the first three at most. */
  readonly accessCookies: readonly string[];
  /** The refresh cookies, the first three at most. */
  readonly refreshCookies: readonly string[];
}

/** More candidates than this are looked at for no cookie. */
const maxCandidates = 3;
/** Characters a Bearer token may have; a longer one is none. */
const maxBearer = 8192;

/** Reads the tokens of a request. */
export function readTokens(headers: Headers, names: CookieNames): PresentedTokens {
  const cookies = headers.get("cookie");
  return {
    bearer: readBearer(headers.get("authorization")),
    accessCookies: readCookie(cookies, names.access, maxCandidates),
    refreshCookies: readCookie(cookies, names.refresh, maxCandidates),
  };
}

/** Whether a request brought no token at all. */
export function isEmpty(presented: PresentedTokens): boolean {
  return presented.bearer === undefined && !hasCookies(presented);
}

/** Whether a request brought a session cookie. */
export function hasCookies(presented: PresentedTokens): boolean {
  return presented.accessCookies.length + presented.refreshCookies.length > 0;
}

/**
 * Takes the session cookies out of the headers that handlers will see. Requests of some runtimes have
 * headers that nobody can change, such as those of a fetch handler; there they stay.
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
    // What the Fetch standard has immutable headers throw.
    if (!(error instanceof TypeError)) {
      throw error;
    }
  }
}

/** RFC 6750 section 2.1, the scheme in any case. Not a token, but not nothing: the empty string. */
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
  return token.length <= maxBearer ? token : "";
}
