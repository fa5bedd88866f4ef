import { withoutCredentials } from "../base/checks.ts";
import { SessionError } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import { isLoopback } from "./cookie-options.ts";

/** The rule that decides which pages may send requests with cookies. */
export interface CrossSiteRule {
  readonly crossSite: "checked" | "unchecked";
  /** The exact origins whose pages may use cookies. */
  readonly origins: ReadonlySet<string>;
  readonly issuer: string;
  readonly emit: SessionEventListener;
}

/** The parts of a request that show which page sent it. */
interface PageRequest {
  readonly requestHeader: Headers;
  readonly requestMethod: string;
  /** The URL that the server received, maybe only a path. HTTP/2 names the host here, not in `Host`. */
  readonly url?: string | undefined;
}

/** @throws SessionError `forbidden` if a call with cookies comes from a page that may not send it */
export function checkCrossSite(rule: CrossSiteRule, request: PageRequest): void {
  if (!mayUseCookies(rule, request)) {
    throw crossSiteRefused(rule, request);
  }
}

/** Reports a cross-site request with cookies, and returns the error of its call. */
export function crossSiteRefused(rule: CrossSiteRule, request: PageRequest): SessionError {
  reportPage(rule, request);
  return new SessionError("forbidden", "CROSS_SITE", { message: pageRefused(rule, request) });
}

/** Reports a request of a page that may not use cookies. */
export function reportPage(rule: CrossSiteRule, { requestHeader }: PageRequest): void {
  const origin = requestHeader.get("origin");
  const advice =
    origin !== null && isOrigin(origin)
      ? `if the page is yours, add its origin to the option origins: ${shown(origin)}`
      : undefined;
  rule.emit({ type: "csrfRefused", check: "crossSite", origin, ...(advice && { advice }) });
}

/**
 * The message for a page that may not use cookies. In development, where the issuer is on this machine,
 * it names the option that is missing.
 */
export function pageRefused({ issuer }: CrossSiteRule, { requestHeader }: PageRequest): string {
  const message =
    "session cookies are accepted only from pages of this service's origins; call from such a page, or use tokens in headers";
  const origin = requestHeader.get("origin");
  return origin !== null && isOrigin(origin) && isLoopback(new URL(issuer).hostname)
    ? `${message}. In development: add ${shown(origin)}, the origin of this page, to the option origins of the server`
    : message;
}

/** An origin of a request, for messages. */
function shown(origin: string): string {
  return JSON.stringify(origin.slice(0, 100));
}

/** Whether the cookies of a request count: it comes from a page that may send them. */
export function mayUseCookies(rule: CrossSiteRule, request: PageRequest): boolean {
  return rule.crossSite === "unchecked" || isTrustedSite(rule, request);
}

/**
 * Whether a request with cookies comes from a page that may send it. Uses Fetch Metadata, with the
 * Origin header as the fallback that OWASP recommends, and for GET the Referer header after that.
 */
export function isTrustedSite(
  { origins, issuer }: Pick<CrossSiteRule, "origins" | "issuer">,
  { requestHeader: headers, requestMethod, url }: PageRequest,
): boolean {
  const site = headers.get("sec-fetch-site");
  const origin = headers.get("origin");
  if (origin !== null && origins.has(origin)) {
    return true;
  }
  if (site === "same-origin") {
    // A foreign origin contradicts Fetch Metadata, so that one of the two is false. The form of a page
    // with `Referrer-Policy: no-referrer` has the origin "null" (Fetch, "append a request Origin header").
    return (
      origin === null ||
      (origin === "null" && isNavigation(headers)) ||
      isOwnOrigin(origin, issuer, [headers.get("host"), hostOf(url)])
    );
  }
  if (requestMethod !== "GET" || origin !== null) {
    return false;
  }
  // Typed into the address bar: such a request has no page, and so no origin. Over plain http off
  // localhost, browsers send neither header with a GET of their own page, only the Referer; nor does
  // WebKit for a link with the attribute `download`. Pages cannot forge it.
  const referer = refererOrigin(headers);
  const isOwn =
    referer !== undefined && (origins.has(referer) || referer === new URL(issuer).origin);
  return site === "none" || (site === null && isOwn);
}

