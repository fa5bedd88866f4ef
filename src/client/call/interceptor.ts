import { toBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextKey,
  type ContextValues,
  createContextValues,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type Transport,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import type { SessionCore } from "../core.ts";
import type { ResolvedOptions } from "../options.ts";
import type { TokenStore } from "../state/tokens.ts";
import { type HandledMark, SessionCall } from "./call.ts";

type Next = Parameters<Interceptor>[0];

/**
 * Bytes of a message from which a refresh that is due comes first: the flow-control window of HTTP/2
 * (RFC 9113 section 6.9.2). A server that refuses the call early leaves more than that unread, and
 * Node.js clients then lose the refusal.
 */
const largeMessage = 65_535;

/**
 * The interceptor that adds the session to calls. It attaches tokens and reads new ones from
 * responses. If a call is refused because its token has expired, it refreshes and sends the call
 * again.
 */
export function sessionInterceptor(core: SessionCore): Interceptor {
  return (next) => async (req) => {
    const claimed = claim(req);
    if (claimed === undefined) {
      return next(req);
    }
    const { contextValues, mark } = claimed;
    const request = { ...req, contextValues };
    return request.stream
      ? streamCall(core, { request, mark }, next)
      : unaryCall(core, { request, mark }, next);
  };
}

/** A call that this interceptor handles. */
interface Claimed<R extends UnaryRequest | StreamRequest> {
  readonly request: R;
  readonly mark: HandledMark;
}

function unaryCall(
  core: SessionCore,
  { request, mark }: Claimed<UnaryRequest>,
  next: Next,
): Promise<UnaryResponse> {
  const call = new SessionCall(core, {
    mark,
    signal: request.signal,
    timeoutMs: readTimeout(request.header),
    isStream: false,
    isLarge: () => toBinary(request.method.input, request.message).byteLength > largeMessage,
    isReplayable: true,
  });
  return call.run(request.header, async (header, timeoutMs) => {
    writeTimeout(header, timeoutMs);
    const response = (await next({ ...request, header })) as UnaryResponse;
    call.complete(response.header);
    return response;
  });
}

type Message = StreamResponse["message"] extends AsyncIterable<infer M> ? M : never;

/** A stream whose response headers have arrived. */
interface OpenedStream {
  readonly response: StreamResponse;
  readonly messages: AsyncIterator<Message>;
  /** The first read, if it had to be made already. */
  first: IteratorResult<Message> | undefined;
}

/**
 * Opens a stream, and once more if it is refused before its first message. The refusal may arrive in
 * place of the headers or (from Connect servers) on the first read after them.
 */
async function streamCall(
  core: SessionCore,
  { request, mark }: Claimed<StreamRequest>,
  next: Next,
): Promise<StreamResponse> {
  const isReplayable = request.method.methodKind === "server_streaming";
  const replay = isReplayable ? new Replay(request.message) : undefined;
  const call = new SessionCall(core, {
    mark,
    signal: request.signal,
    timeoutMs: readTimeout(request.header),
    isStream: true,
    isReplayable,
  });
  const open = (): Promise<OpenedStream> =>
    call.run(request.header, async (headers, timeoutMs) => {
      writeTimeout(headers, timeoutMs);
      const message = replay?.open() ?? request.message;
      const response = (await next({ ...request, header: headers, message })) as StreamResponse;
      call.accept(response.header);
      const messages = response.message[Symbol.asyncIterator]();
      // The header announces an error. Wait for it, so that the caller never sees the headers of a
      // refusal that can be cured.
      const isRefused = call.isCurable(response.header);
      return { response, messages, first: isRefused ? await messages.next() : undefined };
    });

  const opened = await open();
  // Copies, because a later attempt may replace their content.
  const shown = { header: new Headers(opened.response.header), trailer: new Headers() };
  const messages = new ResendingMessages(call, opened, {
    reopen: async () => {
      const again = await open();
      refill(shown.header, again.response.header);
      return again;
    },
    onEnd: ({ response }) => refill(shown.trailer, response.trailer),
  });
  return { ...opened.response, ...shown, message: { [Symbol.asyncIterator]: () => messages } };
}

interface StreamActions {
  readonly reopen: () => Promise<OpenedStream>;
  readonly onEnd: (opened: OpenedStream) => void;
}

/** The messages of a stream that is opened again if it is refused on the first read. */
class ResendingMessages implements AsyncIterator<Message> {
  readonly #call: SessionCall;
  readonly #actions: StreamActions;
  #opened: OpenedStream;

  constructor(call: SessionCall, opened: OpenedStream, actions: StreamActions) {
    this.#call = call;
    this.#opened = opened;
    this.#actions = actions;
  }

  async next(): Promise<IteratorResult<Message>> {
    const result = await this.#read();
    this.#call.succeeded();
    if (result.done) {
      this.#actions.onEnd(this.#opened);
    }
    return result;
  }

  async throw(reason: unknown): Promise<IteratorResult<Message>> {
    await this.#opened.messages.throw?.(reason);
    throw reason;
  }

  async return(value?: unknown): Promise<IteratorResult<Message>> {
    await this.#opened.messages.return?.(value);
    return { done: true, value };
  }

  async #read(): Promise<IteratorResult<Message>> {
    for (;;) {
      const { first, messages } = this.#opened;
      this.#opened.first = undefined;
      try {
        return first ?? (await messages.next());
      } catch (error) {
        await this.#call.recover(error);
        this.#opened = await this.#actions.reopen();
      }
    }
  }
}

