import { isCookiePath, isLoopback } from "../../request/cookie-options.ts";
import { type Finding, Findings } from "./findings.ts";
import { callSession, type RpcReply, sessionUrl, type Target } from "./rpc.ts";

/** An origin that no service lists; the name never resolves (RFC 6761 section 6.4). */
export const strangeOrigin = "https://rpc-session-doctor.invalid";

/** A session cookie as the service expires it, which shows its attributes. */
export interface SeenCookie {
  readonly name: string;
  /** The attributes in lower case; without a value "". */
  readonly attributes: ReadonlyMap<string, string>;
}

/** What the cookies show. */
export interface CookieLook {
  readonly findings: readonly Finding[];
  /** A request header with a refresh cookie that is not valid; undefined if its name is not known. */
  readonly header: string | undefined;
  /** The name of the access cookie; that of the default until it is known. */
  readonly accessName: string;
  readonly sameSite: "lax" | "strict" | "none";
}

/** What is assumed while nothing is known. */
export const unknownCookies: CookieLook = {
  findings: [],
  header: undefined,
  accessName: "__Host-Http-rpcsession-access",
  sameSite: "lax",
};

/**
 * Sends a refresh cookie that is not valid from a page of the service itself. The service expires its
 * cookies in the answer, and so shows their names and attributes without a sign-in.
 */
export async function lookAtCookies(target: Target, refused: RpcReply): Promise<CookieLook> {
  const found = new Findings("cookies");
  const tried = namesOf(target, refused);
  const header = tried.map((name) => `${name}=doctor`).join("; ");
  const reply = await callSession(target, "Refresh", {
    cookie: header,
    "sec-fetch-site": "same-origin",
  });
  if (reply.code === "unavailable") {
    const store = new Findings("store");
    store.fail(
      "The service cannot reach its store or its keys now: it answers Refresh as unavailable.",
      "Nobody can sign in or refresh.",
      "See the events of the service (onEvent, type failed), and sessions.health().",
    );
    return { ...unknownCookies, findings: store.list };
  }
  if (reply.reason === "CROSS_SITE") {
    found.fail(
      "A refresh with Sec-Fetch-Site: same-origin is refused as cross-site.",
      "A proxy removes this request header. Calls of a page without Origin are refused, such as GET.",
      "Let the proxy forward Sec-Fetch-Site, Origin and Host unchanged.",
    );
    return { ...unknownCookies, findings: found.list };
  }
  const cookies = writtenOf(reply.cookies.map(parseCookie), tried);
  if (cookies.length === 0) {
    reportNone(found, target, reply);
    return { ...unknownCookies, findings: found.list };
  }
  reportLines(found, reply.cookies, cookies);
  // The other copy of a cookie is in the other jar, with or without Partitioned.
  const byName = cookies.toSorted((a, b) => a.name.localeCompare(b.name));
  const shown = new Map(byName.toReversed().map((cookie) => [cookie.name, cookie]));
  for (const cookie of [...shown.values()].reverse()) {
    reportAttributes(found, target, cookie);
  }
  await reportCrossSite(found, target, header);
  const names = [...shown.keys()].sort();
  const seen = `The cookies ${names.join(" and ")} are set as browsers need them.`;
  return {
    findings: found.okIfNone(seen),
    header,
    accessName: names.find((name) => !tried.includes(name)) ?? unknownCookies.accessName,
    sameSite: sameSiteOf(cookies[0]),
  };
}

/** The names that the refresh cookie may have. */
function namesOf({ cookie }: Target, { hint }: RpcReply): readonly string[] {
  if (cookie !== undefined) {
    return [cookie];
  }
  const issuer = URL.canParse(hint?.realm ?? "") ? new URL(hint?.realm ?? "") : undefined;
  const port = issuer !== undefined && isLoopback(issuer.hostname) ? issuer.port : "";
  const suffix = port === "" ? "" : `-${port}`;
  const prefixes = ["__Host-Http-", "__Host-", "__Secure-", ""];
  return prefixes.map((prefix) => `${prefix}rpcsession-refresh${suffix}`);
}

