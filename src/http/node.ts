import type { IncomingMessage, OutgoingHttpHeaders } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import {
  type JwksHandler,
  type JwksHandlerOptions,
  type JwksSource,
  jwksHandler,
  readPath,
} from "./jwks.ts";

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