/**
 * Whether a browser opens a page with this request: a link, a redirect or a form of a whole tab. Frames,
 * images, scripts and `fetch` are not (Fetch Metadata, sections 2.1 and 2.2).
 */
function isNavigation(headers: Headers): boolean {
  return (
    headers.get("sec-fetch-mode") === "navigate" && headers.get("sec-fetch-dest") === "document"
  );
}

/** Whether a request opens a page and promises to change nothing (RFC 9110 section 9.2.1). */
export function isSafeNavigation({ requestHeader, requestMethod }: PageRequest): boolean {
  return isSafe(requestMethod) && !requestHeader.has("origin") && isNavigation(requestHeader);
}

function isSafe(requestMethod: string): boolean {
  return requestMethod === "GET" || requestMethod === "HEAD";
}

/** The option by which a service states that it has checked where a redirect comes from. */
export type AfterRedirect = "state-verified";

/** What a plain HTTP request is about to do. */
interface Change {
  /** The name of the method, for messages. */
  readonly method: string;
  readonly afterRedirect?: AfterRedirect | undefined;
}

/**
 * Checks that a plain HTTP request may sign a user in. Call it before anything changes.
 *
 * - A GET request may only after a redirect whose `state` the service has checked. Any page can send a
 *   browser to a URL, and so sign its user in to the account of somebody else (RFC 6749 section 10.12).
 * - After a redirect, the request must open a page. Browsers without Fetch Metadata do not tell; for
 *   them `state` alone decides.
 *
 * @returns whether the request follows a redirect, so that its page does not matter
 * @throws SessionError `forbidden`
 */
export function checkSignInRequest(
  rule: CrossSiteRule,
  request: PageRequest,
  change: Change,
): boolean {
  checkChange(rule, request, change);
  const { requestHeader: headers, requestMethod } = request;
  if (change.afterRedirect === undefined) {
    const isForm = isNavigation(headers) && requestMethod === "POST";
    if (requestMethod === "GET" || (isForm && !mayUseCookies(rule, request))) {
      throw changeRefused(
        rule,
        request,
        `${change.method}: ${requestMethod === "GET" ? "a GET request" : "a form of another site"} may sign in only in the callback of a redirect. There, compare state with the value kept for this browser and use PKCE, then pass afterRedirect: "state-verified". Elsewhere use POST from a page of this service`,
      );
    }
    return false;
  }
  const opensPage = !headers.has("sec-fetch-site") || isNavigation(headers);
  if (!opensPage || !["GET", "POST"].includes(requestMethod)) {
    throw changeRefused(
      rule,
      request,
      `${change.method}: afterRedirect accepts only GET and POST requests that open a page in a tab, not those of frames, images and scripts`,
    );
  }
  return true;
}

/**
 * Checks that a plain HTTP request may change anything. Browsers and frameworks prefetch pages, programs
 * look at links with HEAD, and a page shows images and frames that its users have chosen.
 * @throws SessionError `forbidden` for a HEAD request, a prefetch, and a GET request that a page embeds
 */
export function checkChange(rule: CrossSiteRule, request: PageRequest, { method }: Change): void {
  const { requestHeader, requestMethod } = request;
  const isPrefetch = ["sec-purpose", "purpose"].some((name) =>
    requestHeader.get(name)?.includes("prefetch"),
  );
  const target = requestHeader.get("sec-fetch-dest") ?? "document";
  const isEmbedded = requestMethod === "GET" && target !== "document" && target !== "empty";
  if (requestMethod === "HEAD" || isPrefetch || isEmbedded) {
    throw changeRefused(
      rule,
      request,
      `${method}: a HEAD request, a prefetch, an image or a frame changes nothing, because nobody has asked for it yet; use a form with POST`,
    );
  }
}

function changeRefused(
  rule: CrossSiteRule,
  { requestHeader }: PageRequest,
  message: string,
): SessionError {
  rule.emit({ type: "csrfRefused", check: "crossSite", origin: requestHeader.get("origin") });
  return new SessionError("forbidden", "CROSS_SITE", { message });
}

/** The origin of the page that the Referer header names (RFC 9110 section 10.1.3). */
function refererOrigin(headers: Headers): string | undefined {
  const referer = headers.get("referer");
  return referer !== null && URL.canParse(referer) ? new URL(referer).origin : undefined;
}

