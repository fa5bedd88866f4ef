import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { Exchange } from "../server/call/exchange.ts";

// Plain HTTP requests as exchanges. The types are structural, so that no framework has to be installed.

/** What an exchange may bring besides the request. */
export interface ExchangeOptions {
  /**
   * Context values for the options of the sessions that read them, such as `clientIp`. Default none.
   *
   * @example
   * fromNode(req, res, { values: createContextValues().set(kSocketIp, req.socket.remoteAddress) });
   */
  readonly values?: NonNullable<Exchange["values"]>;
}

/** The part of a request of node:http, node:https, node:http2 or Express that an exchange reads. */
export type NodeExchangeRequest = (IncomingMessage | Http2ServerRequest) & {
  /** In Express, the URL before a router has shortened it. */
  readonly originalUrl?: string;
};

/** The part of a response of node:http, node:https, node:http2 or Express that an exchange writes. */
export interface NodeExchangeResponse {
  readonly headersSent: boolean;
  getHeader(name: string): number | string | string[] | undefined;
  getHeaderNames(): string[];
  setHeader(name: string, value: string | string[]): unknown;
  removeHeader(name: string): void;
}

/**
 * The exchange of a request and response of Node.js or Express, for `sessions.create`, `getSession` and
 * the like. Headers are set on the response at once, so send it afterwards. Each request has one
 * exchange: a second call returns the same.
 *
 * ```ts
 * app.post("/sign-in", async (req, res) => {
 *   const user = await users.check(req.body);
 *   await sessions.create(fromNode(req, res), { userId: user.id });
 *   res.redirect(303, "/");
 * });
 * ```
 *
 * @throws TypeError if the response headers have already been sent, or for arguments of another kind
 */
export function fromNode(
  request: NodeExchangeRequest,
  response: NodeExchangeResponse,
  options: ExchangeOptions = {},
): Exchange {
  if (typeof request?.headers !== "object" || typeof response?.setHeader !== "function") {
    throw new TypeError(
      "fromNode needs a request and a response of Node.js or Express: pass fromNode(req, res)",
    );
  }
  return exchangeOf("fromNode", request, { target: response, values: options.values });
}

/** The part of a request of Fastify that an exchange reads. */
export interface FastifyExchangeRequest {
  readonly raw: IncomingMessage | Http2ServerRequest;
}

/** The part of a reply of Fastify that an exchange writes. */
export interface FastifyExchangeReply {
  readonly raw: { readonly headersSent: boolean };
  readonly sent: boolean;
  getHeader(name: string): number | string | string[] | undefined;
  getHeaders(): Readonly<Record<string, unknown>>;
  header(name: string, value: string | string[]): unknown;
  removeHeader(name: string): unknown;
}

/**
 * The exchange of a request and reply of Fastify; see `fromNode`.
 *
 * ```ts
 * server.post("/sign-in", async (request, reply) => {
 *   await sessions.create(fromFastify(request, reply), { userId });
 *   return reply.redirect("/", 303);
 * });
 * ```
 *
 * @throws TypeError if the reply has already been sent, or for arguments of another kind
 */
export function fromFastify(
  request: FastifyExchangeRequest,
  reply: FastifyExchangeReply,
  options: ExchangeOptions = {},
): Exchange {
  if (typeof request?.raw?.headers !== "object" || typeof reply?.header !== "function") {
    throw new TypeError(
      "fromFastify needs a request and a reply of Fastify: pass fromFastify(request, reply)",
    );
  }
  const target: NodeExchangeResponse = {
    get headersSent() {
      return reply.sent || reply.raw.headersSent;
    },
    getHeader: (name) => reply.getHeader(name),
    getHeaderNames: () => Object.keys(reply.getHeaders()),
    setHeader: (name, value) => {
      // Fastify adds Set-Cookie values to those that are there.
      reply.removeHeader(name);
      reply.header(name, value);
    },
    removeHeader: (name) => {
      reply.removeHeader(name);
    },
  };
  return exchangeOf("fromFastify", request.raw, { target, values: options.values });
}

/** The exchange of a fetch Request. Its headers go into the Response that `respond` returns. */
export interface FetchExchange extends Exchange {
  /**
   * Returns the response with the headers of the exchange added. Return every response through it, also
   * after an error: it may have to expire cookies. Cookies of the response are kept.
   */
  respond(response: Response): Response;
}

/**
 * The exchange of a fetch Request, for Hono, Next.js, SvelteKit, Deno, Bun and workers. Each request has
 * one exchange: a second call returns the same.
 *
 * ```ts
 * app.post("/sign-in", async (c) => {
 *   const exchange = fromFetch(c.req.raw);
 *   await sessions.create(exchange, { userId });
 *   return exchange.respond(c.redirect("/", 303));
 * });
 * ```
 *
 * @throws TypeError if the argument is not a Request
 */
