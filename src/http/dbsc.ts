import { assertMembers } from "../base/checks.ts";
import type { DbscEndpoints } from "../server/service/dbsc.ts";
import { headersOf, urlOf } from "./exchange.ts";
import { type NodeFallback, nodeFallback } from "./node.ts";

/** The sessions to bind, such as the object that `createSessions` returns. */
export interface DbscTarget {
  /** Offers DBSC at sign-ins from now on, and returns the endpoints. */
  dbsc(path: string): DbscEndpoints;
}

/** The options of {@link dbscHandler}. */
export interface DbscOptions {
  /**
   * The path of the two endpoints, `<path>/register` and `<path>/refresh`, below the issuer or `bind.url`.
   * Browsers keep it with each binding, so do not change it. Default "/dbsc".
   */
  readonly path?: string;
}

/** Responds to requests for its two paths; returns undefined for all others. */
export type DbscHandler = (request: Request) => Promise<Response | undefined>;

/**
 * Binds sessions in cookies to a key of the browser, by Device Bound Session Credentials (DBSC, W3C). A copy
 * of the cookies is then not enough to refresh the session.
 *
 * Sign-ins offer it from now on, unless `bind` is "off". Browsers that know DBSC register a key. Before each
 * refresh they prove it at these endpoints; other calls do not wait. Other browsers go on as before.
 *
 * Serve it in every process that serves SessionService, at the origin of the service. Keep CSRF checks, rate
 * limits and redirects away from its paths: most answers of something else end the binding, and with it the
 * session.
 *
 * ```ts
 * const dbsc = dbscHandler(sessions);
 * const handler = async (request: Request) => (await dbsc(request)) ?? handleRpc(request);
 * ```
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if an option is wrong, or the cookies are partitioned
 */
export function dbscHandler(sessions: DbscTarget, options: DbscOptions = {}): DbscHandler {
  const endpoints = serve(sessions, options);
  return async ({ url, method, headers }) =>
    endpoints.answer({ method, path: new URL(url).pathname, headers, url });
}

/**
 * The Node.js version of `dbscHandler`: use it as the option `fallback` of `connectNodeAdapter`, as the
 * listener of a plain server, or as Express middleware.
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if an option is wrong, or the cookies are partitioned
 */
export function dbscFallback(sessions: DbscTarget, options: DbscOptions = {}): NodeFallback {
  const endpoints = serve(sessions, options);
  return nodeFallback(endpoints.paths, async (request, url) =>
    endpoints.answer({
      method: request.method ?? "",
      path: new URL(url).pathname,
      headers: headersOf(request),
      url: urlOf(request),
    }),
  );
}

function serve(sessions: DbscTarget, options: DbscOptions): DbscEndpoints {
  if (typeof sessions?.dbsc !== "function") {
    throw new TypeError("dbscHandler: pass the object that createSessions returned first");
  }
  assertMembers("dbscHandler", options, { path: 0 });
  return sessions.dbsc(options.path ?? "/dbsc");
}
