/** The attributes and names of the session cookies. */
export interface CookieOptions {
  /**
   * For development over plain http: omits `Secure` and the prefix of the names. Without the prefix,
   * a sibling host can plant cookies. Not allowed with an https issuer. Default false.
   */
  readonly insecure?: boolean;
  /**
   * The SameSite attribute. Default "lax". Use "none" for services that are called from pages of
   * another site; browsers may still block such cookies unless they are `partitioned`.
   */
  readonly sameSite?: "lax" | "strict" | "none";
  /**
   * Uses a separate cookie jar for each embedding site (CHIPS). Only with `sameSite: "none"`.
   * Default false.
   */
  readonly partitioned?: boolean;
  /**
   * The names of the cookies with their prefix (RFC 6265bis section 4.1.3), at most 96 characters
   * each. Default `__Host-Http-rpcsession-access` and `__Host-Http-rpcsession-refresh`; see `prefix`.
   * With a `domain` or a `path`, the default prefix is `__Secure-`; with `insecure` there is none. On
   * localhost the port of the issuer is appended, as in `__Host-Http-rpcsession-access-8080`, because
   * browsers share cookies between the ports of a host. Two services on one host need different names
   * anywhere else too.
   */
  readonly names?: CookieNames;
  /**
   * The prefix of the default names:
   *
   * - `"host-http"`: `__Host-Http-`. Chrome 140, Firefox 142 and newer guarantee that no script has set
   *   such a cookie. Other browsers treat it as `__Host-`, with which it begins.
   * - `"host"`: `__Host-`. Use it while servers of version 0.1 run beside this one, because they do not
   *   read the other names.
   *
   * Cookies under the default names with the other prefix are read too; see `otherPrefix`. Not with
   * `names`, `domain`, `path` or `insecure`. Default "host-http".
   */
  readonly prefix?: "host-http" | "host";
  /**
   * What becomes of cookies under the default names with the other `prefix`:
   *
   * - `"read"`: such a cookie counts if none came under the present name. The next response that writes
   *   the cookie writes it under the present name, and expires the other one. So nobody is signed out
   *   when `prefix` changes.
   * - `"ignore"`: they are not read. Set it once the last session that began with the other prefix has
   *   ended, which takes `lifetimes.absolute`. A script in the page may set a cookie with `__Host-`.
   *
   * Not with `names`, `domain`, `path` or `insecure`. Default "read".
   */
  readonly otherPrefix?: "read" | "ignore";
  /**
   * The domain whose hosts all receive the cookies: the issuer's host or a parent of it, such as
   * "example.com". Each of these hosts can read the cookies and plant others. Default: the issuer's
   * host only.
   */
  readonly domain?: string;
  /**
   * The path prefix of requests that receive the cookies. It must cover the service and
   * SessionService, as the `requestPathPrefix` of an adapter does. It does not protect the cookies
   * from other paths of the host. Default "/".
   *
   * Caution: when you change it, browsers keep the cookies of the former path beside the new ones. Set
   * `olderPath` to the former path.
   */
  readonly path?: string;
  /**
   * The `domain` of earlier cookies with the same names, or null if they had none. Every response
   * that writes or expires a session cookie then expires the earlier one too. Set it when you change
   * `domain`, and remove it once the last earlier session has ended.
   */
  readonly olderDomain?: string | null;
  /**
   * The `path` of earlier cookies with the same names. Every response that writes or expires a session
   * cookie then expires the earlier one too. Set it when you change `path`, together with `olderDomain`
   * if the domain changed as well, and remove it once the last earlier session has ended.
   */
  readonly olderPath?: string;
}

/** The names of the two session cookies. */
export interface CookieNames {
  readonly access: string;
  readonly refresh: string;
}

/** The resolved options. */
export interface CookiePlan {
  readonly names: CookieNames;
  /** The names that are read if no cookie came under `names`; undefined if there are none. */
  readonly otherNames: CookieNames | undefined;
  /** Whether both names have the prefix `__Host-`, so that only this host can have set them. */
  readonly hostOnly: boolean;
  readonly secure: boolean;
  readonly sameSite: "lax" | "strict" | "none";
  readonly partitioned: boolean;
  readonly domain: string | undefined;
  readonly path: string;
  /** Where earlier cookies are, which every write expires; undefined if there are none. */
  readonly older: CookiePlace | undefined;
}

/** Where a browser keeps a cookie: cookies of one name in different places are copies. */
export interface CookiePlace {
  /** Null for none, which is the host alone. */
  readonly domain: string | null;
  readonly path: string;
}

