import { readOrigins } from "../request/origins.ts";
import { header } from "../base/wire.ts";

/** The lists of a CORS middleware, named as in `cors` of @connectrpc/connect. */
export interface CorsLists {
  readonly allowedMethods: readonly string[];
  readonly allowedHeaders: readonly string[];
  readonly exposedHeaders: readonly string[];
  /**
   * Origins whose pages may call, exactly as browsers send them. Those that use cookies must be in
   * the `origins` of the sessions too.
   */
  readonly allowedOrigins?: readonly string[];
  /** Seconds for which a browser need not ask again before a call. Default 7200, the most that Chromium takes. */
  readonly maxAge?: number;
}

/** What a CORS middleware needs for sessions; credentials are allowed, so nothing is a wildcard. */
export interface SessionCors {
  readonly allowedMethods: string[];
  readonly allowedHeaders: string[];
  readonly exposedHeaders: string[];
  readonly allowedOrigins: string[];
  readonly allowCredentials: true;
  /** `Access-Control-Max-Age`: seconds. */
  readonly maxAge: number;
}

/**
 * Adds what sessions need to Connect's own CORS lists: `sessionCors({ ...cors, allowedOrigins: ["https://app.example.com"] })`.
 *
 * Nothing of a session is in a trailer, so that no `Trailer-*` header needs to be exposed.
 *
 * @throws TypeError for a wildcard: browsers refuse it with credentials, and a middleware that
 * answers with the caller's origin instead would let every site use the session; for what is no list; for an origin that
 * is not written as browsers send it; for a `maxAge` that is no whole number of seconds
 */
export function sessionCors(cors: CorsLists): SessionCors {
  const { allowedOrigins = [], maxAge = 7200 } = cors;
  const lists = [cors.allowedMethods, cors.allowedHeaders, cors.exposedHeaders, allowedOrigins];
  if (!lists.every(Array.isArray)) {
    throw new TypeError(
      "sessionCors: give it lists, { ...cors, allowedOrigins } with cors of @connectrpc/connect",
    );
  }
  if (lists.some((list) => list.includes("*"))) {
    throw new TypeError('sessionCors: "*" cannot go with credentials; name each value');
  }
  readOrigins("allowedOrigins", allowedOrigins);
  if (!Number.isSafeInteger(maxAge) || maxAge < 0) {
    throw new TypeError(`maxAge: ${maxAge} is no whole number of seconds`);
  }
  const exposed = [
    header.accessToken,
    header.refreshToken,
    header.csrf,
    header.hint,
    header.session,
  ];
  return {
    allowedMethods: [...cors.allowedMethods],
    allowedHeaders: merge(cors.allowedHeaders, ["authorization", header.transport, header.csrf]),
    exposedHeaders: merge(cors.exposedHeaders, exposed),
    allowedOrigins: [...allowedOrigins],
    allowCredentials: true,
    maxAge,
  };
}

/** Header names are the same in any case. */
function merge(list: readonly string[], added: readonly string[]): string[] {
  const known = new Set(list.map((name) => name.toLowerCase()));
  return [...list, ...added.filter((name) => !known.has(name))];
}
