import { header, maxTokenLength, proofHeader } from "../base/wire.ts";
import type { CookieNames } from "./cookie-options.ts";

/** The tokens of a request, not verified yet. */
export interface PresentedTokens {
  /** The token after `Bearer`, `DPoP` or `Session` in the Authorization header; undefined for any other scheme. */
  readonly bearer: string | undefined;
  /** Its scheme; undefined without such a token. */
  readonly scheme: TokenScheme | undefined;
  /** The copies of the access cookie, at most the first {@link maxRead}. */
  readonly accessCookies: readonly string[];
  /** The copies of the refresh cookie, at most the first {@link maxRead}. */
  readonly refreshCookies: readonly string[];
  /** The copies of the cookies that came under the other names of the service, whether they count or not. */
  readonly otherCookies: OtherCookies;
  /** Whether there is a session cookie. */
  readonly hasCookies: boolean;
  /** Whether the call is made with cookies: it has some, no bearer token, and does not ask for headers. */
  readonly byCookie: boolean;
  /** Whether there are no tokens at all. */
  readonly isEmpty: boolean;
}

/** The copies of the session cookies under the other names, at most the first {@link maxRead} of each. */
export type OtherCookies = Readonly<Record<keyof CookieNames, readonly string[]>>;

/** The names of the session cookies: those that are written, and those that are read in their absence. */
export interface NamesToRead {
  readonly names: CookieNames;
  readonly otherNames?: CookieNames | undefined;
}

/**
 * How an access token comes in the Authorization header. `dpop`: with a proof of possession (RFC 9449).
 * `session`: that of a session that is bound to a key, on a call that needs no proof.
 */
export type TokenScheme = "bearer" | "dpop" | "session";

/** Copies of a cookie that may be this service's own. More of them contradict each other. */
export const maxCopies = 3;

/** Copies of a cookie that are looked at. More of them contradict each other, whoever set them. */
export const maxRead = 16;

/** Reads the tokens of a request, and removes the session cookies from its headers. */
export function takeTokens(headers: Headers, reader: NamesToRead): PresentedTokens {
  // 1. Read the tokens.
  const cookies = headers.get("cookie");
  const { scheme, bearer } = readToken(headers.get("authorization"));
  const { accessCookies, refreshCookies, otherCookies } = readSessionCookies(cookies, reader);
  const hasCookies = accessCookies.length + refreshCookies.length > 0;

  // 2. Handlers do not see the session cookies, nor do their logs show the bearer token.
  if (cookies !== null && hasCookies) {
    const { names, otherNames = names } = reader;
    const taken = [names.access, names.refresh, otherNames.access, otherNames.refresh];
    replaceCookies(headers, withoutCookies(cookies, taken));
  }
  if (bearer !== undefined) {
    hideWhenInspected(headers);
  }
  const isEmpty = bearer === undefined && !hasCookies;
  const byCookie = bearer === undefined && hasCookies && headers.get(header.transport) !== "header";
  return {
    ...{ bearer, scheme, accessCookies, refreshCookies, otherCookies },
    ...{ hasCookies, byCookie, isEmpty },
  };
}

/**
 * Reads the session cookies of a Cookie header. Those under the other names count only in the absence of
 * the present ones: a script may have set them, so they never compete.
 */
export function readSessionCookies(
  cookieHeader: string | null,
  { names, otherNames }: NamesToRead,
): Pick<PresentedTokens, "accessCookies" | "refreshCookies" | "otherCookies"> {
  const { access, refresh } = readPair(cookieHeader, names);
  const otherCookies = otherNames === undefined ? noCookies : readPair(cookieHeader, otherNames);
  return {
    accessCookies: access.length > 0 ? access : otherCookies.access,
    refreshCookies: refresh.length > 0 ? refresh : otherCookies.refresh,
    otherCookies,
  };
}

function readPair(cookieHeader: string | null, { access, refresh }: CookieNames): OtherCookies {
  return cookieHeader === null
    ? noCookies
    : {
        access: readCookie(cookieHeader, access, maxRead),
        refresh: readCookie(cookieHeader, refresh, maxRead),
      };
}

/** How `util.inspect` of Node.js, Deno and Bun asks an object what to print. */
export const inspected: unique symbol = Symbol.for("nodejs.util.inspect.custom");

const hiddenNames: ReadonlySet<string> = new Set([
  ...["authorization", "proxy-authorization", "cookie", "set-cookie"],
  ...[header.accessToken, header.refreshToken, header.csrf, header.session, proofHeader.proof],
]);

/**
 * Returns headers as a plain object for a log, without tokens, cookies and claims: their values are
 * "[hidden]". Use it in interceptors that print the headers of requests, responses or errors.
 *
 * @example
 * logger.info({ request: redactTokens(request.header) }, "call");
 */
