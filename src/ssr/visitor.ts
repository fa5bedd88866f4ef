import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { assertMembers, type Duration, durationMs } from "../base/checks.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import { decodeNotice, header } from "../base/wire.ts";
import {
  cookieTokens,
  createSessionClient,
  type SessionCallOptions,
  type SessionClient,
  type SessionClientEventListener,
  type SessionState,
  type TransportParts,
} from "../client/index.ts";
import type { CookieNames } from "../request/cookie-options.ts";
import { isTrustedSite, readOrigins } from "../request/origins.ts";
import { type CookieToSet, VisitorCookies } from "./cookies.ts";

/** The request of a visitor: a `Request`, or the parts of it that a framework shows. */
export interface VisitorRequest {
  /** The headers as the browser sent them, such as `request.headers` or `await headers()` of Next.js. */
  readonly headers: Pick<Headers, "get" | "has">;
  /** The HTTP method. Where a framework does not show it, the `Origin` header tells. */
  readonly method?: string;
}

/** Options of {@link createVisitor}. Create them once; they hold nothing of a visitor. */
export interface VisitorOptions {
  /**
   * Creates a transport to the service: `(parts) => createConnectTransport({ baseUrl, ...parts })`. The
   * address may be an internal one. It is called twice for each visitor.
   */
  readonly transport: (parts: TransportParts) => Transport;
  /**
   * The origin of the pages that this server renders, as browsers show it: "https://app.example.com".
   * The service must list it in `origins`, or be on the same origin. Calls carry it, because the
   * service accepts cookies only from pages of its origins.
   */
  readonly origin: string;
  /**
   * Headers that every call carries. Use them for what the service shall know about the visitor, such
   * as the address: `{ "x-visitor-ip": address }`. The user agent is passed on without them. Default: none.
   */
  readonly headers?: Readonly<Record<string, string>>;
  /** The option `cookies.names` of the service, if it has that. Default: the default names. */
  readonly cookieNames?: CookieNames;
  /**
   * How long after the visitor's request the session may be refreshed; from `"100ms"` to `"60s"`. The
   * option `refresh.clientTimeout` of the service must not be shorter. Default `"10s"`.
   */
  readonly refreshTimeout?: Duration;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
  /** Receives the events of the visitor's session. Errors that it throws are ignored. Default: none. */
  readonly onEvent?: SessionClientEventListener;
}

const members: Readonly<Record<keyof VisitorOptions, 0>> = {
  ...{ transport: 0, origin: 0, headers: 0, cookieNames: 0 },
  ...{ refreshTimeout: 0, clock: 0, onEvent: 0 },
};

/**
 * Creates a visitor: a client that acts for the sender of one request, while this server answers it. Two
 * requests never share a visitor, so no visitor gets the data of another one.
 *
 * ```ts
 * const visitor = createVisitor(request, options);
 * await visitor.refreshIfDue();
 * const { notes } = await createClient(NotesService, visitor.transport).listNotes({});
 * const response = new Response(render(notes), { headers: { "content-type": "text/html" } });
 * visitor.writeTo(response.headers);
 * ```
 *
 * @param request the request as the browser sent it. Create the visitor when the request arrives
 * @throws TypeError for invalid options, and for a request without headers
 */
export function createVisitor(request: VisitorRequest, options: VisitorOptions): Visitor {
  return new Visitor(request, options);
}

/** A client that acts for the sender of one request. {@link createVisitor} makes it. */
export class Visitor {
  readonly #cookies: VisitorCookies;
  readonly #client: SessionClient;
  readonly #clock: Clock;
  /** The headers of every call. */
  readonly #headers: Headers;
  /** How long the refresh cookie of the request may be used, in milliseconds. */
  readonly #goodFor: number;
  readonly #since: number;
  #hasSignedIn = false;