/**
 * A request stream that can be read from the start again, because every message read is kept. Meant
 * for requests of one message; a longer request is kept in full.
 */
class Replay<T> {
  readonly #source: AsyncIterable<T>;
  readonly #reads: Promise<IteratorResult<T>>[] = [];
  #iterator: AsyncIterator<T> | undefined;

  constructor(source: AsyncIterable<T>) {
    this.#source = source;
  }

  /**
   * Returns the messages from the first one on. Ending a reader does not end the source, because
   * the transport ends the readers of a failed attempt.
   */
  open(): AsyncIterable<T> {
    return { [Symbol.asyncIterator]: () => this.#reader() };
  }

  /** Transports require `throw` and `return`. */
  #reader(): AsyncIterator<T> {
    let index = 0;
    let isEnded = false;
    return {
      next: async () => (isEnded ? { done: true, value: undefined } : this.#read(index++)),
      throw: async (reason) => {
        isEnded = true;
        throw reason;
      },
      return: async () => {
        isEnded = true;
        return { done: true, value: undefined };
      },
    };
  }

  #read(index: number): Promise<IteratorResult<T>> {
    this.#iterator ??= this.#source[Symbol.asyncIterator]();
    this.#reads[index] ??= this.#iterator.next();
    return this.#reads[index];
  }
}

function refill(target: Headers, source: Headers): void {
  for (const name of [...target.keys()]) {
    target.delete(name);
  }
  source.forEach((value, name) => {
    target.append(name, value);
  });
}

const connectTimeout = "connect-timeout-ms";
const grpcTimeout = "grpc-timeout";

/** Reads the timeout header of a request; undefined if there is none in a form that Connect writes. */
function readTimeout(headers: Headers): number | undefined {
  const text = headers.get(connectTimeout) ?? headers.get(grpcTimeout)?.replace(/m$/, "");
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : undefined;
}

/** Overwrites the timeout header that the request has. */
function writeTimeout(headers: Headers, ms: number | undefined): void {
  if (ms === undefined) {
    return;
  }
  if (headers.has(connectTimeout)) {
    headers.set(connectTimeout, String(ms));
  } else {
    headers.set(grpcTimeout, `${ms}m`);
  }
}

const markKey: ContextKey<HandledMark | undefined> = {
  // A registered symbol, so that two copies of this package recognize each other's mark.
  id: Symbol.for("rpc-session.client.handled"),
  defaultValue: undefined,
};

/**
 * Claims a call for the interceptor that asks.
 *
 * @returns the mark, and the context values for the layers further in; undefined if an interceptor
 *   further out has claimed the call already
 */
function claim({
  contextValues,
  header: headers,
}: Pick<UnaryRequest, "contextValues" | "header">):
  | { readonly contextValues: ContextValues; readonly mark: HandledMark }
  | undefined {
  const known = contextValues.get(markKey);
  if (known?.handled) {
    return undefined;
  }
  if (known !== undefined) {
    // The outer layer has seen the caller's headers; by now they have its token.
    known.handled = true;
    return { contextValues, mark: known };
  }
  const mark = { handled: true, hasOwnToken: headers.has("authorization") };
  return { contextValues: withMark(contextValues, mark), mark };
}

