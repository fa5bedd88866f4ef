import type { SessionsHealth } from "../engine/revocation/health.ts";
import { type NodeFallback, nodeFallback } from "./node.ts";

/** A source of the health of sessions, such as the object that `createSessions` returns. */
export interface HealthSource {
  /** Does no I/O. */
  health(): SessionsHealth;
}

/** The options of {@link healthHandler}. */
export interface HealthHandlerOptions {
  /** The path that is answered. Default "/ready". */
  readonly path?: string;
}

/** Responds to requests for one path; returns undefined for all others. */
export type HealthHandler = (request: Request) => Promise<Response | undefined>;

/**
 * Answers the readiness probe of an orchestrator or a load balancer: 200 while this server can check
 * calls, else 503. It cannot before it is open, while it closes, and while the change log could not be
 * read for longer than `maxStaleness`. The body is JSON without secrets: the status, and whether changes
 * are pushed. Does no I/O, so ask as often as you like.
 *
 * ```ts
 * const ready = healthHandler(sessions);
 * const handler = async (request: Request) => (await ready(request)) ?? handleRpc(request);
 * ```
 *
 * @throws TypeError if the path does not begin with "/"
 */
export function healthHandler(
  sessions: HealthSource,
  options: HealthHandlerOptions = {},
): HealthHandler {
  const path = readPath(options);
  return async ({ url, method }) => {
    if (new URL(url).pathname !== path) {
      return undefined;
    }
    if (method !== "GET" && method !== "HEAD") {
      return new Response(null, { status: 405, headers: { allow: "GET, HEAD" } });
    }
    const { status, push } = sessions.health();
    const isReady = status === "fresh" || status === "unsure";
    const answer = Response.json(
      { status, push },
      { status: isReady ? 200 : 503, headers: { "cache-control": "no-store" } },
    );
    return method === "HEAD" ? new Response(null, answer) : answer;
  };
}

/**
 * The Node.js version of `healthHandler`: use it as the option `fallback` of `connectNodeAdapter`, as
 * the listener of a plain server, or as Express middleware.
 *
 * @throws TypeError if the path does not begin with "/"
 */
export function healthFallback(
  sessions: HealthSource,
  options: HealthHandlerOptions = {},
): NodeFallback {
  const handle = healthHandler(sessions, options);
  return nodeFallback(readPath(options), async ({ method }, url) => {
    const known = method === "GET" || method === "HEAD";
    // The request headers do not matter. `Request` rejects TRACE, so POST replaces it: both get 405.
    return handle(new Request(url, { method: known ? method : "POST" }));
  });
}

function readPath({ path = "/ready" }: HealthHandlerOptions): string {
  if (typeof path !== "string" || !path.startsWith("/")) {
    throw new TypeError(`path must begin with "/", got ${JSON.stringify(path)}`);
  }
  return path;
}
