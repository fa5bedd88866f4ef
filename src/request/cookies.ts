import { stringifySetCookie } from "cookie";
import {
  type CookieNames,
  type CookieOptions,
  type CookiePlace,
  type CookiePlan,
  isCookiePath,
  isLoopback,
  readCookieOptions,
} from "./cookie-options.ts";

/** The maximum length of a cookie's name and value together, in bytes; browsers drop longer ones. */
const maxCookieBytes = 4096;

/** Writes the Set-Cookie headers of the session cookies (RFC 6265bis). */
export class SessionCookies {
  readonly names: CookieNames;
  /** The names that are read if no cookie came under `names`; undefined if there are none. */
  readonly otherNames: CookieNames | undefined;
  /** Whether only this host can have set the cookies (`__Host-`). */
  readonly hostOnly: boolean;
  /** Whether browsers keep the cookies. They drop Secure cookies over plain http, except on localhost. */
  readonly kept: boolean;
  /** The resolved options. */
  readonly plan: CookiePlan;
  readonly #issuer: URL;

  /** @throws TypeError if the options contradict each other, the issuer, or the rules of browsers */
  constructor(issuer: URL, options: CookieOptions = {}) {
    const plan = readCookieOptions(issuer, options);
    this.names = plan.names;
    this.otherNames = plan.otherNames;
    this.hostOnly = plan.hostOnly;
    // Safari drops Secure cookies over plain http on localhost too.
    this.kept = !plan.secure || issuer.protocol === "https:" || isLoopback(issuer.hostname);
    this.plan = plan;
    this.#issuer = issuer;
  }

  /** Whether browsers send the cookies to a host, too. They make no difference between ports. */
  reaches(hostname: string): boolean {
    const { domain } = this.plan;
    return domain === undefined
      ? hostname === this.#issuer.hostname
      : hostname === domain || hostname.endsWith(`.${domain}`);
  }

  /**
   * Returns the Set-Cookie values that set cookies, for each name. They expire copies first.
   *
   * @param values pairs of name and value
   * @param maxAge seconds
   * @throws RangeError like `set`
   */
  write(
    values: readonly (readonly [name: string, value: string])[],
    { maxAge, expireCopies }: { readonly maxAge: number; readonly expireCopies: Copies },
  ): ReadonlyMap<string, readonly string[]> {
    return new Map(
      values.map(([name, value]) => {
        const gone = expireCopies ? this.expire(name, expireCopies) : this.expireOlder(name);
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
    const { partitioned } = this.plan;
    return stringifySetCookie({
      name,
      value,
      maxAge,
      partitioned,
      ...this.#attributes(this.#here),
    });
  }

  /**
   * Returns Set-Cookie values that expire copies of a cookie, the present one last: in the partitioned
   * and the common jar.
   */
  expire(name: string, copies: Copies = { requestPath: undefined }): readonly string[] {
    const places = copies ? this.#reachable(copies) : this.#known;
    return places.flatMap((place) => this.#expireIn(name, place));
  }

  /** Returns Set-Cookie values that expire the copy of `olderDomain` and `olderPath`, if they are set. */
  expireOlder(name: string): readonly string[] {
    const { older } = this.plan;
    return older === undefined ? [] : this.#expireIn(name, older);
  }

  #expireIn(name: string, place: CookiePlace): string[] {
    const gone = { name, value: "", maxAge: 0, expires: new Date(0), ...this.#attributes(place) };
    const common = stringifySetCookie(gone);
    // Without Secure there is no partitioned jar.
    return this.plan.secure
      ? [common, stringifySetCookie({ ...gone, partitioned: true })]
      : [common];
  }

  #attributes({ domain, path }: CookiePlace) {
    const { secure, sameSite } = this.plan;
    return { ...(domain !== null && { domain }), path, httpOnly: true, secure, sameSite } as const;
  }

  get #here(): CookiePlace {
    const { domain = null, path } = this.plan;
    return { domain, path };
  }

  /** The places that the options name, the present one last. */
  get #known(): readonly CookiePlace[] {
    const { older } = this.plan;
    return older === undefined ? [this.#here] : [older, this.#here];
  }

  /**
   * The places that may have a copy of a cookie sent with a request, the present one last. If there are
   * too many for one response, a random part of them: the next response expires others.
   */
  #reachable({ requestPath = "/", belowOnly = false }: CopiesInReach): readonly CookiePlace[] {
    const { hostOnly, secure, path } = this.plan;
    if (hostOnly || !secure) {
      return this.#known;
    }
    const domains = [null, ...parentsOf(this.#issuer.hostname)];
    const above = new Set(pathsAbove(path));
    const below = pathsAbove(requestPath).filter((at) => !above.has(at));
    const paths = belowOnly ? below : [...above, ...below];
    const places = paths.flatMap((at) => domains.map((domain) => ({ domain, path: at })));
    const known = new Set(this.#known.map(keyOf));
    const others = places.filter((place) => !known.has(keyOf(place)));
    while (others.length > maxPlaces) {
      others.splice(Math.floor(Math.random() * others.length), 1);
    }
    return [...others, ...this.#known];
  }
}

/**
 * The copies of a cookie to expire: `false` for only that of the options `olderDomain` and `olderPath`;
 * otherwise every copy that this host can reach. These are the copies of its domain and the domains
 * above, each with the paths above the cookies' own path and, if it is given, above that of the request.
 * With `__Host-` there can be no copies in other places.
 */
export type Copies = false | CopiesInReach;

interface CopiesInReach {
  readonly requestPath: string | undefined;
  /**
   * Whether only the known places and those below the cookies' own path count: the cookies of another
   * service on this host or domain are above it. Default false.
   */
  readonly belowOnly?: boolean;
}

function keyOf({ domain, path }: CookiePlace): string {
  return `${domain ?? ""} ${path}`;
}

/**
 * Places whose copies one response expires beside the known ones. Each takes up to four Set-Cookie
 * headers, and proxies refuse a response of 100 headers (Envoy) or 16 KB (the proxies page).
 */
const maxPlaces = 12;
/** The maximum number of parent domains to consider. */
const maxParents = 4;
/** The maximum number of path segments to consider: a service, a method and a prefix. */
const maxSegments = 4;

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

/**
 * Returns the cookie paths that match a path (RFC 6265bis section 5.1.4): "/a/b" has "/", "/a", "/a/"
 * and itself.
 */
function pathsAbove(path: string): string[] {
  if (!isCookiePath(path)) {
    return ["/"];
  }
  const segments = path.split("/").filter((segment) => segment !== "");
  const above = segments
    .slice(0, maxSegments)
    .map((_, i) => `/${segments.slice(0, i + 1).join("/")}`);
  return ["/", ...above.flatMap((at) => (at === path ? [at] : [at, `${at}/`]))];
}
