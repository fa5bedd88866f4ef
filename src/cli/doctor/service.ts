import { isLoopback } from "../../request/cookie-options.ts";
import { type Finding, Findings } from "./findings.ts";
import { callSession, isPage, type RpcReply, type Target } from "./rpc.ts";
import { causeOf } from "./wire.ts";

/** What the first call shows. */
interface FirstLook {
  readonly findings: readonly Finding[];
  /** The refusal of a call without a session; undefined if there is no use in further calls. */
  readonly refused: RpcReply | undefined;
}

/** Calls SessionService without a session, which it must refuse. */
export async function lookAtService(target: Target): Promise<FirstLook> {
  const found = new Findings("service");
  let reply: RpcReply;
  try {
    reply = await callSession(target, "GetSession");
  } catch (error) {
    found.fail(
      `There is no connection to ${target.url.origin}: ${causeOf(error)}.`,
      "No client can call the service.",
      certificateAdvice(error) ??
        "Check the address, the port, the firewall, and that the service runs.",
    );
    return { findings: found.list, refused: undefined };
  }
  const isRefusal = reply.code === "unauthenticated" && reply.hint !== undefined;
  if (!isRefusal) {
    reportOther(found, target, reply);
    return { findings: found.list, refused: undefined };
  }
  return { findings: found.okIfNone("SessionService answers over Connect."), refused: reply };
}

function certificateAdvice(error: unknown): string | undefined {
  const code = (error as { readonly code?: unknown }).code;
  return typeof code === "string" && /CERT|SIGNATURE|TLS|ALTNAME/.test(code)
    ? "Mend the certificate: its names, its chain and its dates. For a CA of your own, set NODE_EXTRA_CA_CERTS."
    : undefined;
}

/** Reports an answer that is not the refusal of SessionService. */
function reportOther(found: Findings, { url }: Target, reply: RpcReply): void {
  const { status } = reply;
  if (status >= 300 && status < 400) {
    const to = reply.header("location");
    found.fail(
      `The address redirects calls (status ${status})${to === undefined ? "" : ` to ${withoutQuery(to, url)}`}.`,
      "The client refuses redirects, because they would carry tokens elsewhere.",
      "Use the address that it redirects to as baseUrl, or serve the RPCs without a redirect.",
    );
  } else if (reply.isRpc && reply.code === undefined) {
    found.fail(
      "GetSession succeeds without a session.",
      "The gate of rpc-session does not run, so methods that need a session answer anybody.",
      "Pass the adapter the options that sessions.protect({ routes }) returns, and use Connect 2.2 or newer.",
    );
  } else if (reply.code === "unauthenticated") {
    found.fail(
      "Calls are refused as unauthenticated, but not by rpc-session: the error has no RefreshHint.",
      "The client does not learn whether to refresh or to sign in.",
      "Let sessions.protect({ routes }) add the interceptor and the gate. If a proxy or an interceptor of your own asks for credentials first, exempt SessionService.",
    );
  } else if (reply.code === "unimplemented" || (status === 404 && !isPage(reply))) {
    found.fail(
      `SessionService is not served below ${url.href} (status ${status}).`,
      "Clients cannot refresh, so every session ends for them after 15 minutes.",
      "Serve the routes through sessions.protect({ routes }), which adds SessionService. If a framework owns the routes, register it there with sessions.register(router). If the RPCs have a prefix (requestPathPrefix), add it to the address.",
    );
  } else if (isPage(reply)) {
    found.fail(
      `A web page answers the call (status ${status}), not the service.`,
      "A proxy or a web server does not pass these paths on to the service, or cannot reach it.",
      status >= 500
        ? "Check that the service runs, and the address that the proxy forwards to."
        : "Forward the paths /rpcsession.v1.SessionService/ and those of your own services to the service.",
    );
  } else {
    found.fail(
      `The answer has status ${status}${reply.code === undefined ? " and is no RPC" : ` and the code "${reply.code}"`}.`,
      "SessionService refuses a call without a session as unauthenticated. Something else answers here.",
      "Check the address, and what stands in front of the service. An interceptor of your own must let SessionService through.",
    );
  }
}

/** Location without a query, which may hold secrets. */
function withoutQuery(location: string, base: URL): string {
  const to = URL.canParse(location, base) ? new URL(location, base) : undefined;
  return to === undefined ? "another address" : `${to.origin}${to.pathname}`;
}

/** Compares the issuer with the address. */
export function lookAtIssuer({ url }: Target, { hint }: RpcReply): readonly Finding[] {
  const found = new Findings("issuer");
  const text = hint?.realm ?? "";
  const issuer = URL.canParse(text) ? new URL(text) : undefined;
  if (issuer === undefined) {
    found.fail(
      "The refusal names no issuer.",
      "The client tells services apart by their issuer.",
      "Check that nothing changes the error details on their way.",
    );
    return found.list;
  }
  const isLocal = isLoopback(issuer.hostname);
  if (issuer.protocol === "http:" && !isLocal) {
    found.fail(
      `The issuer is ${text}, over plain http.`,
      "Everybody on the way can read tokens, and browsers keep no Secure cookies.",
      'Serve the service over TLS, and set issuer to its address: issuer: "https://…".',
    );
  } else if (url.protocol === "http:" && !isLoopback(url.hostname)) {
    found.fail(
      `The address ${url.origin} is plain http.`,
      "Everybody on the way can read tokens, and browsers keep no Secure cookies.",
      "Let clients use https. Redirect nothing: close the port, or answer with an error.",
    );
  } else if (issuer.host !== url.host && !isLoopback(url.hostname)) {
    found.warn(
      `The issuer is ${text}, but the address is ${url.origin}.`,
      "The issuer is the address that clients see. Cookies and the cross-site check follow from it.",
      `If clients use ${url.origin}, set issuer: "${url.origin}" and name the present one in olderIssuers. If they use ${issuer.origin}, check that one.`,
    );
  }
  return found.okIfNone(`The issuer is ${text}.`);
}