/** Adds the mark to the caller's context values without changing the caller's object. */
export function withMark(
  values: ContextValues = createContextValues(),
  mark: HandledMark,
): ContextValues {
  return {
    get: (key) => (key.id === markKey.id ? (mark as never) : values.get(key)),
    set(key, value) {
      values.set(key, value);
      return this;
    },
    delete(key) {
      values.delete(key);
      return this;
    },
  };
}

/**
 * Makes a transport and checks that the factory used its parts. Without the interceptors no call
 * would carry a token, and nothing would explain why.
 *
 * @throws TypeError if the factory ignored the parts. If it replaced the interceptors, that shows only
 *   when a call is refused; then the call throws the TypeError
 */
export function makeTransport(options: ResolvedOptions, interceptors: Interceptor[]): Transport {
  let isTaken = false;
  let isUsed = false;
  const observed = interceptors.map(
    (intercept): Interceptor =>
      (next) => {
        isUsed = true;
        return intercept(next);
      },
  );
  const fetch = sessionFetch(options.tokens);
  const made = options.transport({
    get interceptors() {
      isTaken = true;
      return observed;
    },
    ...(fetch && { fetch }),
  });
  if (typeof made?.unary !== "function" || typeof made.stream !== "function") {
    throw new TypeError(
      `transport: the function must return a Connect transport, got ${typeof made}`,
    );
  }
  if (!isTaken) {
    throw new TypeError(
      "transport: the function must use its parts; write createConnectTransport({ baseUrl, ...parts })",
    );
  }
  return interceptors.length === 0 ? made : explainRefusals(made, () => isUsed);
}

/**
 * Wraps a transport to explain refusals before the first call has passed the interceptors. Setting
 * `interceptors` next to `...parts` replaces them, and then no call ever carries a token.
 */
function explainRefusals(made: Transport, isUsed: () => boolean): Transport {
  const explain = (error: unknown): never => {
    const isRefused = error instanceof ConnectError && error.code === Code.Unauthenticated;
    if (isRefused && !isUsed()) {
      throw new TypeError(
        "transport: the function replaced the interceptors of its parts; write interceptors: [...parts.interceptors, yours]",
        { cause: error },
      );
    }
    throw error;
  };
  const run = <T>(call: () => Promise<T>): Promise<T> =>
    isUsed() ? call() : call().catch(explain);
  return {
    unary: (...call) => run(() => made.unary(...call)),
    stream: (...call) => run(() => made.stream(...call)),
  };
}

function sessionFetch(tokens: TokenStore): typeof globalThis.fetch | undefined {
  if (typeof globalThis.fetch !== "function") {
    return undefined;
  }
  // The page may hold cookies of a session of its own, which a client with header tokens must neither
  // send nor let the server expire.
  const credentials = tokens.transport === "cookie" ? "include" : "omit";
  // A redirect could carry the Authorization header to another site. Workers of Cloudflare throw for
  // the mode "error".
  return async (input, init) => {
    const response = await globalThis.fetch(input, { ...init, credentials, redirect: "manual" });
    assertReadable(response);
    return response;
  };
}

/**
 * @throws TypeError, as for a broken connection, if the response is a redirect
 * @throws ConnectError Unimplemented if the response is a stream and the runtime can only read it whole
 */
function assertReadable({ body, headers, status }: Response): void {
  // Browsers show a redirect as the status 0.
  if (status < 200 || (status > 299 && status < 400)) {
    throw new TypeError("the service redirects; give the transport the final address as baseUrl");
  }
  // React Native's responses have no body at all; a response without content has null.
  const isStream = /^application\/(connect\+|grpc-web)/.test(headers.get("content-type") ?? "");
  if ((body as unknown) === undefined && isStream) {
    throw new ConnectError(
      "the fetch of this runtime cannot read a response in parts, as streams and gRPC-Web need; write " +
        '{ baseUrl, ...parts, fetch } with that of expo/fetch and credentials: "omit"',
      Code.Unimplemented,
    );
  }
}
