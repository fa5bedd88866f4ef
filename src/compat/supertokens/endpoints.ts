import { createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import { header } from "../../base/wire.ts";
import { fromFetch, type JwksSource, jwksHandler } from "../../http/index.ts";
import type { AdoptedFacts } from "../../server/session/adopt.ts";
import type { ServerSessions } from "../../server/sessions.ts";
import { superTokensAnswer } from "./errors.ts";
import { apply, type FormerCookies, readerOf, translateResponse } from "./fetch.ts";
import { hasSessionCookies, keepsCookies, requestChanges, senderOf } from "./wire.ts";

/** The sessions that the SDKs use: the object that `createSessions` returns. */
export type SuperTokensSessions = JwksSource &
  Pick<ServerSessions, "register" | "signOut" | "adopt">;

/** A session that SuperTokens issued. Your code has verified all of it. */
export interface FormerSession extends AdoptedFacts {
  readonly userId: string;
  readonly tenantId?: string;
  /** The claims of the new session, as for `create`. */
  readonly claims?: object;
}

/** The options of {@link superTokens}. */
export interface SuperTokensOptions {
  /** The option `issuer` of `createSessions`; the discovery document names it. */
  readonly issuer: string;
  /** The `apiBasePath` of the SDKs. Default "/auth". */
  readonly basePath?: string;
  /**
   * Verifies a refresh token that SuperTokens issued, and returns its session. An SDK whose session is
   * older than the move refreshes; it then gets a session of ours, once, by `sessions.adopt`. Nobody signs
   * in again.
   *
   * It is called for a refresh token that is not valid here: the SDK's bearer token, or the cookie
   * `sRefreshToken` of a request with a header that other sites cannot send without CORS. `adopt` then
   * checks the origin. The token is a secret: do not log it. Return undefined if SuperTokens refuses the
   * token. Throw if it cannot be reached: the SDK keeps its session then.
   *
   * Default: a session of SuperTokens is over.
   */
  readonly former?: (refreshToken: string, request: Request) => Promise<FormerSession | undefined>;
  /**
   * The `cookieDomain` that SuperTokens had. Its cookie `sRefreshToken` is removed when a session begins or
   * ends; browsers then need the domain. Default: it had none.
   */
  readonly formerCookieDomain?: string;
}

/** The endpoints that the SDKs call by themselves. */
export class Endpoints {
  /**
   * Removes the refresh token of SuperTokens. A session that begins or ends replaces that one, by whatever
   * client, so that no later refresh finds the user who was signed in before.
   */
  readonly formerCookies: FormerCookies;
  readonly #sessions: SuperTokensSessions;
  readonly #former: SuperTokensOptions["former"];
  readonly #base: string;
  readonly #answers: ReadonlyMap<string, (request: Request) => Promise<Response>>;
  readonly #refreshHandler: (request: Request) => Promise<Response>;

  constructor(sessions: SuperTokensSessions, options: SuperTokensOptions) {
    const { issuer, basePath = "/auth", former, formerCookieDomain: domain } = options;
    if (typeof sessions?.register !== "function" || typeof sessions.jwks !== "function") {
      throw new TypeError("superTokens: pass the object that createSessions returns first");
    }
    if (typeof issuer !== "string" || !URL.canParse(issuer)) {
      throw new TypeError(
        `superTokens: issuer must be the issuer of createSessions, such as "https://api.example.com", got ${JSON.stringify(issuer)}`,
      );
    }
    if (!/^(\/[\w.~-]+)*\/?$/.test(basePath)) {
      throw new TypeError(
        `superTokens: basePath must be a path such as "/auth", got ${JSON.stringify(basePath)}`,
      );
    }
    if (former !== undefined && typeof former !== "function") {
      throw new TypeError(
        `superTokens: former must be a function that verifies a refresh token of SuperTokens, got ${typeof former}`,
      );
    }
    if (domain !== undefined && !isDomain(domain)) {
      throw new TypeError(
        `superTokens: formerCookieDomain must be a domain such as "example.com", got ${JSON.stringify(domain)}`,
      );
    }
    this.#sessions = sessions;
    this.#former = former;
    this.#base = basePath.replace(/\/$/, "");
    const refreshPath = `${this.#base}/session/refresh`;
    const where = `Path=${refreshPath}${domain === undefined ? "" : `; Domain=${domain}`}`;
    const removed = `sRefreshToken=; ${where}; Max-Age=0; HttpOnly; Secure; SameSite=None`;
    this.formerCookies = (read) => (former !== undefined && keepsCookies(read) ? [removed] : []);
    this.#refreshHandler = refreshHandlerOf(sessions);
    const keysPath = `${this.#base}/jwt/jwks.json`;
    const keys = jwksHandler(sessions, { path: keysPath });
    const discovery = { issuer, jwks_uri: new URL(keysPath, issuer).href };
    this.#answers = new Map<string, (request: Request) => Promise<Response>>([
      ["POST /session/refresh", (request) => this.#refresh(request)],
      ["POST /signout", (request) => this.#signOut(request)],
      ["GET /jwt/jwks.json", async (request) => (await keys(request)) as Response],
      [
        "GET /.well-known/openid-configuration",
        async () => Response.json(discovery, { headers: { "access-control-allow-origin": "*" } }),
      ],
    ]);
  }

  has(method: string | undefined, url: string): boolean {
    return this.#find(method, url) !== undefined;
  }

  async answer(request: Request): Promise<Response> {
    const answer = this.#find(request.method, request.url);
    return answer === undefined ? new Response(null, { status: 404 }) : answer(request);
  }

  #find(method: string | undefined, url: string) {
    const path = new URL(url, "http://localhost").pathname.replace(/\/$/, "");
    return path.startsWith(`${this.#base}/`)
      ? this.#answers.get(`${method} ${path.slice(this.#base.length)}`)
      : undefined;
  }

  /** The refresh token comes in a cookie, or as the bearer token. */
  async #refresh(request: Request): Promise<Response> {
    // 1. Translate it into a call of SessionService.Refresh.
    const headers = new Headers(request.headers);
    apply(headers, requestChanges(readerOf(headers)));
    const bearer = /^bearer +(.*)$/i.exec(headers.get("authorization") ?? "")?.[1];
    // An SDK that was switched from headers to cookies still has its session in headers.
    const isByCookie =
      headers.get(header.transport) === "cookie" &&
      (bearer === undefined || hasSessionCookies(readerOf(headers)));
    const refreshToken = isByCookie ? undefined : bearer;
    for (const name of ["authorization", "content-length", "content-encoding", "te"]) {
      headers.delete(name);
    }
    headers.set("content-type", "application/json");
    const called = await this.#refreshHandler(
      new Request(new URL(request.url), {
        method: "POST",
        headers,
        body: JSON.stringify(refreshToken === undefined ? {} : { refreshToken }),
      }),
    );

    // 2. Without new tokens, the session has ended meanwhile.
    const isOver = called.ok && !called.headers.has(header.session);
    const status = isOver ? 401 : called.status;

    // 3. A token that is not valid here may be one of SuperTokens.
    if (called.status === 401 && senderOf(readerOf(request.headers)) === "sdk") {
      const adopted = await this.#adopt(request, refreshToken ?? readFormerCookie(request.headers));
      if (adopted !== undefined) {
        return adopted;
      }
    }

    // 4. Translate the answer. A 401 alone makes the SDK forget the session.
    const answer = this.#translate(request, new Response(null, called));
    for (const name of ["content-type", "content-length", "content-encoding"]) {
      answer.headers.delete(name);
    }
    const body = status === 200 ? {} : { message: await messageOf(called, status) };
    if (status === 401 && !answer.headers.has("front-token")) {
      answer.headers.set("front-token", "remove");
      answer.headers.append("access-control-expose-headers", "front-token");
    }
    return Response.json(body, { status, headers: answer.headers });
  }

  /** Trades a session of SuperTokens for one of ours. Returns undefined if there is no such session. */
  async #adopt(request: Request, token: string | undefined): Promise<Response | undefined> {
    const former = token === undefined ? undefined : await this.#former?.(token, request);
    if (former === undefined) {
      return undefined;
    }
    const headers = new Headers(request.headers);
    apply(headers, requestChanges(readerOf(headers)));
    headers.delete("authorization");
    const exchange = fromFetch(new Request(request.url, { method: "POST", headers }));
    try {
      await this.#sessions.adopt(exchange, former);
    } catch (error) {
      const { status, body } = superTokensAnswer(error);
      return status === 401 ? undefined : Response.json(body, { status });
    }
    return this.#translate(request, exchange.respond(Response.json({})));
  }

  async #signOut(request: Request): Promise<Response> {
    const headers = new Headers(request.headers);
    apply(headers, requestChanges(readerOf(headers)));
    const exchange = fromFetch(new Request(request.url, { method: "POST", headers }));
    try {
      await this.#sessions.signOut(exchange);
    } catch (error) {
      if (!(error instanceof SessionError)) {
        throw error;
      }
      const { status, body } = superTokensAnswer(error);
      const refused = exchange.respond(Response.json(body, { status }));
      return translateResponse(refused, "sdk", []);
    }
    // Also without a session of ours: one of SuperTokens must not come back by a later refresh.
    const answer = translateResponse(exchange.respond(Response.json({ status: "OK" })), "sdk", []);
    answer.headers.set("front-token", "remove");
    answer.headers.append("access-control-expose-headers", "front-token");
    for (const cookie of this.formerCookies(readerOf(request.headers))) {
      answer.headers.append("set-cookie", cookie);
    }
    return answer;
  }

  #translate({ headers }: Request, response: Response): Response {
    return translateResponse(response, "sdk", this.formerCookies(readerOf(headers)));
  }
}

/** Serves SessionService.Refresh alone, with the gate, the interceptor and the limits of `register`. */
function refreshHandlerOf(sessions: SuperTokensSessions): (request: Request) => Promise<Response> {
  const { handlers } = sessions.register(createConnectRouter());
  const refresh = handlers.find(({ method }) => method === SessionService.method.refresh);
  if (refresh === undefined) {
    throw new TypeError(
      "superTokens: these sessions only verify; pass the object that createSessions returns",
    );
  }
  return createFetchHandler(refresh);
}

function isDomain(given: unknown): boolean {
  return typeof given === "string" && /^\.?[\w-]+(\.[\w-]+)*$/.test(given);
}

/** The refresh token of SuperTokens in its cookie, where it is percent-encoded. */
function readFormerCookie(headers: Headers): string | undefined {
  const value = /(?:^|;) *sRefreshToken=([^;]+)/.exec(headers.get("cookie") ?? "")?.[1];
  try {
    return value && decodeURIComponent(value);
  } catch {
    return undefined;
  }
}

async function messageOf(refused: Response, status: number): Promise<string> {
  const { message = "" } = (await refused.json().catch(() => ({}))) as { message?: string };
  return status === 401 ? "unauthorised" : message;
}
