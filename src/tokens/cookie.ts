import { stringifySetCookie } from "cookie";

/** How the session cookies are written. */
export interface CookieOptions {
  /**
   * For development over plain http: drops `Secure` and the `__Host-` prefix, which then also
   * cannot stop a sibling host from planting cookies. Default false.
   */
  readonly insecure?: boolean;
  /** Default "lax". "none" is for services called from pages of another site. */
  readonly sameSite?: "lax" | "strict" | "none";
  /** One jar per embedding site (CHIPS). Default false. */
  readonly partitioned?: boolean;
}

/** The names of the two session cookies. */
export interface CookieNames {
  readonly access: string;
  readonly refresh: string;
}

/** Writes and reads the session cookies (RFC 6265bis). */
export interface SessionCookies {
  readonly names: CookieNames;
  /** True when only this host can have set them (`__Host-`). */
  readonly hostOnly: boolean;
  /** False when browsers drop them: Secure cookies of plain http, but on this machine. */
  readonly kept: boolean;
  /**
   * A Set-Cookie value.
   * @param maxAge seconds
   * @throws RangeError past 4096 bytes of name and value, which browsers drop without a word
   */
  set(name: string, value: string, maxAge: number): string;
  /** Set-Cookie values that expire the cookie, in the partitioned and the common jar. */
  expire(name: string): readonly string[];
}

/** The greatest size of name and value together that browsers keep, in bytes. */
const maxCookieBytes = 4096;

/** @throws TypeError when the options contradict each other or the issuer */
export function createSessionCookies(issuer: URL, options: CookieOptions = {}): SessionCookies {
  const { insecure = false, sameSite = "lax", partitioned = false } = options;
  if (insecure && issuer.protocol === "https:") {
    throw new TypeError("cookies.insecure: not with an https issuer; leave it out");
  }
  if (insecure && (sameSite === "none" || partitioned)) {
    throw new TypeError(
      "cookies.insecure: browsers refuse SameSite=None and Partitioned without Secure; leave it out",
    );
  }
  if (!["lax", "strict", "none"].includes(sameSite)) {
    throw new TypeError(`cookies.sameSite: "${sameSite}" is none of "lax", "strict", "none"`);
  }
  const prefix = insecure ? "" : "__Host-";
  const attributes = { path: "/", httpOnly: true, secure: !insecure, sameSite } as const;
  return {
    names: { access: `${prefix}rpcsession-access`, refresh: `${prefix}rpcsession-refresh` },
    hostOnly: !insecure,
    kept: insecure || issuer.protocol === "https:" || isLoopback(issuer.hostname),
    set(name, value, maxAge) {
      if (name.length + value.length > maxCookieBytes) {
        throw new RangeError(
          `the cookie ${name} would have ${name.length + value.length} bytes, and browsers drop it past ${maxCookieBytes}; put fewer or shorter claims into the session`,
        );
      }
      return stringifySetCookie({ name, value, maxAge, partitioned, ...attributes });
    },
    expire(name) {
      const gone = { name, value: "", maxAge: 0, expires: new Date(0), ...attributes };
      const common = stringifySetCookie(gone);
      // Without Secure there is no partitioned jar.
      return insecure ? [common] : [common, stringifySetCookie({ ...gone, partitioned: true })];
    },
  };
}

/** Hosts from which browsers take Secure cookies over plain http; Safari does not. */
function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}

/**
 * Every value of a cookie in a Cookie header, in order, at most `limit`. Looks for its name only: a
 * header may hold many other cookies.
 */
export function readCookie(cookieHeader: string | null, name: string, limit: number): string[] {
  const values: string[] = [];
  if (cookieHeader === null) {
    return values;
  }
  const start = `${name}=`;
  let at = cookieHeader.indexOf(start);
  while (at !== -1 && values.length < limit) {
    const valueAt = at + start.length;
    if (isPairStart(cookieHeader, at)) {
      values.push(cookieHeader.slice(valueAt, endOfPair(cookieHeader, valueAt)));
    }
    at = cookieHeader.indexOf(start, valueAt);
  }
  return values;
}

/** The Cookie header without the named cookies; empty when nothing is left. */
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
 * Only space and tab surround a pair (RFC 6265bis section 5.6): what else JavaScript trims is part of
 * the name, and a sibling host may set a cookie of such a name, which `__Host-` does not protect.
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

/** Whether nothing but blanks stand between a place and the semicolon before it. */
function isPairStart(cookieHeader: string, at: number): boolean {
  let before = at - 1;
  while (before >= 0 && isBlank(cookieHeader, before)) {
    before--;
  }
  return before < 0 || cookieHeader[before] === ";";
}

/** Where the pair around a place ends, without the blanks after it. */
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