/**
 * Whether a page that claims the service's own origin can have it: that of the issuer or, if the
 * service has several names, that of the host that the request names. The host never vouches for a
 * request on its own.
 */
function isOwnOrigin(origin: string, issuer: string, hosts: readonly (string | null)[]): boolean {
  if (origin === new URL(issuer).origin) {
    return true;
  }
  const scheme = /^https?:\/\//.exec(origin)?.[0];
  // Proxies may write the port even if it is the default one.
  return hosts.some((host) => {
    const url = `${scheme}${host}`;
    return (
      scheme !== undefined && host !== null && URL.canParse(url) && new URL(url).origin === origin
    );
  });
}

/** Returns the host and port of a URL; null for a path. */
function hostOf(url: string | undefined): string | null {
  return url !== undefined && URL.canParse(url) ? new URL(url).host : null;
}

/**
 * Whether a browser sent a request. Over plain http browsers send no Fetch Metadata, but they do send
 * the origin of the page. The other `Sec-Fetch-*` headers show nothing: `fetch` of Node.js sends
 * `Sec-Fetch-Mode` as well.
 */
export function isFromBrowser(headers: Headers): boolean {
  return headers.has("sec-fetch-site") || headers.has("origin");
}

/**
 * Reads origins of pages, written as browsers send them (RFC 6454 section 6.2). Apps and extensions
 * have schemes of their own, as in "capacitor://localhost".
 *
 * @param option the name of the option, used in the message
 * @throws TypeError if an origin is written differently, and for "null", which any page can send
 */
export function readOrigins(option: string, origins: readonly string[]): ReadonlySet<string> {
  for (const origin of origins) {
    if (!isOrigin(origin)) {
      throw new TypeError(
        `${option}: ${JSON.stringify(withoutCredentials(origin))} is not an origin as browsers send it; use a value such as "https://app.example.com" or "capacitor://localhost", without a path or a trailing slash`,
      );
    }
  }
  return new Set(origins);
}

/** The special schemes of the URL standard. Only of these does `URL` compute the origin. */
const special: readonly string[] = ["http:", "https:", "ws:", "wss:", "ftp:", "file:"];

function isOrigin(text: string): boolean {
  if (!URL.canParse(text) || text.includes("*")) {
    return false;
  }
  const { origin, protocol } = new URL(text);
  // The origin of any other scheme is opaque in the URL standard, so `URL` calls it "null". Browsers
  // still send the scheme and the host, in the case that the app or extension has registered.
  return special.includes(protocol)
    ? origin === text
    : /^[a-z][a-z0-9+.-]*:\/\/[\w.~-]+(:\d{1,5})?$/.test(text);
}

/** The facts that determine which pages may use the session cookies. */
export interface CookieSite {
  readonly issuer: URL;
  readonly sameSite: "lax" | "strict" | "none" | undefined;
}

/**
 * Reads the origins whose pages may use cookies. Default: the issuer's origin only.
 * @throws TypeError for an origin from which browsers neither send nor store the cookies
 */
export function readPageOrigins(
  origins: readonly string[] | undefined,
  { issuer, sameSite = "lax" }: CookieSite,
): ReadonlySet<string> {
  const read = readOrigins("origins", origins ?? [issuer.origin]);
  const foreign = sameSite === "none" ? [] : [...read].filter((o) => isCrossSite(o, issuer));
  if (foreign.length > 0) {
    throw new TypeError(
      `origins: ${foreign.join(", ")} is not on the same site as ${issuer.origin}, so browsers neither store nor send cookies with SameSite=${sameSite}; serve the pages from the same site, or set cookies: { sameSite: "none", partitioned: true }`,
    );
  }
  return read;
}

/**
 * Whether a page is certainly on another site: it has another scheme, or its host shares fewer than
 * two labels. Only the public suffix list would show where the registrable domain begins. Whether an
 * app or an extension receives cookies depends on its web view and its permissions.
 */
function isCrossSite(origin: string, issuer: URL): boolean {
  const { protocol, hostname } = new URL(origin);
  if (!special.includes(protocol)) {
    return false;
  }
  const endOf = (host: string): string => host.split(".").slice(-2).join(".");
  return (
    protocol !== issuer.protocol ||
    (hostname !== issuer.hostname && endOf(hostname) !== endOf(issuer.hostname))
  );
}