/**
 * Leaves out refresh cookies that the service would not write. It expires every one that it reads, but
 * only the access cookie that it writes.
 */
function writtenOf(cookies: readonly SeenCookie[], tried: readonly string[]): SeenCookie[] {
  const access = cookies.find(({ name }) => !tried.includes(name))?.name;
  const refresh =
    tried.length === 1 || access === undefined
      ? cookies.find(({ name }) => tried.includes(name))?.name
      : access.replace("-access", "-refresh");
  return cookies.filter(({ name }) => !tried.includes(name) || name === refresh);
}

function reportNone(found: Findings, { cookie }: Target, { reason }: RpcReply): void {
  if (reason === "TOKEN_INVALID") {
    found.fail(
      "The service expires its cookies, but no Set-Cookie line arrives.",
      "A proxy removes Set-Cookie, so no browser can stay signed in.",
      "Let the proxy pass every Set-Cookie line on.",
    );
  } else if (cookie === undefined) {
    found.warn(
      "The service does not know a refresh cookie of the default names.",
      "It has names of its own (cookies.names), or a proxy removes Cookie. These cannot be told apart.",
      "Name the refresh cookie with --cookie, and run the doctor again.",
    );
  } else {
    found.fail(
      "The service does not see the refresh cookie that --cookie names.",
      "A proxy removes the request header Cookie, or the cookie has another name.",
      "Let the proxy forward Cookie, or compare the name with cookies.names.refresh.",
    );
  }
}

/** Reports lines that were lost or joined. The service expires two cookies, in two jars each. */
function reportLines(
  found: Findings,
  lines: readonly string[],
  cookies: readonly SeenCookie[],
): void {
  if (lines.some((line) => /,\s*[^=;,\s]*rpcsession-\w+[^=;,\s]*=/.test(line))) {
    found.fail(
      "Several Set-Cookie lines arrive joined in one line.",
      "Browsers read the first cookie only.",
      "Let the proxy pass each Set-Cookie line on as it is (RFC 9110 section 5.3).",
    );
  } else if (new Set(cookies.map(({ name }) => name)).size < 2) {
    found.fail(
      `Only ${lines.length} Set-Cookie ${lines.length === 1 ? "line arrives" : "lines arrive"}, for one cookie.`,
      "A sign-in sets two cookies. Without the refresh cookie, a session ends after 15 minutes.",
      "Let the proxy pass every Set-Cookie line on, not the first or the last alone.",
    );
  }
}