  /** @internal */
  constructor(request: VisitorRequest, options: VisitorOptions) {
    assertMembers("createVisitor", options, members);
    if (typeof request?.headers?.get !== "function") {
      throw new TypeError(
        `createVisitor: the first argument must be a fetch Request, or an object with its Headers, got ${typeof request}; in Node.js and Express pass { headers: exchange.requestHeader, method: req.method } with exchange = fromNode(req, res) of rpc-session/http`,
      );
    }
    const { transport, refreshTimeout = "10s", clock = systemClock, onEvent } = options;
    if (typeof transport !== "function") {
      throw new TypeError(
        `transport must be a function such as (parts) => createConnectTransport({ baseUrl, ...parts }), got ${typeof transport}`,
      );
    }
    this.#cookies = new VisitorCookies(request.headers.get("cookie"), options.cookieNames);
    this.#headers = new Headers({ ...pageHeaders(request, options.origin), ...options.headers });
    this.#goodFor = durationMs("refreshTimeout", refreshTimeout, { min: 100, max: 60_000 });
    this.#clock = clock;
    this.#since = clock.monotonic();
    const carry = this.#carry();
    this.#client = createSessionClient({
      transport: (parts) =>
        transport({
          // Read late, because the client checks whether the application's function reads them.
          get interceptors() {
            return [...parts.interceptors, carry];
          },
          ...(parts.fetch && { fetch: sendUncached }),
        }),
      // This server has no tabs, and its visitors must not hear of each other.
      tokens: { ...cookieTokens(), isAlone: true },
      ...{ refreshTimeout, clock, ...(onEvent && { onEvent }) },
    });
  }

  /**
   * The transport for `createClient(Service, visitor.transport)`. Its calls carry the session cookies of
   * the request. A call that is refused because the access token has expired is sent again after a
   * refresh.
   *
   * If another site caused the request, calls say so, and the service refuses the cookies. Links from
   * other sites to a page are the exception: they are GET requests, and must change nothing.
   */
  get transport(): Transport {
    return this.#client.transport;
  }

  /** Whether there are session cookies, so that the visitor is probably signed in. */
  get hasSession(): boolean {
    return !this.#cookies.isEmpty;
  }

  /**
   * The `Set-Cookie` lines for the response, such as those of a refresh. Where a response cannot set
   * cookies, as while a React server component renders, leave them: the session continues.
   */
  get setCookies(): readonly string[] {
    return this.#cookies.lines;
  }

  /**
   * The same for frameworks that set cookies by a function: `name`, `value` and `options`. They keep one
   * cookie of each name, so prefer the lines where you can write headers.
   */
  get cookies(): readonly CookieToSet[] {
    return this.#cookies.toSet();
  }

  /**
   * The `Cookie` header to render with, if a middleware refreshes and something behind it renders: that
   * of the request, with the new access token.
   */
  get cookieHeader(): string {
    return this.#cookies.all;
  }

  /**
   * Adds the `Set-Cookie` lines to the headers of a response. If there are any, it also sets
   * `Cache-Control: no-store`, so that no cache gives the cookies to another visitor.
   */
  writeTo(responseHeaders: Headers): void {
    for (const line of this.setCookies) {
      responseHeaders.append("set-cookie", line);
    }
    if (this.setCookies.length > 0) {
      responseHeaders.set("cache-control", "no-store");
    }
  }

  /**
   * Refreshes the session if 80 % of the life of its access token is over; otherwise it does nothing.
   * Call it before the response begins, so that the cookies can be handed back. If the session cannot be
   * refreshed now, or has ended, the calls that need it will say so.
   *
   * @throws ConnectError if the service refuses for another reason, such as an origin that it does not
   *   list
   */
  async refreshIfDue(): Promise<void> {
    if (!this.hasSession || !this.#cookies.isDue(this.#clock.now())) {
      return;
    }
    try {
      await this.#client.refresh();
    } catch (error) {
      if (!expected.has(ConnectError.from(error).code)) {
        throw error;
      }
    }
  }

  /**
   * Finds out who the visitor is: the `initialState` of the provider of `rpc-session/react`. It makes one
   * call at most, and none without session cookies or if an answer has told already. An expired access
   * token is refreshed by the same call.
   *
   * @returns the state: `signedIn` with the user and the claims that the service shows, or `signedOut`
   * @throws ConnectError as `load` of the session client does
   */
  async load(options: SessionCallOptions = {}): Promise<SessionState> {
    return this.hasSession ? await this.#client.load(options) : { status: "signedOut" };
  }

  /**
   * Ends the session. The `Set-Cookie` lines remove its cookies.
   *
   * @throws ConnectError if the service could not be reached
   */
  async signOut(options: SessionCallOptions = {}): Promise<void> {
    await this.#client.signOut(options);
  }

  /** The innermost interceptor: it writes and reads cookies, as the fetch of a browser does. */
  #carry(): Interceptor {
    return (next) => async (request) => {
      // 1. A refresh must reach the service in time. Later, the browser may have a newer token, and the
      //    one of the request would look stolen.
      const left = this.#goodFor - (this.#clock.monotonic() - this.#since);
      const isRefresh = procedureOf(request.method) === procedureOf(SessionService.method.refresh);
      if (isRefresh && (left <= 0 || this.#hasSignedIn)) {
        throw tooLate();
      }

      // 2. Send the cookies. For the same reason the refresh cookie is left out later on: its use
      //    would confirm that the browser still has it.
      const cookie = this.#cookies.of("access", ...(left > 0 ? (["refresh"] as const) : []));
      for (const [name, value] of this.#headers) {
        request.header.set(name, value);
      }
      if (cookie !== "") {
        request.header.set("cookie", cookie);
      }

      // 3. Keep the cookies of the response, also of a refusal.
      try {
        const response = await (isRefresh ? this.#within(left, request, next) : next(request));
        this.#receive(response.header);
        return response;
      } catch (error) {
        if (error instanceof ConnectError) {
          this.#receive(error.metadata);
        }
        throw error;
      }
    };
  }

  #receive(headers: Headers): void {
    this.#cookies.receive(headers);
    // The browser does not have the refresh token of the new session yet, so there is none to send.
    this.#hasSignedIn ||= decodeNotice(headers.get(header.session))?.event === "created";
  }

  /** Sends a request that is abandoned after `ms`. */
  async #within(
    ms: number,
    request: Parameters<ReturnType<Interceptor>>[0],
    next: ReturnType<Interceptor>,
  ): ReturnType<ReturnType<Interceptor>> {
    const until = new AbortController();
    const cancel = this.#clock.after(ms, () => until.abort(tooLate()), true);
    try {
      const signal = AbortSignal.any([request.signal, until.signal]);
      return await next({ ...request, signal });
    } finally {
      cancel();
    }
  }
}

