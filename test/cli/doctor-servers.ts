import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  request,
  type ServerResponse,
} from "node:http";
import {
  createServer as createHttp2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
} from "node:http2";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { cors as connectCors } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  createSessions,
  keepAlive,
  type SessionCors,
  type Sessions,
  type SessionsOptions,
  sessionCors,
} from "rpc-session";
import { jwksFallback } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";

/** What a proxy in front of a service does wrong; everything else it passes on. */
export interface ProxyFault {
  readonly request?:
    | undefined
    | ((headers: IncomingHttpHeaders, url: string) => IncomingHttpHeaders);
  readonly response?: undefined | ((reply: Passed, url: string) => Passed);
  /** Answers itself. Returns false to pass the request on. */
  readonly answer?: undefined | ((request: IncomingMessage, response: ServerResponse) => boolean);
  /** Sends a response only once it is complete. */
  readonly buffers?: boolean;
}

/** A response on its way through a proxy. */
export interface Passed {
  readonly status: number;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Uint8Array;
}

/** The lists of a CORS middleware. */
export type CorsFault = (lists: SessionCors) => Partial<SessionCors>;

export interface ServiceOptions {
  readonly sessions?: Partial<SessionsOptions>;
  readonly protect?: object;
  readonly proxy?: ProxyFault;
  /** The origins of a CORS middleware; without it there is none. */
  readonly cors?: readonly string[];
  readonly corsFault?: CorsFault;
  /** Whether the keys are published. */
  readonly jwks?: boolean;
}

export interface Service {
  readonly url: string;
  readonly sessions: Sessions;
}

/** A service on loopback, maybe behind a proxy. Its issuer is the address that clients see. */
export async function startService(options: ServiceOptions = {}): Promise<Service> {
  let handle: RequestListener = (_request, response) => response.end();
  const back = await listenForTest((req, res) => handle(req, res));
  const url = options.proxy === undefined ? back : await startProxy(back, options.proxy);
  const sessions = createSessions({
    issuer: url,
    store: memoryStore(),
    secret: "the secret of a test, of 32 bytes",
    cookies: { insecure: true },
    public: [NotesService.method.signIn],
    ...options.sessions,
  });
  onTestFinished(() => sessions.close());
  const adapter = connectNodeAdapter({
    ...sessions.protect({
      readMaxBytes: 65_536,
      routes: (router) =>
        router.service(NotesService, {
          async signIn(_request, context) {
            await sessions.create(context, { userId: "alice" });
            return {};
          },
          async *watchNotes(_request, context) {
            yield* keepAlive(context, never(context.signal), { message: {} });
          },
        }),
    }),
    ...options.protect,
    ...(options.jwks ? { fallback: jwksFallback(sessions) } : {}),
  });
  handle = options.cors === undefined ? adapter : withCors(adapter, options);
  return { url, sessions };
}

/** Messages that never come. */
function never(signal: AbortSignal): AsyncIterable<never> {
  const next = () =>
    new Promise<never>((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason as Error));
    });
  return { [Symbol.asyncIterator]: () => ({ next }) };
}

function withCors(
  next: RequestListener,
  { cors = [], corsFault }: ServiceOptions,
): RequestListener {
  const right = sessionCors({ ...connectCors, allowedOrigins: cors });
  const lists = { ...right, ...corsFault?.(right) };
  return (req, res) => {
    const { origin } = req.headers;
    const allowed = lists.allowedOrigins.includes("*") ? "*" : origin;
    if (origin !== undefined && (allowed === "*" || lists.allowedOrigins.includes(origin))) {
      res.setHeader("access-control-allow-origin", allowed ?? "");
      res.setHeader("access-control-expose-headers", lists.exposedHeaders.join(","));
      if (lists.allowCredentials) {
        res.setHeader("access-control-allow-credentials", "true");
      }
    }
    if (req.method !== "OPTIONS") {
      next(req, res);
      return;
    }
    res.setHeader("access-control-allow-methods", lists.allowedMethods.join(","));
    res.setHeader("access-control-allow-headers", lists.allowedHeaders.join(","));
    res.writeHead(204).end();
  };
}

/** A proxy over HTTP/1.1, with a fault. */
export function startProxy(back: string, fault: ProxyFault): Promise<string> {
  return listenForTest((req, res) => {
    if (fault.answer?.(req, res)) {
      return;
    }
    const headers = fault.request?.({ ...req.headers }, req.url ?? "") ?? req.headers;
    const out = request(`${back}${req.url}`, { method: req.method ?? "GET", headers }, (given) => {
      const pairs = pairsOf(given.rawHeaders);
      if (fault.response === undefined && !fault.buffers) {
        res.writeHead(given.statusCode ?? 502, pairs.flat() as string[]);
        given.pipe(res);
        return;
      }
      buffer(given).then(
        (body) => {
          const passed = { status: given.statusCode ?? 502, headers: pairs, body };
          const {
            status,
            headers: sent,
            body: data,
          } = fault.response?.(passed, req.url ?? "") ?? passed;
          const kept = sent.filter(([name]) => !/^(content-length|transfer-encoding)$/i.test(name));
          res.sendDate = kept.some(([name]) => name.toLowerCase() === "date");
          res.writeHead(status, kept.flat() as string[]).end(data);
        },
        () => res.destroy(),
      );
    });
    out.on("error", () => res.destroy());
    res.on("close", () => out.destroy());
    req.pipe(out);
  });
}

function pairsOf(raw: readonly string[]): (readonly [string, string])[] {
  return Array.from({ length: raw.length / 2 }, (_, i) => [raw[i * 2] ?? "", raw[i * 2 + 1] ?? ""]);
}

/**
 * Serves HTTP/1.1 and HTTP/2 without TLS on one port.
 * @param overHttp2 what serves HTTP/2. Default: the same
 */
export async function listenOnBoth(
  handle: RequestListener,
  overHttp2: (request: Http2ServerRequest, response: Http2ServerResponse) => void = handle as never,
): Promise<string> {
  const h1 = createServer(handle);
  const h2 = createHttp2Server(overHttp2);
  await Promise.all([h1, h2].map((one) => new Promise<void>((r) => one.listen(0, "127.0.0.1", r))));
  const sockets = new Set<Socket>();
  const front = createTcpServer((socket) => {
    sockets.add(socket);
    socket.once("data", (first) => {
      const to = first.toString("latin1").startsWith("PRI * HTTP/2.0") ? h2 : h1;
      const back = connect((to.address() as AddressInfo).port, "127.0.0.1");
      back.write(first);
      socket.pipe(back).pipe(socket);
      socket.on("error", () => back.destroy());
      back.on("error", () => socket.destroy());
    });
  });
  await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    for (const socket of sockets) {
      socket.destroy();
    }
    front.close();
    h1.closeAllConnections();
    h1.close();
    h2.close();
  });
  return `http://127.0.0.1:${(front.address() as AddressInfo).port}`;
}