/** The difference that a verifier tolerates by default, in milliseconds: the option `clockSkew`. */
const maxSkew = 60_000;
/** The difference that is worth a look. The header `Date` has whole seconds. */
const visibleSkew = 10_000;

/** Compares the server's clock with ours. */
export function lookAtClock(reply: RpcReply): readonly Finding[] {
  const found = new Findings("clock");
  const date = Date.parse(reply.header("date") ?? "");
  if (Number.isNaN(date)) {
    found.ok("The response has no Date header, so the clock cannot be compared.");
    return found.list;
  }
  // The header has whole seconds, so its middle is half a second later.
  const skew = date + 500 - reply.at;
  const seconds = Math.round(Math.abs(skew) / 1000);
  const seen = `The clock of the server is ${seconds} s ${skew > 0 ? "ahead of" : "behind"} this machine's.`;
  const why =
    "Services that verify tokens refuse those from the future. They allow for clockSkew, 60 s at most.";
  const mend = "Synchronize both clocks, with NTP for example. Find out first which one is wrong.";
  if (Math.abs(skew) > maxSkew) {
    found.fail(seen, why, mend);
  } else if (Math.abs(skew) > visibleSkew) {
    found.warn(seen, why, mend);
  }
  return found.okIfNone("The clock of the server agrees with this machine's.");
}

/** Looks for response headers that something on the way has removed, and for requests that lose theirs. */
export async function lookAtHeaders(
  target: Target,
  refused: RpcReply,
): Promise<readonly Finding[]> {
  const found = new Findings("headers");
  if (refused.header("rpcsession-hint") === undefined) {
    found.fail(
      "The response header rpcsession-hint is missing, although the error has a RefreshHint.",
      "A proxy removes the rpcsession-* response headers. Clients with tokens in headers cannot sign in.",
      "Pass all response headers on: rpcsession-hint, rpcsession-session, rpcsession-csrf, rpcsession-access-token, rpcsession-refresh-token and rpcsession-heartbeat.",
    );
  }
  if (!/no-store/.test(refused.header("cache-control") ?? "")) {
    found.fail(
      "The response lacks Cache-Control: no-store, which the service sends.",
      "A shared cache may give the answer, and the cookies of one user, to another.",
      "Let the proxy pass Cache-Control on, and cache no RPC. If an interceptor sets the header, leave it out.",
    );
  }
  if (refused.header("www-authenticate") === undefined) {
    found.warn(
      "The response header WWW-Authenticate is missing.",
      "Clients in other languages read it to learn that a token was refused (RFC 6750).",
      "Let the proxy pass it on.",
    );
  }
  const withToken = await callSession(target, "GetSession", { authorization: "Bearer doctor" });
  if (withToken.reason === "SESSION_MISSING") {
    found.fail(
      "The request header Authorization does not reach the service.",
      "Clients with tokens in headers, such as apps, are never signed in.",
      "Let the proxy forward Authorization unchanged.",
    );
  } else if (!withToken.isRpc) {
    found.fail(
      `A request with a bearer token is answered by something else (status ${withToken.status}).`,
      "Something in front of the service checks Authorization itself.",
      "Let the proxy forward Authorization unchanged, without checking it.",
    );
  }
  return found.okIfNone("All headers of a refusal arrive, and Authorization reaches the service.");
}

/** Looks at the limits on the way: the longest token that is valid, and the longest message. */
export async function lookAtLimits(target: Target): Promise<readonly Finding[]> {
  const found = new Findings("limits");
  const long = await attempt(() =>
    // A little less than the longest token, 8192 characters.
    callSession(target, "GetSession", { authorization: `Bearer ${"x".repeat(8000)}` }),
  );
  if (long?.code === undefined) {
    found.fail(
      `A request with 8 KB of headers is refused on its way${long === undefined ? "" : ` (status ${long.status})`}.`,
      "A session with many claims has tokens of up to 8 KB. Its calls would fail.",
      "Raise the limit of the proxy for request headers (nginx: large_client_header_buffers 4 16k), or keep claims small.",
    );
  }
  const body = JSON.stringify({ refreshToken: "x".repeat(6000) });
  const large = await attempt(() => callSession(target, "Refresh", {}, body));
  if (large?.reason === "TOKEN_INVALID") {
    found.warn(
      "SessionService reads messages of more than 4 KiB.",
      "Anybody may call Refresh, so anybody can make the service read large messages.",
      "Let sessions.protect or sessions.register add SessionService, or register it with sessions.serviceOptions.",
    );
  }
  return found.okIfNone("Headers of 8 KB arrive, and SessionService reads short messages only.");
}

async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch {
    return undefined;
  }
}
