import type { IncomingMessage, OutgoingHttpHeaders } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { JsonWebKeySet } from "../jwt/jwk.ts";

/** What publishes its keys: what `createSessions` returns does. */
export interface JwksSource {
  /** Rejects when the keys cannot be told now. */
  jwks(): Promise<JsonWebKeySet>;
}

/** The options of {@link jwksHandler}. */
export interface JwksHandlerOptions {
  /** Where the keys are published. Default "/.well-known/jwks.json". */
  readonly path?: string;
}

/** Answers requests for one path; undefined for all others. */
export type JwksHandler = (request: Request) => Promise<Response | undefined>;

/**
 * Seconds that others may keep the answer. With the minute that it may have lain here, and the fetch
 * of a verifier, that is less than the 10 minutes that a key is published before it signs.
 */
const maxAge = 300;
/** Seconds. */
const retryAfter = 1;

/**
 * Publishes the public keys of the access tokens (RFC 7517), for services that verify them.
 *
 * GET and HEAD; every origin may read it, and caches may keep it for 5 minutes. Without keys to tell:
 * 503 with `Retry-After`.
 *
 * @param sessions what `createSessions` returned
 * @throws TypeError when the path does not begin with "/"
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

/** @throws TypeError when the path does not begin with "/" */
export function readPath({ path = "/.well-known/jwks.json" }: JwksHandlerOptions): string {
  if (!path.startsWith("/")) {
    throw new TypeError(`path: ${JSON.stringify(path)} must begin with "/"`);
  }
  return path;
}

async function publish(sessions: JwksSource): Promise<Response> {
  let body: string;
  try {
    body = JSON.stringify(await sessions.jwks());
  } catch {
    // What went wrong is for the logs of the service, and in no answer to the world.
    return new Response(null, {
      status: 503,
      headers: { "retry-after": String(retryAfter), "cache-control": "no-store", ...everyOrigin },
    });
  }
  return new Response(body, {
    headers: {
      // Not application/jwk-set+json, which some gateways do not take for JSON.
      "content-type": "application/json",
      "cache-control": `public, max-age=${maxAge}`,
      "x-content-type-options": "nosniff",
      ...everyOrigin,
    },
  });
}

/** Public keys are public: any page may verify a token. */
const everyOrigin = { "access-control-allow-origin": "*" } as const;

/** A request of node:http, node:https or node:http2. */
export type NodeRequest = IncomingMessage | Http2ServerRequest;
/** A response of node:http, node:https or node:http2; what is used of it. */
export interface NodeResponse {
  writeHead(status: number, headers?: OutgoingHttpHeaders): unknown;
  end(body: string | Uint8Array): unknown;
  destroy(error?: Error): unknown;
}

/** Answers requests for one path; all others go to `next`, or are answered with 404. */
export type NodeFallback = (
  request: NodeRequest,
  response: NodeResponse,
  next?: (error?: unknown) => void,
) => void;

/**
 * `jwksHandler` for Node: for the option `fallback` of `connectNodeAdapter`, as a listener of a plain
 * server, or as Express middleware.
 *
 * @param sessions what `createSessions` returned
 * @throws TypeError when the path does not begin with "/"
 */
export function jwksFallback(sessions: JwksSource, options: JwksHandlerOptions = {}): NodeFallback {
  const handle = jwksHandler(sessions, options);
  const path = readPath(options);
  return (request, response, next) => {
    if (request.url?.split("?", 1)[0] === path) {
      answer(handle, path, request.method).then(
        ({ status, headers, body }) => {
          response.writeHead(status, headers);
          response.end(body);
        },
        () => response.destroy(),
      );
    } else if (next !== undefined) {
      next();
    } else {
      response.writeHead(404);
      response.end("");
    }
  };
}

interface Answered {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly body: Uint8Array;
}

async function answer(
  handle: JwksHandler,
  path: string,
  method: string | undefined,
): Promise<Answered> {
  const known = method === "GET" || method === "HEAD";
  // No header of the request has a say; and fetch knows no TRACE, which is refused as POST is.
  const request = new Request(`http://localhost${path}`, { method: known ? method : "POST" });
  const response = (await handle(request)) ?? new Response(null, { status: 404 });
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: new Uint8Array(await response.arrayBuffer()),
  };
}
