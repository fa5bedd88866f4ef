import { assertMembers } from "../base/checks.ts";
import type { SessionsHealth } from "../engine/revocation/health.ts";
import { type NodeFallback, nodeFallback, readHandlerPath } from "./node.ts";

/** A source of health, such as the object that `createSessions` returns. */
export interface HealthSource {
  /** Returns the current health, without I/O. */
  health(): SessionsHealth;
}

/** The options of {@link healthHandler}. */
export interface HealthHandlerOptions {
  /** The path that is asked. Default "/ready". */
  readonly path?: string;
}

/** Responds to requests for one path; returns undefined for all others. */
export type HealthHandler = (request: Request) => Response | undefined;

/**
 * Answers whether this server can check calls, for the readiness probe of an orchestrator or the health
 * check of a load balancer: 200 if it can, 503 if it cannot or is about to stop.
 *
 * - 200: `status` is "fresh" or "unsure", and the server does not drain.
 * - 503: not opened yet, closed, draining, or the change log could not be read for `maxStaleness`.
 *
 * The body is JSON, for people and monitoring: `ready` and the members of `sessions.health()`, with null in
 * place of Infinity. It has no secret and no data of users, but it counts streams and changes, so serve it
 * on a port that is not public. It responds to GET and HEAD, without I/O.
 *
 * Do not use it for a liveness probe: a restart does not mend a store that is out of reach.
 *
 * ```ts
 * const ready = healthHandler(sessions);
 * const handler = async (request: Request) => ready(request) ?? handleRpc(request);
 * ```
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if the path does not begin with "/"
 */
export function healthHandler(
  sessions: HealthSource,
  options: HealthHandlerOptions = {},
): HealthHandler {
  const path = readPath(options);
  return (request) =>
    new URL(request.url).pathname === path ? answer(sessions, request.method) : undefined;
}

/**
 * The Node.js version of `healthHandler`: use it as the listener of a plain server, as the option `fallback`
 * of `connectNodeAdapter`, or as Express middleware.
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if the path does not begin with "/"
 */
export function healthFallback(
  sessions: HealthSource,
  options: HealthHandlerOptions = {},
): NodeFallback {
  return nodeFallback(readPath(options), async ({ method = "GET" }) => answer(sessions, method));
}

function readPath(options: HealthHandlerOptions): string {
  assertMembers("healthHandler", options, { path: 0 });
  return readHandlerPath(options.path ?? "/ready");
}

function answer(sessions: HealthSource, method: string): Response {
  const headers = { "cache-control": "no-store" };
  if (method !== "GET" && method !== "HEAD") {
    return new Response(null, { status: 405, headers: { ...headers, allow: "GET, HEAD" } });
  }
  const health = sessions.health();
  const ready = !health.draining && (health.status === "fresh" || health.status === "unsure");
  const init = {
    status: ready ? 200 : 503,
    headers: {
      ...headers,
      "content-type": "application/json",
      "x-content-type-options": "nosniff",
    },
  };
  // JSON writes Infinity as null.
  return new Response(method === "HEAD" ? null : JSON.stringify({ ready, ...health }), init);
}