function reportAttributes(found: Findings, { url }: Target, cookie: SeenCookie): void {
  const { name, attributes } = cookie;
  const isLocal = isLoopback(url.hostname);
  const path = attributes.get("path");
  const domain = attributes.get("domain");
  const changed =
    "Or something on the way changes Set-Cookie (nginx: proxy_cookie_path, _domain, _flags).";
  if (attributes.has("secure") && url.protocol === "http:" && !isLocal) {
    found.fail(
      `The cookie ${name} is Secure, but ${url.origin} is plain http.`,
      "Browsers do not keep it.",
      "Serve https. In development, set cookies: { insecure: true }.",
    );
  }
  if (attributes.has("secure") && url.protocol === "http:" && isLocal) {
    found.warn(
      `The cookie ${name} is Secure, and ${url.origin} is plain http on this machine.`,
      "Chromium and Firefox keep it. Safari drops it.",
      "In development with Safari, set cookies: { insecure: true }.",
    );
  }
  if (!attributes.has("secure") && (url.protocol === "https:" || name.startsWith("__"))) {
    found.fail(
      `The cookie ${name} is not Secure.`,
      "Browsers send it over plain http too, and drop it if its name has a prefix.",
      `Use an https issuer and leave out cookies.insecure. ${changed}`,
    );
  }
  if (!attributes.has("httponly")) {
    found.fail(
      `The cookie ${name} is not HttpOnly, which the service always sets.`,
      "Scripts of the page can read the token.",
      "Let nothing on the way change Set-Cookie (nginx: proxy_cookie_flags).",
    );
  }
  if (name.startsWith("__Host-") && (domain !== undefined || path !== "/")) {
    found.fail(
      `The cookie ${name} has ${domain === undefined ? `Path=${path ?? ""}` : "a Domain"}.`,
      "Browsers drop a cookie with the prefix __Host- unless it has Path=/ and no Domain.",
      "The service sets neither. Remove what changes Set-Cookie (nginx: proxy_cookie_path, proxy_cookie_domain).",
    );
  } else if (
    path !== undefined &&
    isCookiePath(path) &&
    !covers(path, sessionUrl(url, "Refresh"))
  ) {
    found.fail(
      `The cookie ${name} has Path=${path}, which does not cover the RPCs below ${url.pathname}.`,
      "Browsers do not send it with calls.",
      `Set cookies: { path: "${url.pathname}" }, or leave cookies.path out. ${changed}`,
    );
  }
  if (domain !== undefined && !isWithin(url.hostname, domain)) {
    found.fail(
      `The cookie ${name} has the Domain ${domain}, to which ${url.hostname} does not belong.`,
      "Browsers drop it.",
      `Set cookies.domain to a parent domain of ${url.hostname}, or leave it out. ${changed}`,
    );
  } else if (domain !== undefined) {
    found.warn(
      `The cookie ${name} has the Domain ${domain}.`,
      "Every host of that domain receives the tokens and can plant cookies.",
      "Leave out cookies.domain, unless several hosts need the cookies.",
    );
  }
  if (!attributes.has("samesite")) {
    found.fail(
      `The cookie ${name} has no SameSite, which the service always sets.`,
      "Browsers guess it, each in its own way.",
      "Let nothing on the way change Set-Cookie.",
    );
  }
}

/** Whether a browser sends a cookie of a path with a request (RFC 6265 section 5.1.4). */
function covers(path: string, { pathname }: URL): boolean {
  return pathname === path || pathname.startsWith(path.endsWith("/") ? path : `${path}/`);
}

function isWithin(host: string, domain: string): boolean {
  const parent = domain.replace(/^\./, "").toLowerCase();
  return host === parent || host.endsWith(`.${parent}`);
}

/** Asks with cookies as pages would, and reports whether other sites are refused, and the own one not. */
async function reportCrossSite(found: Findings, target: Target, cookie: string): Promise<void> {
  const ask = async (origin: string, site: string) => {
    const headers = { cookie, origin, "sec-fetch-site": site };
    return (await callSession(target, "Refresh", headers)).reason;
  };
  const refusesOthers = (await ask(strangeOrigin, "cross-site")) === "CROSS_SITE";
  if (!refusesOthers) {
    found.warn(
      "A page of any other site may use the session cookies.",
      "Such a page can make calls in the name of a signed-in user (CSRF), as far as SameSite allows.",
      'Leave out crossSite: "unchecked", and list the pages that may call in origins.',
    );
  } else if ((await ask(strangeOrigin, "same-origin")) !== "CROSS_SITE") {
    found.fail(
      "The request header Origin does not reach the service.",
      "The service cannot tell which page calls. Pages on other origins are refused.",
      "Let the proxy forward Origin unchanged.",
    );
  } else if ((await ask(target.url.origin, "same-origin")) === "CROSS_SITE") {
    found.fail(
      `Pages of ${target.url.origin} itself are refused as cross-site.`,
      "The service sees another Host than the page, and the origin is not that of the issuer.",
      `Let the proxy forward Host (nginx: proxy_set_header Host $host), or set origins: ["${target.url.origin}"].`,
    );
  }
}

function parseCookie(line: string): SeenCookie {
  const [pair = "", ...rest] = line.split(";");
  const attributes = rest.map((part): [string, string] => {
    const [name = "", value = ""] = part.trim().split("=");
    return [name.toLowerCase(), value];
  });
  return { name: pair.split("=", 1)[0] ?? "", attributes: new Map(attributes) };
}

function sameSiteOf(cookie: SeenCookie | undefined): CookieLook["sameSite"] {
  const value = cookie?.attributes.get("samesite")?.toLowerCase();
  return value === "none" || value === "strict" ? value : "lax";
}
