/**
 * Whether a request that carries cookies was made by a page that may make it (Fetch Metadata, with
 * the Origin header as the fallback that OWASP demands).
 *
 * @param origins exact serialized origins, such as "https://app.example.com"
 */
export function isTrustedSite(
  headers: Headers,
  method: string,
  origins: ReadonlySet<string>,
): boolean {
  const site = headers.get("sec-fetch-site");
  if (site === "same-origin" || (site === "none" && method === "GET")) {
    return true;
  }
  const origin = headers.get("origin");
  return origin !== null && origins.has(origin);
}

/**
 * Origins of pages, as browsers send them (RFC 6454 section 6.2).
 * @param option the name of the option, for the message
 * @throws TypeError when one is not written as browsers send it
 */
export function readOrigins(option: string, origins: readonly string[]): ReadonlySet<string> {
  for (const origin of origins) {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin || origin.includes("*")) {
      throw new TypeError(
        `${option}: ${JSON.stringify(origin)} is not how a browser sends an origin; write it like "https://app.example.com", without path or slash at the end`,
      );
    }
  }
  return new Set(origins);
}

/** What decides which pages browsers let use the session cookies. */
export interface CookiePlace {
  readonly issuer: URL;
  readonly sameSite: "lax" | "strict" | "none" | undefined;
}

/**
 * The origins whose pages may use cookies. Default: the issuer's alone.
 * @throws TypeError for one that browsers would send no cookies from, or store none for
 */
export function readPageOrigins(
  origins: readonly string[] | undefined,
  { issuer, sameSite = "lax" }: CookiePlace,
): ReadonlySet<string> {
  const read = readOrigins("origins", origins ?? [issuer.origin]);
  const foreign = sameSite === "none" ? [] : [...read].filter((o) => isCrossSite(o, issuer));
  if (foreign.length > 0) {
    throw new TypeError(
      `origins: pages of ${foreign.join(", ")} are of another site than ${issuer.origin}, where browsers neither keep nor send cookies with SameSite=${sameSite}; serve them from the same site, or set cookies: { sameSite: "none", partitioned: true }`,
    );
  }
  return read;
}

/**
 * Whether a page is surely of another site: another scheme, or another host that shares less than two
 * labels. Where the registrable domain begins, only the public suffix list could tell.
 */
function isCrossSite(origin: string, issuer: URL): boolean {
  const { protocol, hostname } = new URL(origin);
  const endOf = (host: string): string => host.split(".").slice(-2).join(".");
  return (
    protocol !== issuer.protocol ||
    (hostname !== issuer.hostname && endOf(hostname) !== endOf(issuer.hostname))
  );
}
