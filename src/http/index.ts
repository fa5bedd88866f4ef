import type { JsonWebKeySet } from "../jwt/jwk.ts";
import { type NodeFallback, nodeFallback } from "./node.ts";

export type { Duration } from "../base/checks.ts";
export type { Clock } from "../base/clock.ts";
export type { SessionEvent, SessionEventListener } from "../base/events.ts";
export type { SessionsHealth } from "../engine/revocation/health.ts";
export type { ExternalId } from "../engine/store.ts";
export type { JsonWebKey, JsonWebKeySet, SigningAlgorithm } from "../jwt/jwk.ts";
export type { Fetch } from "../jwt/remote-keys.ts";
export type { DbscEndpoints, DbscRequest } from "../server/service/dbsc.ts";
export {
  type BackChannelLogoutHandler,
  type BackChannelLogoutOptions,
  backChannelLogoutFallback,
  backChannelLogoutHandler,
  type LogoutTarget,
} from "./back-channel-logout.ts";
export {
  type DbscHandler,
  type DbscOptions,
  type DbscTarget,
  dbscFallback,
  dbscHandler,
} from "./dbsc.ts";
export {
  type ExchangeOptions,
  type FastifyExchangeReply,
  type FastifyExchangeRequest,
  type FetchExchange,
  fromFastify,
  fromFetch,
  fromNode,
  type NodeExchangeRequest,
  type NodeExchangeResponse,
} from "./exchange.ts";
export {
  type HealthHandler,
  type HealthHandlerOptions,
  type HealthSource,
  healthFallback,
  healthHandler,
} from "./health.ts";
export type { NodeFallback, NodeRequest, NodeResponse } from "./node.ts";

/** A source of public keys, such as the object that `createSessions` returns. */
export interface JwksSource {
  /** Returns the public keys. Rejects if they are not available. */
  jwks(): Promise<JsonWebKeySet>;
}

/** The options of {@link jwksHandler}. */
export interface JwksHandlerOptions {
  /** The path where the keys are published. Default "/.well-known/jwks.json". */
  readonly path?: string;
}

/** Responds to requests for one path; returns undefined for all others. */
export type JwksHandler = (request: Request) => Promise<Response | undefined>;

/**
 * Seconds for which others may cache the response. A new key is published 10 minutes before it signs.
 * This time, the minute for which this server caches keys, and the fetch interval of a verifier must
 * together be shorter than that.
 */
const maxAge = 300;
/** Seconds after which a client may try again if the keys are not available. */
const retryAfter = 1;

/**
 * Publishes the public keys of the access tokens (RFC 7517) for services that verify them.
 *
 * The handler responds to GET and HEAD. Every origin may read the response, and caches may keep it
 * for 5 minutes. If the keys are not available, it responds with 503 and `Retry-After`.
 *
 * ```ts
 * const jwks = jwksHandler(sessions);
 * const handler = async (request: Request) => (await jwks(request)) ?? handleRpc(request);
 * ```
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if the path does not begin with "/"
 */
export function jwksHandler(sessions: JwksSource, options: JwksHandlerOptions = {}): JwksHandler {
  const path = readPath(options);
  return async (request) => {
    if (new URL(request.url).pathname !== path) {
      return undefined;
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return new Response(null, { status: 405, headers: { allow: "GET, HEAD" } });
    }
    const response = await publish(sessions);
    return request.method === "GET" ? response : new Response(null, response);
  };
}

/** @throws TypeError if the path does not begin with "/" */
function readPath({ path = "/.well-known/jwks.json" }: JwksHandlerOptions): string {
  if (!path.startsWith("/")) {
    throw new TypeError(`path must begin with "/", got ${JSON.stringify(path)}`);
  }
  return path;
}

async function publish(sessions: JwksSource): Promise<Response> {
  let body: string;
  try {
    body = JSON.stringify(await sessions.jwks());
  } catch {
    // The cause belongs in the logs of the service, not in a public response.
    return new Response(null, {
      status: 503,
      headers: { "retry-after": String(retryAfter), "cache-control": "no-store", ...everyOrigin },
    });
  }
  return new Response(body, {
    headers: {
      // Not application/jwk-set+json: some gateways do not recognize that as JSON.
      "content-type": "application/json",
      "cache-control": `public, max-age=${maxAge}`,
      "x-content-type-options": "nosniff",
      ...everyOrigin,
    },
  });
}

/** Public keys are not secret: any page may verify a token. */
const everyOrigin = { "access-control-allow-origin": "*" } as const;

/**
 * The Node.js version of `jwksHandler`: use it as the option `fallback` of `connectNodeAdapter`, as
 * the listener of a plain server, or as Express middleware.
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if the path does not begin with "/"
 */
export function jwksFallback(sessions: JwksSource, options: JwksHandlerOptions = {}): NodeFallback {
  const handle = jwksHandler(sessions, options);
  return nodeFallback(readPath(options), async ({ method }, url) => {
    const known = method === "GET" || method === "HEAD";
    // The request headers do not matter. `Request` rejects TRACE, so POST replaces it: both get 405.
    return handle(new Request(url, { method: known ? method : "POST" }));
  });
}
