import type { IncomingMessage, OutgoingHttpHeaders } from "node:http";
import type { Http2ServerRequest } from "node:http2";

/** A request of node:http, node:https or node:http2. */
export type NodeRequest = IncomingMessage | Http2ServerRequest;
/** The part of a response of node:http, node:https or node:http2 that the handler uses. */
export interface NodeResponse {
  writeHead(status: number, headers?: OutgoingHttpHeaders): unknown;
  end(body: string | Uint8Array): unknown;
  destroy(error?: Error): unknown;
}

/** Responds to requests for its paths. Passes all others to `next`, or responds with 404. */
export type NodeFallback = (
  request: NodeRequest,
  response: NodeResponse,
  next?: (error?: unknown) => void,
) => void;

/**
 * Makes a handler of requests a fallback for Node.js.
 *
 * @param paths the only path that it answers, or all of them
 * @param answer answers a request; the second argument is a URL with that path
 */
export function nodeFallback(
  paths: string | readonly string[],
  answer: (request: NodeRequest, url: string) => Promise<Response | undefined>,
): NodeFallback {
  return (request, response, next) => {
    const path = request.url?.split("?", 1)[0] ?? "";
    if ([paths].flat().includes(path)) {
      answer(request, `http://localhost${path}`)
        .then(async (answered = new Response(null, { status: 404 })) => {
          const body = new Uint8Array(await answered.arrayBuffer());
          response.writeHead(answered.status, Object.fromEntries(answered.headers));
          response.end(body);
        })
        .catch(() => response.destroy());
    } else if (next !== undefined) {
      next();
    } else {
      response.writeHead(404);
      response.end("");
    }
  };
}
