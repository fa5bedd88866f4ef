import type { ServerResponse } from "node:http";
import { createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import { header } from "../../base/wire.ts";
import { fromFetch, type JwksSource, jwksHandler } from "../../http/index.ts";
import type { SessionCors } from "../../server/protect.ts";
import type { ServerSessions } from "../../server/sessions.ts";
import { superTokensAnswer, withValidationErrors } from "./errors.ts";
import { type SdkRequest, type SdkResponse, translateNode } from "./node.ts";
import {
  isFromSdk,
  type ReadHeader,
  requestChanges,
  requestHeaders,
  responseChanges,
  responseHeaders,
} from "./wire.ts";

export type { JsonWebKey, JsonWebKeySet, SigningAlgorithm } from "../../jwt/jwk.ts";
export { type ClaimValidationError, type SuperTokensAnswer, superTokensAnswer } from "./errors.ts";
export type { SdkRequest, SdkResponse } from "./node.ts";

/** The sessions that the SDKs use: the object that `createSessions` returns. */
export type SuperTokensSessions = JwksSource & Pick<ServerSessions, "register" | "signOut">;

/** The options of {@link superTokens}. */
export interface SuperTokensOptions {
  /** The option `issuer` of `createSessions`; the discovery document names it. */
  readonly issuer: string;
  /** The `apiBasePath` of the SDKs. Default "/auth". */
  readonly basePath?: string;
}

/** The handlers, middleware and CORS lists that let SuperTokens SDKs use a server. */
export interface SuperTokens {
  /**
   * For `fetch` servers: wraps the handler of the whole service. It answers the endpoints of the SDKs,
   * and translates their other requests.
   *
   * @example
   * export default { fetch: compat.fetch(handler) };
   */
  fetch(
    handler: (request: Request) => Promise<Response> | Response,
  ): (request: Request) => Promise<Response>;
  /**
   * For Node.js: wraps the listener of the whole service, over HTTP/1.1 or HTTP/2.
   *
   * @example
   * createServer(compat.node(connectNodeAdapter(sessions.protect({ routes })))).listen(8080);
   */
  node<Q extends SdkRequest, S extends SdkResponse>(
    listener: (request: Q, response: S) => void,
  ): (request: Q, response: S) => void;
  /**
   * The same as middleware. Use it before all routes, and after CORS.
   *
   * @example
   * app.use(compat.middleware); // Express
   * server.addHook("onRequest", (request, reply, done) => compat.middleware(request.raw, reply.raw, done)); // Fastify
   */
  readonly middleware: (
    request: SdkRequest,
    response: SdkResponse,
    next: (error?: Error) => void,
  ) => void;
  /** Adds the headers of the SDKs to the CORS lists that `sessionCors` returns. */
  cors(lists: SessionCors): SessionCors;
}

/**
 * Serves the front-end SDKs of SuperTokens, such as `supertokens-website`, beside the clients of
 * rpc-session, on the same sessions. It translates headers and answers the endpoints of the SDKs; the
 * rules of sessions are those of rpc-session.
 *
 * Endpoints below `basePath`: `POST /session/refresh`, `POST /signout`, `GET /jwt/jwks.json` and
 * `GET /.well-known/openid-configuration`.
 *
 * What it gives up, because the SDKs need it: the user's id and the claims of the option `clientClaims`
 * are kept in a cookie that scripts can read. In header mode so are the tokens; the service allows that
 * by `browserHeaderTransport`. Session cookies keep the names of the option `cookies`.
 *
 * ```ts
 * const compat = superTokens(sessions, { issuer });
 * createServer(compat.node(connectNodeAdapter(sessions.protect({ routes })))).listen(8080);
 * ```
 *
 * @throws TypeError if an option is not valid
 */
export function superTokens(
  sessions: SuperTokensSessions,
  options: SuperTokensOptions,
): SuperTokens {
  const endpoints = new Endpoints(sessions, options);
  const middleware: SuperTokens["middleware"] = (request, response, next) => {
    const url = request.originalUrl ?? request.url ?? "/";
    if (!endpoints.has(request.method, url)) {
      translateNode(request, response);
      next();
      return;
    }
    const asked = new Request(new URL(url, "http://localhost"), initOf(request));
    void endpoints.answer(asked).then((answer) => send(response, answer), next);
  };
  return {
    fetch: (handler) => async (request) =>
      endpoints.has(request.method, request.url)
        ? endpoints.answer(request)
        : translated(request, handler),
    node: (listener) => (request, response) => {
      middleware(request, response, (error) => {
        if (error === undefined) {
          listener(request, response);
        } else {
          response.destroy(error);
        }
      });
    },
    middleware,
    cors: (lists) => ({
      ...lists,
      allowedHeaders: [...new Set([...lists.allowedHeaders, ...requestHeaders])],
      exposedHeaders: [...new Set([...lists.exposedHeaders, ...responseHeaders])],
    }),
  };
}

/** The endpoints that the SDKs call by themselves. */
class Endpoints {
  readonly #sessions: SuperTokensSessions;
  readonly #base: string;
  readonly #answers: ReadonlyMap<string, (request: Request) => Promise<Response>>;
  readonly #refreshHandler: (request: Request) => Promise<Response>;

  constructor(sessions: SuperTokensSessions, { issuer, basePath = "/auth" }: SuperTokensOptions) {
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
    this.#sessions = sessions;
    this.#base = basePath.replace(/\/$/, "");
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
    const refreshToken = headers.get(header.transport) === "cookie" ? undefined : bearer;
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

    // 2. Translate the answer. A 401 alone makes the SDK forget the session.
    const { status } = called;
    const answer = translateResponse(new Response(null, { status, headers: called.headers }));
    for (const name of ["content-type", "content-length", "content-encoding"]) {
      answer.headers.delete(name);
    }
    const body = called.ok ? {} : { message: await messageOf(called) };
    if (status === 401 && !answer.headers.has("front-token")) {
      answer.headers.set("front-token", "remove");
      answer.headers.append("access-control-expose-headers", "front-token");
    }
    return Response.json(body, { status, headers: answer.headers });
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
      return translateResponse(exchange.respond(Response.json(body, { status })));
    }
    const answer = translateResponse(exchange.respond(Response.json({ status: "OK" })));
    answer.headers.set("front-token", "remove");
    answer.headers.append("access-control-expose-headers", "front-token");
    return answer;
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

/** Calls a handler with a translated request. Requests of other clients stay as they are. */
async function translated(
  request: Request,
  handler: (request: Request) => Promise<Response> | Response,
): Promise<Response> {
  if (!isFromSdk(readerOf(request.headers))) {
    return handler(request);
  }
  const headers = new Headers(request.headers);
  apply(headers, requestChanges(readerOf(headers)));
  const response = translateResponse(await handler(new Request(request, { headers })));
  const isRefusal =
    response.status === 403 &&
    /^application\/json\b/i.test(response.headers.get("content-type") ?? "");
  if (!isRefusal) {
    return response;
  }
  response.headers.delete("content-length");
  return new Response(withValidationErrors(await response.text()), response);
}

function translateResponse(response: Response): Response {
  const headers = new Headers(response.headers);
  apply(headers, responseChanges(readerOf(headers)));
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

function readerOf(headers: Headers): ReadHeader {
  return (name) => headers.get(name) ?? undefined;
}

function apply(headers: Headers, changes: ReturnType<typeof requestChanges>): void {
  for (const [name, value] of changes) {
    if (value === undefined) {
      headers.delete(name);
    } else {
      headers.set(name, value);
    }
  }
}

async function messageOf(refused: Response): Promise<string> {
  const { message = "" } = (await refused.json().catch(() => ({}))) as { message?: string };
  return refused.status === 401 ? "unauthorised" : message;
}

/** The headers of a request of Node.js. Its body is not needed. */
function initOf({ method = "GET", headers }: SdkRequest): RequestInit {
  const copied = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    for (const one of name.startsWith(":") || value === undefined ? [] : [value].flat()) {
      copied.append(name, one);
    }
  }
  return { method, headers: copied };
}

/** @throws Error if the response has been sent */
async function send(response: SdkResponse, answer: Response): Promise<void> {
  const cookies = answer.headers.getSetCookie();
  for (const [name, value] of answer.headers) {
    if (name === "set-cookie") {
      continue;
    }
    const before = name === "access-control-expose-headers" && response.getHeader(name);
    response.setHeader(name, before ? `${String(before)}, ${value}` : value);
  }
  if (cookies.length > 0) {
    response.setHeader("set-cookie", cookies);
  }
  const body = new Uint8Array(await answer.arrayBuffer());
  const sent = response as ServerResponse;
  sent.writeHead(answer.status);
  sent.end(body);
}
