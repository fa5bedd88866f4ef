/** How the session cookies are written. */
export interface CookieOptions {
  /**
   * For development over plain http: drops `Secure` and the name's prefix, which then also cannot
   * stop a sibling host from planting cookies. Default false.
   */
  readonly insecure?: boolean;
  /**
   * Default "lax". "none" is for services called from pages of another site; browsers may still
   * keep such cookies from them unless they are `partitioned`.
   */
  readonly sameSite?: "lax" | "strict" | "none";
  /** One jar per embedding site (CHIPS), for `sameSite: "none"` alone. Default false. */
  readonly partitioned?: boolean;
  /**
   * What the cookies are called, with their prefix (RFC 6265bis section 4.1.3): at most 96 characters.
   * Default `__Host-rpcsession-access` and `__Host-rpcsession-refresh`; with a `domain` or a `path`
   * `__Secure-` in the place of `__Host-`, and no prefix where they are `insecure`.
   */
  readonly names?: CookieNames;
  /**
   * The domain whose hosts all get the cookies: the issuer's host or a parent of it, such as
   * "example.com". Any of these hosts can then read the cookies and plant others. Default none: the
   * issuer's host alone.
   */
  readonly domain?: string;
  /**
   * Where the cookies are sent: paths that begin with it. It must cover the service and
   * SessionService, as the `requestPathPrefix` of an adapter does. No protection from other paths of
   * the host. Default "/".
   */
  readonly path?: string;
  /**
   * The `domain` that cookies of the same names had before it was changed; null for none. Whatever
   * writes or expires a session cookie then expires the older one too. Leave it out again when the
   * last session from before has ended.
   */
  readonly olderDomain?: string | null;
}

/** The names of the two session cookies. */
export interface CookieNames {
  readonly access: string;
  readonly refresh: string;
}

/** The options, checked and resolved. */
export interface CookiePlan {
  readonly names: CookieNames;
  /** Whether both names have the prefix `__Host-`: then only this host can have set them. */
  readonly hostOnly: boolean;
  readonly secure: boolean;
  readonly sameSite: "lax" | "strict" | "none";
  readonly partitioned: boolean;
  readonly domain: string | undefined;
  readonly path: string;
  /** Whose cookies every write expires; undefined when there are none from before. */
  readonly olderDomain: string | null | undefined;
}

const known = {
  insecure: "boolean",
  sameSite: "string",
  partitioned: "boolean",
  names: "object",
  domain: "string",
  path: "string",
  olderDomain: "string or null",
} as const satisfies Record<keyof CookieOptions, string>;

/** @throws TypeError when the options contradict each other, the issuer, or what browsers take */
export function readCookieOptions(issuer: URL, options: CookieOptions): CookiePlan {
  checkShape(options);
  const { insecure = false, sameSite = "lax", partitioned = false, domain, path = "/" } = options;
  checkSecurity(issuer, { insecure, sameSite, partitioned });
  if (domain !== undefined) {
    checkDomain("cookies.domain", domain, issuer);
  }
  checkPath(path);
  const bound = domain === undefined && path === "/";
  const prefix = insecure ? "" : bound ? "__Host-" : "__Secure-";
  const names = options.names ?? {
    access: `${prefix}rpcsession-access`,
    refresh: `${prefix}rpcsession-refresh`,
  };
  checkNames(names, { insecure, bound });
  const hostOnly = names.access.startsWith("__Host-");
  const { olderDomain } = options;
  checkOlderDomain(olderDomain, { issuer, domain, hostOnly });
  return {
    ...{ names, hostOnly, sameSite, partitioned, domain, path, olderDomain },
    secure: !insecure,
  };
}

function checkShape(options: CookieOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name)) {
      throw new TypeError(`cookies: there is no option "${name}"`);
    }
    const type = known[name as keyof CookieOptions];
    if (
      value !== undefined &&
      !type.split(" or ").includes(value === null ? "null" : typeof value)
    ) {
      throw new TypeError(`cookies.${name}: must be of type ${type}`);
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
  if (partitioned && sameSite !== "none") {
    throw new TypeError(
      `cookies.partitioned: no embedded page gets cookies with SameSite=${sameSite}; set sameSite: "none" too, or leave it out`,
    );
  }
}

/** Browsers drop cookies of a domain that does not match the host (RFC 6265bis section 5.7). */
function checkDomain(option: string, domain: string, issuer: URL): void {
  const { hostname } = issuer;
  const covers = hostname === domain || hostname.endsWith(`.${domain}`);
  if (!covers || !isDomainName(domain) || !isDomainName(hostname)) {
    throw new TypeError(
      `${option}: ${JSON.stringify(domain)} must be the host of the issuer, ${hostname}, or a parent domain of it such as "example.com", without a dot before it`,
    );
  }
}

/** No address, and no single label: browsers take neither as a domain. */
function isDomainName(host: string): boolean {
  return /^[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z][a-z0-9-]*$/.test(host);
}

function checkPath(path: string): void {
  // Browsers ignore attributes of more than 1024 bytes.
  if (!/^\/[!-:<-~]{0,1023}$/.test(path)) {
    throw new TypeError(
      `cookies.path: ${JSON.stringify(path)} must begin with "/", without spaces and semicolons, and have at most 1024 characters`,
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
        `cookies.names: ${JSON.stringify(name)} is no name for a cookie: 1 to 96 letters, digits and hyphens`,
      );
    }
    return readPrefix(name);
  });
  if (access === refresh) {
    throw new TypeError(`cookies.names: both are "${access}"; give each its own`);
  }
  const [prefix] = prefixes;
  if (prefix !== prefixes[1]) {
    throw new TypeError(`cookies.names: "${access}" and "${refresh}" need the same prefix`);
  }
  if (insecure && prefix !== "") {
    throw new TypeError(
      `cookies.names: browsers take "${access}" with Secure only; drop the prefix, or cookies.insecure`,
    );
  }
  if (prefix === "__Host-" && !bound) {
    throw new TypeError(
      `cookies.names: browsers take "${access}" without a Domain and with Path=/ only; write __Secure-, or leave out cookies.domain and cookies.path`,
    );
  }
}

/** Browsers look for prefixes in any case, so that one in another case would bind and not be seen. */
function readPrefix(name: string): string {
  const prefix = /^__(?:host|secure|http)-/i.exec(name)?.[0] ?? "";
  if (!["", "__Host-", "__Secure-", "__Http-"].includes(prefix)) {
    throw new TypeError(`cookies.names: write the prefix of "${name}" as __Host- or __Secure-`);
  }
  return prefix;
}

interface Present {
  readonly issuer: URL;
  readonly domain: string | undefined;
  readonly hostOnly: boolean;
}

function checkOlderDomain(
  olderDomain: string | null | undefined,
  { issuer, domain, hostOnly }: Present,
): void {
  if (olderDomain === undefined) {
    return;
  }
  if (hostOnly) {
    throw new TypeError(
      "cookies.olderDomain: cookies with the prefix __Host- never had a domain, and those of other names are not read; leave it out",
    );
  }
  if (olderDomain === (domain ?? null)) {
    throw new TypeError(
      "cookies.olderDomain: that is what the cookies have now; give the domain from before, or leave it out",
    );
  }
  if (olderDomain !== null) {
    checkDomain("cookies.olderDomain", olderDomain, issuer);
  }
}
