import { type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { connect, constants, type IncomingHttpHeaders } from "node:http2";
import { request as httpsRequest } from "node:https";
import { systemClock } from "../../base/clock.ts";

/** Milliseconds that one request may take. */
const timeout = 10_000;
/** The longest body that is read, in bytes. Longer ones are cut. */
const maxBody = 1024 * 1024;

/** A request of the doctor. */
export interface HttpRequest {
  readonly method: "GET" | "POST" | "OPTIONS";
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

/** A response, with all that a proxy can change. */
export interface HttpReply {
  readonly status: number;
  /** The value of a header; several lines are joined by ", ". */
  header(name: string): string | undefined;
  /** The `Set-Cookie` lines, each as it came. */
  readonly cookies: readonly string[];
  readonly body: Uint8Array;
  /** The trailers; of gRPC alone. */
  readonly trailers: Readonly<Record<string, unknown>>;
  /** Milliseconds since 1970 by our clock, in the middle between request and response. */
  readonly at: number;
}

/** Sends a request over HTTP/1.1. Follows no redirect. Rejects if there is no response. */
export async function send(url: URL, { method, headers, body }: HttpRequest): Promise<HttpReply> {
  const start = systemClock.now();
  const create = url.protocol === "https:" ? httpsRequest : httpRequest;
  const request = create(url, {
    method,
    headers: { "user-agent": "rpc-session-doctor", ...headers },
    agent: false,
    maxHeaderSize: 64 * 1024,
  });
  const response = await withTimeout(request, () => responseOf(request, body));
  const at = (start + systemClock.now()) / 2;
  const read = await withTimeout(request, () => readBody(response));
  return {
    status: response.statusCode ?? 0,
    header: (name) => joined(response.headers[name]),
    cookies: response.headers["set-cookie"] ?? [],
    body: read,
    trailers: {},
    at,
  };
}

function responseOf(
  request: ClientRequest,
  body: string | Uint8Array | undefined,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.on("response", resolve);
    request.on("error", reject);
    request.end(body);
  });
}

async function readBody(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of stream) {
    parts.push(part);
    length += part.length;
    if (length > maxBody) {
      break;
    }
  }
  return Buffer.concat(parts);
}

/** Ends a request that takes too long. */
async function withTimeout<T>(
  request: { destroy(error: Error): unknown },
  work: () => Promise<T>,
): Promise<T> {
  const stop = systemClock.after(
    timeout,
    () => request.destroy(new Error(`no answer within ${timeout / 1000} seconds`)),
    true,
  );
  try {
    return await work();
  } finally {
    stop();
  }
}

/**
 * Sends a POST over HTTP/2: with TLS if the server offers it (ALPN), else with prior knowledge. Rejects
 * if the server does not speak HTTP/2.
 */
export async function sendHttp2(
  url: URL,
  headers: Readonly<Record<string, string>>,
  body: Uint8Array,
): Promise<HttpReply> {
  const session = connect(url.origin);
  try {
    return await withTimeout(session, () => {
      return new Promise((resolve, reject) => {
        session.on("error", reject);
        session.on("close", () => reject(new Error("the connection was closed")));
        const stream = session.request({
          ...headers,
          "user-agent": "rpc-session-doctor",
          [constants.HTTP2_HEADER_METHOD]: "POST",
          [constants.HTTP2_HEADER_PATH]: url.pathname,
        });
        let answered: IncomingHttpHeaders = {};
        let trailers: IncomingHttpHeaders = {};
        stream.on("response", (given) => {
          answered = given;
        });
        stream.on("trailers", (given) => {
          trailers = given;
        });
        stream.on("error", reject);
        stream.end(body);
        readBody(stream).then(
          (read) =>
            resolve({
              status: Number(answered[":status"] ?? 0),
              header: (name) => joined(answered[name]),
              cookies: answered["set-cookie"] ?? [],
              body: read,
              trailers,
              at: systemClock.now(),
            }),
          reject,
        );
      });
    });
  } finally {
    session.destroy();
  }
}

function joined(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === "object" ? value.join(", ") : value;
}

/** What a message calls an error of a connection. It names neither headers nor bodies. */
export function causeOf(error: unknown): string {
  if (error instanceof AggregateError) {
    return error.errors.map(causeOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}