const known = {
  insecure: "boolean",
  sameSite: "string",
  partitioned: "boolean",
  names: "object",
  prefix: "string",
  otherPrefix: "string",
  domain: "string",
  path: "string",
  olderDomain: "string or null",
  olderPath: "string",
} as const satisfies Record<keyof CookieOptions, string>;

/** @throws TypeError if the options contradict each other, the issuer, or the rules of browsers */
export function readCookieOptions(issuer: URL, options: CookieOptions): CookiePlan {
  checkShape(options);
  const { insecure = false, sameSite = "lax", partitioned = false, domain, path = "/" } = options;
  checkSecurity(issuer, { insecure, sameSite, partitioned });
  if (domain !== undefined) {
    checkDomain("cookies.domain", domain, issuer);
  }
  checkPath("cookies.path", path);
  const bound = domain === undefined && path === "/";
  const isPrefixed = bound && !insecure && options.names === undefined;
  checkPrefixes(options, isPrefixed);
  const { prefix = "host-http", otherPrefix = "read" } = options;
  const given = prefixes[prefix];
  const unbound = insecure ? "" : "__Secure-";
  const names = options.names ?? defaultNames(isPrefixed ? given : unbound, issuer);
  const other = prefixes[prefix === "host" ? "host-http" : "host"];
  const otherNames = isPrefixed && otherPrefix === "read" ? defaultNames(other, issuer) : undefined;
  checkNames(names, { insecure, bound });
  const hostOnly = names.access.startsWith("__Host-");
  const older = readOlder(options, { issuer, domain, path, hostOnly });
  return {
    ...{ names, otherNames, hostOnly, sameSite, partitioned, domain, path, older },
    secure: !insecure,
  };
}

/** The prefixes of default names that belong to this host alone. */
const prefixes = { "host-http": "__Host-Http-", host: "__Host-" } as const;

function defaultNames(prefix: string, { hostname, port }: URL): CookieNames {
  const suffix = isLoopback(hostname) && port !== "" ? `-${port}` : "";
  return {
    access: `${prefix}rpcsession-access${suffix}`,
    refresh: `${prefix}rpcsession-refresh${suffix}`,
  };
}

/** @param isPrefixed whether the default names are used, with a prefix of the host alone */
function checkPrefixes({ prefix, otherPrefix }: CookieOptions, isPrefixed: boolean): void {
  if (prefix !== undefined && !Object.hasOwn(prefixes, prefix)) {
    throw new TypeError(`cookies.prefix must be "host-http" or "host", got "${prefix}"`);
  }
  if (otherPrefix !== undefined && !["read", "ignore"].includes(otherPrefix)) {
    throw new TypeError(`cookies.otherPrefix must be "read" or "ignore", got "${otherPrefix}"`);
  }
  if (!isPrefixed && (prefix ?? otherPrefix) !== undefined) {
    const option = prefix === undefined ? "otherPrefix" : "prefix";
    throw new TypeError(
      `cookies.${option} has no effect with cookies.names, domain, path or insecure, because the default names then have no prefix of the host alone; leave it out`,
    );
  }
}

function checkShape(options: CookieOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name)) {
      throw new TypeError(
        `unknown option "${name}" for cookies; the options are ${Object.keys(known).join(", ")}`,
      );
    }
    const type = known[name as keyof CookieOptions];
    const given = value === null ? "null" : typeof value;
    if (value !== undefined && !type.split(" or ").includes(given)) {
      throw new TypeError(`cookies.${name} must be of type ${type}, got ${given}`);
    }
  }
}

function checkSecurity(
  issuer: URL,
  {
    insecure,
    sameSite,
    partitioned,
  }: Required<Pick<CookieOptions, "insecure" | "sameSite" | "partitioned">>,
): void {
  if (insecure && issuer.protocol === "https:") {
    throw new TypeError("cookies.insecure cannot be combined with an https issuer; leave it out");
  }
  if (insecure && (sameSite === "none" || partitioned)) {
    throw new TypeError(
      "cookies.insecure cannot be combined with SameSite=None or Partitioned, which browsers accept only with Secure; leave it out",
    );
  }
  if (!["lax", "strict", "none"].includes(sameSite)) {
    throw new TypeError(`cookies.sameSite must be "lax", "strict" or "none", got "${sameSite}"`);
  }
  if (partitioned && sameSite !== "none") {
    throw new TypeError(
      `cookies.partitioned has no effect with SameSite=${sameSite}, because embedded pages do not receive such cookies; set sameSite: "none" too, or leave it out`,
    );
  }
}