export function redactTokens(headers: Headers): Record<string, string> {
  return Object.fromEntries(
    [...headers].map(([name, value]) => [name, hiddenNames.has(name) ? "[hidden]" : value]),
  );
}

// One for all headers, because a warm call would notice an object of its own.
const hiding: PropertyDescriptor = {
  value(this: Headers): object {
    return redactTokens(this);
  },
  configurable: true,
};

/** Makes `util.inspect` print headers without tokens: handlers log their context. */
export function hideWhenInspected(headers: Headers): void {
  Object.defineProperty(headers, inspected, hiding);
}

const noToken = { scheme: undefined, bearer: undefined } as const;

/**
 * Reads an access token (RFC 6750 section 2.1, RFC 9449 section 7.1); the case of the scheme does not
 * matter. Returns the empty string for a malformed or too long token, so that it is refused instead of
 * ignored.
 */
function readToken(authorization: string | null): Pick<PresentedTokens, "scheme" | "bearer"> {
  if (authorization === null) {
    return noToken;
  }
  const end = authorization.search(/[ \t]|$/);
  const scheme = authorization.slice(0, end).toLowerCase();
  if (scheme !== "bearer" && scheme !== "dpop" && scheme !== "session") {
    return noToken;
  }
  const token = authorization.slice(end + 1).trim();
  return { scheme, bearer: token.length <= maxTokenLength ? token : "" };
}

/** If the headers of a request are immutable, as in a fetch handler, the cookies stay, unprinted. */
function replaceCookies(headers: Headers, cookies: string): void {
  try {
    if (cookies === "") {
      headers.delete("cookie");
    } else {
      headers.set("cookie", cookies);
    }
  } catch (error) {
    // By the Fetch standard, immutable headers throw a TypeError.
    if (!(error instanceof TypeError)) {
      throw error;
    }
    hideWhenInspected(headers);
  }
}

/**
 * Returns the values of one cookie in a Cookie header, in order, at most `limit` of them. It searches
 * for the name instead of parsing every pair, because the header may hold many other cookies.
 */
export function readCookie(
  cookieHeader: string | null,
  name: string,
  limit: number,
): readonly string[] {
  const start = `${name}=`;
  let at = cookieHeader === null ? -1 : cookieHeader.indexOf(start);
  if (cookieHeader === null || at === -1) {
    return none;
  }
  const values: string[] = [];
  while (at !== -1 && values.length < limit) {
    const valueAt = at + start.length;
    if (isPairStart(cookieHeader, at)) {
      values.push(cookieHeader.slice(valueAt, endOfPair(cookieHeader, valueAt)));
    }
    at = cookieHeader.indexOf(start, valueAt);
  }
  return values;
}

const none: readonly string[] = Object.freeze([]);
const noCookies: OtherCookies = Object.freeze({ access: none, refresh: none });

/** Returns the Cookie header without the named cookies; empty if nothing is left. */
export function withoutCookies(cookieHeader: string, names: readonly string[]): string {
  const kept: string[] = [];
  forEachPair(cookieHeader, (pair) => {
    if (!names.some((name) => pair.startsWith(`${name}=`))) {
      kept.push(pair);
    }
  });
  return kept.join("; ");
}

/**
 * Visits each pair without the blanks around it. Only space and tab count as blanks (RFC 6265bis
 * section 5.6). Other characters that JavaScript would trim are part of the name: a sibling host may
 * set a cookie of such a name, because it does not begin with `__Host-`.
 */
function forEachPair(cookieHeader: string, visit: (pair: string) => void): void {
  let start = 0;
  while (start < cookieHeader.length) {
    const end = endOfPair(cookieHeader, start);
    while (start < end && isBlank(cookieHeader, start)) {
      start++;
    }
    visit(cookieHeader.slice(start, end));
    start = semicolonFrom(cookieHeader, end) + 1;
  }
}

/** Whether there are only blanks between a position and the semicolon before it. */
function isPairStart(cookieHeader: string, at: number): boolean {
  let before = at - 1;
  while (before >= 0 && isBlank(cookieHeader, before)) {
    before--;
  }
  return before < 0 || cookieHeader[before] === ";";
}

/** Returns the end of the pair around a position, without the blanks after it. */
function endOfPair(cookieHeader: string, from: number): number {
  let end = semicolonFrom(cookieHeader, from);
  while (end > from && isBlank(cookieHeader, end - 1)) {
    end--;
  }
  return end;
}

function semicolonFrom(cookieHeader: string, from: number): number {
  const at = cookieHeader.indexOf(";", from);
  return at === -1 ? cookieHeader.length : at;
}

function isBlank(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  return code === 0x20 || code === 0x09;
}
