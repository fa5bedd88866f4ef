import type { ServerResponse } from "node:http";
import type { SessionCors } from "../../server/protect.ts";
import { Endpoints, type SuperTokensOptions, type SuperTokensSessions } from "./endpoints.ts";
import { translated } from "./fetch.ts";
import { type SdkRequest, type SdkResponse, translateNode } from "./node.ts";
import { requestHeaders, responseHeaders } from "./wire.ts";

export type { JsonWebKey, JsonWebKeySet, SigningAlgorithm } from "../../jwt/jwk.ts";
export type { FormerSession, SuperTokensOptions, SuperTokensSessions } from "./endpoints.ts";
export { type ClaimValidationError, type SuperTokensAnswer, superTokensAnswer } from "./errors.ts";
export type { SdkRequest, SdkResponse } from "./node.ts";

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
      translateNode(request, response, endpoints.formerCookies);
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
        : translated(request, handler, endpoints.formerCookies),
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
    // The CORS middleware knows better: browsers accept no "*" with credentials, which SDKs send.
    const isDecided = name === "access-control-allow-origin" && response.hasHeader(name);
    if (name === "set-cookie" || isDecided) {
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
