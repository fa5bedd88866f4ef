import { header } from "../wire.ts";

/** The lists of a CORS middleware, named as in `cors` of @connectrpc/connect. */
export interface CorsLists {
  readonly allowedMethods: readonly string[];
  readonly allowedHeaders: readonly string[];
  readonly exposedHeaders: readonly string[];
  /** Origins whose pages may call. Exact origins; with cookies "*" means nothing good. */
  readonly allowedOrigins?: readonly string[];
}

/** What a CORS middleware needs for sessions; credentials are allowed, so nothing is a wildcard. */
export interface SessionCors {
  readonly allowedMethods: string[];
  readonly allowedHeaders: string[];
  readonly exposedHeaders: string[];
  readonly allowedOrigins: string[];
  readonly allowCredentials: true;
}

/**
 * Adds what sessions need to Connect's own CORS lists: `sessionCors({ ...cors, allowedOrigins: ["https://app.example.com"] })`.
 *
 * @throws TypeError for a wildcard: browsers refuse it with credentials, and a middleware that
 * answers with the caller's origin instead would let every site use the session
 */
export function sessionCors(cors: CorsLists): SessionCors {
  const { allowedOrigins = [] } = cors;
  const lists = [cors.allowedMethods, cors.allowedHeaders, cors.exposedHeaders, allowedOrigins];
  if (lists.some((list) => list.includes("*"))) {
    throw new TypeError('sessionCors: "*" cannot go with credentials; name each value');
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
  };
}

/** Header names are the same in any case. */
function merge(list: readonly string[], added: readonly string[]): string[] {
  const known = new Set(list.map((name) => name.toLowerCase()));
  return [...list, ...added.filter((name) => !known.has(name))];
}