export function fromFetch(request: Request, options: ExchangeOptions = {}): FetchExchange {
  if (typeof request?.headers?.get !== "function" || typeof request.url !== "string") {
    throw new TypeError(
      "fromFetch needs a fetch Request; in Hono pass c.req.raw, in Node.js and Express use fromNode(req, res)",
    );
  }
  return remembered(request, () => {
    const responseHeader = new Headers();
    let sent = false;
    return {
      // A copy, because those of a server may be immutable, and session cookies are removed from it.
      requestHeader: new Headers(request.headers),
      responseHeader,
      requestMethod: request.method,
      url: request.url,
      signal: request.signal,
      ...(options.values === undefined ? {} : { values: options.values }),
      get headersSent() {
        return sent;
      },
      respond(response) {
        sent = true;
        const headers = new Headers(response.headers);
        for (const [name, value] of responseHeader) {
          if (name === "set-cookie" || name === "vary") {
            headers.append(name, value);
          } else {
            headers.set(name, value);
          }
        }
        const { status, statusText } = response;
        return new Response(response.body, { status, statusText, headers });
      },
    };
  });
}

/** The exchanges of requests that are being answered. */
const exchanges = new WeakMap<object, Exchange>();

/** One exchange for each request: a second one would find the former tokens, and clear the new ones. */
function remembered<E extends Exchange>(request: object, create: () => E): E {
  const exchange = (exchanges.get(request) as E | undefined) ?? create();
  exchanges.set(request, exchange);
  return exchange;
}

/** The rest of what an exchange of Node.js is made of. */
interface NodeParts {
  readonly target: NodeExchangeResponse;
  readonly values: ExchangeOptions["values"];
}

function exchangeOf(
  method: string,
  request: NodeExchangeRequest,
  { target, values }: NodeParts,
): Exchange {
  if (target.headersSent) {
    throw new TypeError(
      `${method}: the response headers have already been sent; create the exchange, and sign in or out, before you send the response`,
    );
  }
  return remembered(request, () => ({
    requestHeader: headersOf(request),
    responseHeader: new LiveHeaders(target),
    requestMethod: request.method ?? "",
    url: urlOf(request),
    ...(values === undefined ? {} : { values }),
    get headersSent() {
      return target.headersSent;
    },
  }));
}

/** Copies the headers of a request of Node.js. Those of HTTP/2 that begin with a colon are not headers. */
export function headersOf({ headers }: Pick<NodeExchangeRequest, "headers">): Headers {
  const copied = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    for (const one of name.startsWith(":") || value === undefined ? [] : [value].flat()) {
      copied.append(name, one);
    }
  }
  return copied;
}

/** The URL that the server received. A path if the host is missing or is none. */
export function urlOf({ headers, originalUrl, url = "/", socket }: NodeExchangeRequest): string {
  const host = headers[":authority"] ?? headers.host;
  const scheme = headers[":scheme"] ?? ("encrypted" in socket ? "https" : "http");
  const path = originalUrl ?? url;
  const full = `${String(scheme)}://${String(host)}${path}`;
  if (host && path.startsWith("/") && URL.canParse(full)) {
    return full;
  }
  return URL.canParse(path, "http://localhost") ? path : "/";
}

/** The headers of a response, which other code may set as well: read and written where they are. */
class LiveHeaders extends Headers {
  readonly #target: NodeExchangeResponse;

  constructor(target: NodeExchangeResponse) {
    super();
    this.#target = target;
  }

  override get(name: string): string | null {
    this.#read(name);
    return super.get(name);
  }

  override has(name: string): boolean {
    this.#read(name);
    return super.has(name);
  }

  override getSetCookie(): string[] {
    this.#read("set-cookie");
    return super.getSetCookie();
  }

  override set(name: string, value: string): void {
    this.#assertOpen();
    super.set(name, value);
    this.#write(name);
  }

  override append(name: string, value: string): void {
    this.#assertOpen();
    this.#read(name);
    super.append(name, value);
    this.#write(name);
  }

  override delete(name: string): void {
    this.#assertOpen();
    super.delete(name);
    this.#write(name);
  }

  override forEach(...args: Parameters<Headers["forEach"]>): void {
    this.#readAll();
    super.forEach(...args);
  }

  override entries(): ReturnType<Headers["entries"]> {
    this.#readAll();
    return super.entries();
  }

  override keys(): ReturnType<Headers["keys"]> {
    this.#readAll();
    return super.keys();
  }

  override values(): ReturnType<Headers["values"]> {
    this.#readAll();
    return super.values();
  }

  override [Symbol.iterator](): ReturnType<Headers["entries"]> {
    return this.entries();
  }

  #readAll(): void {
    const names = new Set(this.#target.getHeaderNames());
    for (const name of [...super.keys()]) {
      if (!names.has(name)) {
        super.delete(name);
      }
    }
    for (const name of names) {
      this.#read(name);
    }
  }

  /** Other code may have set or removed the header since. */
  #read(name: string): void {
    super.delete(name);
    const value = this.#target.getHeader(name);
    for (const one of value === undefined ? [] : [value].flat()) {
      super.append(name, String(one));
    }
  }

  #write(name: string): void {
    if (!super.has(name)) {
      this.#target.removeHeader(name);
    } else if (name.toLowerCase() === "set-cookie") {
      this.#target.setHeader(name, super.getSetCookie());
    } else {
      this.#target.setHeader(name, super.get(name) ?? "");
    }
  }

  #assertOpen(): void {
    if (this.#target.headersSent) {
      throw new TypeError(
        "the response headers have already been sent; wait for the sessions before you send the response",
      );
    }
  }
}