/** Browsers drop a cookie whose domain does not match the host (RFC 6265bis section 5.7). */
function checkDomain(option: string, domain: string, issuer: URL): void {
  const { hostname } = issuer;
  const covers = hostname === domain || hostname.endsWith(`.${domain}`);
  if (!covers || !isDomainName(domain) || !isDomainName(hostname)) {
    throw new TypeError(
      `${option} must be the issuer's host ${hostname} or a parent domain of it, such as "example.com" without a leading dot, got ${JSON.stringify(domain)}`,
    );
  }
}

/** Whether browsers accept a host as a cookie domain: neither an IP address nor a single label. */
function isDomainName(host: string): boolean {
  return /^[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z][a-z0-9-]*$/.test(host);
}

/** Whether a host is this machine (RFC 6761 section 6.3). */
export function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}

/** Whether browsers accept a path. They ignore attributes of more than 1024 bytes. */
export function isCookiePath(path: string): boolean {
  return /^\/[!-:<-~]{0,1023}$/.test(path);
}

function checkPath(option: string, path: string): void {
  if (!isCookiePath(path)) {
    throw new TypeError(
      `${option} must begin with "/", contain no spaces or semicolons, and have at most 1024 characters, got ${JSON.stringify(path)}`,
    );
  }
}

function checkNames(
  names: CookieNames,
  { insecure, bound }: { readonly insecure: boolean; readonly bound: boolean },
): void {
  const { access, refresh } = names;
  const prefixes = [access, refresh].map((name) => {
    if (typeof name !== "string" || !/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,96}$/.test(name)) {
      throw new TypeError(
        `cookies.names: ${JSON.stringify(name)} is not a valid cookie name; use 1 to 96 letters, digits and hyphens`,
      );
    }
    return readPrefix(name);
  });
  if (access === refresh) {
    throw new TypeError(`cookies.names must differ, got "${access}" for both`);
  }
  const [prefix] = prefixes;
  if (prefix !== prefixes[1]) {
    throw new TypeError(
      `cookies.names must have the same prefix, got "${access}" and "${refresh}"`,
    );
  }
  if (insecure && prefix !== "") {
    throw new TypeError(
      `cookies.names: browsers accept "${access}" only with Secure; remove the prefix or cookies.insecure`,
    );
  }
  if (prefix === "__Host-" && !bound) {
    throw new TypeError(
      `cookies.names: browsers accept "${access}" only without a Domain and with Path=/; use the prefix __Secure-, or leave out cookies.domain and cookies.path`,
    );
  }
}

/**
 * Returns the prefix of a cookie name. Browsers ignore the case of prefixes, but the checks here do
 * not, so a prefix in another case is refused.
 */
function readPrefix(name: string): string {
  const prefix = /^__(?:host|secure|http)-/i.exec(name)?.[0] ?? "";
  if (!["", "__Host-", "__Secure-", "__Http-"].includes(prefix)) {
    throw new TypeError(
      `cookies.names: the prefix of "${name}" must be written as __Host- or __Secure-`,
    );
  }
  return prefix;
}

interface PresentCookies {
  readonly issuer: URL;
  readonly domain: string | undefined;
  readonly path: string;
  readonly hostOnly: boolean;
}

/** Reads where earlier cookies are: `olderDomain`, `olderPath`, or both. */
function readOlder(
  { olderDomain, olderPath }: CookieOptions,
  { issuer, domain, path, hostOnly }: PresentCookies,
): CookiePlace | undefined {
  if (olderDomain === undefined && olderPath === undefined) {
    return undefined;
  }
  const option = olderDomain === undefined ? "olderPath" : "olderDomain";
  if (hostOnly) {
    throw new TypeError(
      `cookies.${option} has no effect, because cookies with the prefix __Host- never have a domain or a path, and cookies of other names are not read; leave it out`,
    );
  }
  if (olderDomain !== undefined && olderDomain === (domain ?? null)) {
    throw new TypeError(
      "cookies.olderDomain is the domain that the cookies have now; set it to their earlier domain, or leave it out",
    );
  }
  if (olderPath !== undefined) {
    checkPath("cookies.olderPath", olderPath);
  }
  if (olderPath === path) {
    throw new TypeError(
      "cookies.olderPath is the path that the cookies have now; set it to their earlier path, or leave it out",
    );
  }
  if (typeof olderDomain === "string") {
    checkDomain("cookies.olderDomain", olderDomain, issuer);
  }
  return {
    domain: olderDomain === undefined ? (domain ?? null) : olderDomain,
    path: olderPath ?? path,
  };
}
