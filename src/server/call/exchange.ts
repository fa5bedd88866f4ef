import type {
  ContextValues,
  HandlerContext,
  StreamRequest,
  UnaryRequest,
} from "@connectrpc/connect";

/**
 * One HTTP request and the headers of its response. A `HandlerContext` is an exchange. `fromNode`,
 * `fromFastify` and `fromFetch` of `rpc-session/http` create exchanges for plain HTTP handlers.
 */
export interface Exchange {
  readonly requestHeader: Headers;
  /** The headers to send with the response. Tokens and hints are written here. */
  readonly responseHeader: Headers;
  /** The HTTP method, such as "POST". */
  readonly requestMethod: string;
  /** The URL that the server received; it may be only a path. Default: unknown. */
  readonly url?: string;
  /** Whether the response headers have been sent, so that nothing can be added. Default false. */
  readonly headersSent?: boolean;
  /** Aborts when the request ends. Default: never. */
  readonly signal?: AbortSignal;
  /** Context values, as the adapter option `contextValues` creates them for RPCs. Default: none. */
  readonly values?: ContextValues;
}

/** An exchange, such as a `HandlerContext`. Outside RPCs the values are those of the exchange, or empty. */
export interface ClientContext extends Exchange {
  readonly values: ContextValues;
}

/** The request of an RPC, as an interceptor receives it. */
export type InterceptedRequest = UnaryRequest | StreamRequest;

/** An RPC: the context that its handler and its gates receive, or the request of an interceptor. */
export type RpcContext = HandlerContext | InterceptedRequest;

/** Whether an RPC is named by the request of an interceptor. */
export function isIntercepted(context: RpcContext): context is InterceptedRequest {
  // The context of a handler has `contextValues` too, which its type does not say.
  return !("values" in context);
}

/** Whether an exchange is the context of an RPC. */
export function isRpc(exchange: Exchange): exchange is HandlerContext {
  return "method" in exchange && exchange.values !== undefined;
}

/**
 * Returns the argument of a method that works on exchanges.
 * @throws TypeError if it is none, or can no longer carry headers; the message says what to do
 */
export function readExchange(method: string, given: unknown): Exchange {
  if (isExchange(given)) {
    if (given.headersSent === true) {
      throw new TypeError(
        `${method}: the response headers have already been sent; call it before you send the response`,
      );
    }
    return given;
  }
  const kind = kindOf(given);
  throw new TypeError(
    kind.instead === undefined
      ? `${method} received ${kind.name}; pass the context of the handler, or an exchange such as fromNode(req, res) of rpc-session/http`
      : `${method} received ${kind.name}; pass ${kind.instead} of rpc-session/http`,
  );
}

/**
 * Returns the argument of a method that works on RPCs only.
 * @throws TypeError if it is not the context of an RPC; the message says what to do
 */
export function readContext(method: string, given: unknown): RpcContext {
  // The warm path of every call.
  const context = (given ?? {}) as Partial<HandlerContext & InterceptedRequest>;
  const { values = context.contextValues, method: rpc } = context;
  if (rpc !== undefined && typeof values?.get === "function" && typeof rpc !== "string") {
    return given as RpcContext;
  }
  if (isExchange(given)) {
    throw new TypeError(
      `${method} received an exchange that is not an RPC; use await sessions.getSession(exchange)`,
    );
  }
  const { name, instead } = kindOf(given);
  throw new TypeError(
    instead === undefined
      ? `${method} received ${name}; pass the context that the handler of the RPC receives, or the request of an interceptor`
      : `${method} received ${name}, which is not the context of an RPC; outside RPCs use await sessions.getSession(${instead}), with the helper of rpc-session/http`,
  );
}

function isExchange(given: unknown): given is Exchange {
  const { requestHeader, responseHeader, requestMethod } = membersOf<Exchange>(given);
  return isHeaders(requestHeader) && isHeaders(responseHeader) && typeof requestMethod === "string";
}

/** What somebody passed instead of an exchange, and the helper that makes one of it, if there is one. */
interface Kind {
  readonly name: string;
  readonly instead?: string;
}

/** Recognizes the requests of common frameworks. */
function kindOf(given: unknown): Kind {
  const { header, headers, raw, req, request } =
    membersOf<Record<"header" | "headers" | "raw" | "req" | "request", unknown>>(given);
  if (isHeaders(headers)) {
    return { name: "a fetch Request", instead: "fromFetch(request)" };
  }
  if (isHeaders(membersOf<{ headers: unknown }>(membersOf<{ raw: unknown }>(req).raw).headers)) {
    return { name: "a context of Hono", instead: "fromFetch(c.req.raw)" };
  }
  if (isHeaders(membersOf<{ headers: unknown }>(request).headers)) {
    return { name: "an object with a fetch Request", instead: "fromFetch(event.request)" };
  }
  if (isObject(membersOf<{ headers: unknown }>(raw).headers)) {
    return { name: "a request of Fastify", instead: "fromFastify(request, reply)" };
  }
  if (isObject(headers)) {
    return { name: "a request of Node.js or Express", instead: "fromNode(req, res)" };
  }
  if (isHeaders(header)) {
    return { name: "the request of an interceptor" };
  }
  return { name: isObject(given) ? "an object of another kind" : nameOf(given) };
}

function nameOf(given: unknown): string {
  return given === undefined || given === null ? String(given) : `a ${typeof given}`;
}

function membersOf<T>(value: unknown): Partial<T> {
  return isObject(value) ? (value as Partial<T>) : {};
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** Headers of any implementation: frameworks bring their own. */
function isHeaders(value: unknown): value is Headers {
  const { get, append, getSetCookie } = membersOf<Headers>(value);
  return [get, append, getSetCookie].every((member) => typeof member === "function");
}
