import { stringifySetCookie } from "cookie";
import {
  type CookieNames,
  type CookieOptions,
  type CookiePlan,
  readCookieOptions,
} from "./cookie-options.ts";

/** The maximum length of a cookie's name and value together, in bytes; browsers drop longer ones. */
const maxCookieBytes = 4096;

/** Writes the Set-Cookie headers of the session cookies (RFC 6265bis). */
export class SessionCookies {
  readonly names: CookieNames;
  /** Whether only this host can have set the cookies (`__Host-`). */
  readonly hostOnly: boolean;
  /** Whether browsers keep the cookies. They drop Secure cookies over plain http, except on localhost. */
  readonly kept: boolean;
  readonly #plan: CookiePlan;
  /** The domains that may have a copy of a cookie. */
  readonly #places: readonly Place[];

  /** @throws TypeError if the options contradict each other, the issuer, or the rules of browsers */
  constructor(issuer: URL, options: CookieOptions = {}) {
    const plan = readCookieOptions(issuer, options);
    this.names = plan.names;
    this.hostOnly = plan.hostOnly;
    this.kept = !plan.secure || issuer.protocol === "https:" || isLoopback(issuer.hostname);
    this.#plan = plan;
    this.#places = placesOf(issuer, plan);
  }

  /**
   * Returns the Set-Cookie values that set cookies, for each name. They expire copies first: every
   * copy that this host can reach, or only the one of the option `olderDomain`.
   *
   * @param values pairs of name and value
   * @param maxAge seconds
   * @throws RangeError like `set`
   */
  write(
    values: readonly (readonly [name: string, value: string])[],
    { maxAge, expireCopies }: { readonly maxAge: number; readonly expireCopies: boolean },
  ): ReadonlyMap<string, readonly string[]> {
    return new Map(
      values.map(([name, value]) => {
        const gone = expireCopies ? this.expire(name) : this.expireOlder(name);
        return [name, [...gone, this.set(name, value, maxAge)]];
      }),
    );
  }

  /**
   * Returns the Set-Cookie value that sets a cookie.
   * @param maxAge seconds
   * @throws RangeError if name and value exceed 4096 bytes, because browsers drop such a cookie silently
   */
  set(name: string, value: string, maxAge: number): string {
    const size = name.length + value.length;
    if (size > maxCookieBytes) {
      throw new RangeError(
        `the cookie ${name} would have ${size} bytes, but browsers drop cookies of more than ${maxCookieBytes}; put fewer or shorter claims into the session`,
      );
    }
    const { domain = null, partitioned } = this.#plan;
    return stringifySetCookie({ name, value, maxAge, partitioned, ...this.#attributes(domain) });
  }

  /**
   * Returns Set-Cookie values that expire every copy of a cookie this host can reach: in the
   * partitioned and the common jar and, without `__Host-`, of every domain that the host can set
   * cookies for.
   */
  expire(name: string): readonly string[] {
    return this.#places.flatMap((place) => this.#expireIn(name, place));
  }

  /** Returns Set-Cookie values that expire the copy of the option `olderDomain`, if it is set. */
  expireOlder(name: string): readonly string[] {
    const { olderDomain } = this.#plan;
    return olderDomain === undefined ? [] : this.#expireIn(name, olderDomain);
  }

  #expireIn(name: string, place: Place): string[] {
    const gone = { name, value: "", maxAge: 0, expires: new Date(0), ...this.#attributes(place) };
    const common = stringifySetCookie(gone);
    // Without Secure there is no partitioned jar.
    return this.#plan.secure
      ? [common, stringifySetCookie({ ...gone, partitioned: true })]
      : [common];
  }

  #attributes(place: Place) {
    const { path, secure, sameSite } = this.#plan;
    const domain = place === null ? {} : { domain: place };
    return { ...domain, path, httpOnly: true, secure, sameSite } as const;
  }
}

/** A domain that cookies can have; null for none, which is the host alone. */
type Place = string | null;

/** Returns the domains that may have a copy of a session cookie, with the current one last. */
function placesOf(
  issuer: URL,
  { domain, hostOnly, secure, olderDomain }: CookiePlan,
): readonly Place[] {
  const places = new Set<Place>(olderDomain === undefined ? [] : [olderDomain]);
  if (!hostOnly && secure) {
    places.add(null);
    for (const parent of parentsOf(issuer.hostname)) {
      places.add(parent);
    }
  }
  places.delete(domain ?? null);
  return [...places, domain ?? null];
}

/** The maximum number of parent domains to consider. */
const maxParents = 4;

/**
 * Returns a host and the domains above it, without the top-level domain, for which nobody can set
 * cookies. An IP address has none.
 */
function parentsOf(hostname: string): string[] {
  const labels = hostname.split(".");
  return /[a-z]/.test(labels.at(-1) ?? "")
    ? labels
        .slice(0, -1)
        .map((_, i) => labels.slice(i).join("."))
        .slice(-maxParents)
    : [];
}

/** Whether browsers accept Secure cookies from a host over plain http. Safari never does. */
function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}
