import { stringifySetCookie } from "cookie";
import {
  type CookieNames,
  type CookieOptions,
  type CookiePlan,
  readCookieOptions,
} from "./cookie-options.ts";

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
  /**
   * Set-Cookie values that expire every copy of the cookie that can be named: in the partitioned and
   * the common jar and, without `__Host-`, of every domain that the host can set cookies for.
   */
  expire(name: string): readonly string[];
  /** Set-Cookie values that expire the cookie of the older domain. */
  expireOlder(name: string): readonly string[];
}

/** The greatest size of name and value together that browsers keep, in bytes. */
const maxCookieBytes = 4096;

/** @throws TypeError when the options contradict each other, the issuer, or what browsers take */
export function createSessionCookies(issuer: URL, options: CookieOptions = {}): SessionCookies {
  const plan = readCookieOptions(issuer, options);
  const { domain, path, secure, sameSite, partitioned, olderDomain } = plan;
  const attributes = { path, httpOnly: true, secure, sameSite } as const;
  const expireIn = (name: string, place: string | null): string[] => {
    const of = place === null ? {} : { domain: place };
    const gone = { name, value: "", maxAge: 0, expires: new Date(0), ...of, ...attributes };
    const common = stringifySetCookie(gone);
    // Without Secure there is no partitioned jar.
    return secure ? [common, stringifySetCookie({ ...gone, partitioned: true })] : [common];
  };
  const places = placesOf(issuer, plan);
  return {
    names: plan.names,
    hostOnly: plan.hostOnly,
    kept: !secure || issuer.protocol === "https:" || isLoopback(issuer.hostname),
    set(name, value, maxAge) {
      if (name.length + value.length > maxCookieBytes) {
        throw new RangeError(
          `the cookie ${name} would have ${name.length + value.length} bytes, and browsers drop it past ${maxCookieBytes}; put fewer or shorter claims into the session`,
        );
      }
      const of = domain === undefined ? {} : { domain };
      return stringifySetCookie({ name, value, maxAge, partitioned, ...of, ...attributes });
    },
    expire: (name) => places.flatMap((place) => expireIn(name, place)),
    expireOlder: (name) => (olderDomain === undefined ? [] : expireIn(name, olderDomain)),
  };
}

/** The domains that may have a copy of a session cookie; null is none, the host alone. The present one is last. */
function placesOf(issuer: URL, { domain, hostOnly, secure, olderDomain }: CookiePlan) {
  const places = new Set<string | null>(olderDomain === undefined ? [] : [olderDomain]);
  if (!hostOnly && secure) {
    places.add(null);
    for (const parent of parentsOf(issuer.hostname)) {
      places.add(parent);
    }
  }
  places.delete(domain ?? null);
  return [...places, domain ?? null];
}

/** More parents of a host are not looked at. */
const maxParents = 4;

/** A host and the domains above it, but for the topmost, which belongs to nobody; none for an address. */
function parentsOf(hostname: string): string[] {
  const labels = hostname.split(".");
  return /[a-z]/.test(labels.at(-1) ?? "")
    ? labels
        .slice(0, -1)
        .map((_, i) => labels.slice(i).join("."))
        .slice(-maxParents)
    : [];
}

/** Hosts from which browsers take Secure cookies over plain http; Safari does not. */
function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}

/**
 * Every value of a cookie in a Cookie header, in order, at most `limit`. Looks for its name only: a
 * header may hold many other cookies.
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