/** The refusals that say something about the session or the moment, and not about the set-up. */
const expected = new Set([Code.Unauthenticated, Code.Unavailable, Code.Aborted]);

function procedureOf({ parent, name }: { readonly parent: { typeName: string }; name: string }) {
  return `${parent.typeName}/${name}`;
}

function tooLate(): ConnectError {
  return new ConnectError(
    "the session can be refreshed only at the beginning of a visitor's request, and not after a sign-in " +
      "in it; call refreshIfDue() first, and end long responses before the access token expires",
    Code.Unavailable,
  );
}

/** A response to one visitor must not be kept for another one, and a redirect not be followed. */
const sendUncached: typeof globalThis.fetch = (input, init) =>
  globalThis.fetch(input, { ...init, cache: "no-store", redirect: "manual" });

/**
 * Returns the headers with which the service judges where a call comes from, and from which device. If a
 * page of this server caused the request, its origin vouches for the call. Otherwise the service sees
 * what the browser said.
 */
function pageHeaders(request: VisitorRequest, origin: string): Record<string, string> {
  const origins = readOrigins("origin", [origin]);
  const { headers, method = headers.has("origin") ? "POST" : "GET" } = request;
  const page = { requestHeader: headers as Headers, requestMethod: method };
  const isOurs = isTrustedSite({ origins, issuer: origin }, page) || isNavigation(headers, method);
  const site = isOurs
    ? { origin }
    : { origin: headers.get("origin"), "sec-fetch-site": headers.get("sec-fetch-site") };
  const given = { ...site, "user-agent": headers.get("user-agent") };
  return Object.fromEntries(
    Object.entries(given).filter((entry): entry is [string, string] => entry[1] !== null),
  );
}

/**
 * Whether a browser goes to a page. Other sites may cause that by a link. Browsers that send no Fetch
 * Metadata do not tell such a request from others, and neither do programs that are not browsers.
 */
function isNavigation(headers: VisitorRequest["headers"], method: string): boolean {
  const isSafe = (method === "GET" || method === "HEAD") && !headers.has("origin");
  const isPage =
    headers.get("sec-fetch-mode") === "navigate" && headers.get("sec-fetch-dest") === "document";
  const isSilent = !headers.has("sec-fetch-site") && !headers.has("sec-fetch-mode");
  return isSafe && (isPage || isSilent);
}
