import type { CallOptions } from "@connectrpc/connect";
import type { SessionCore } from "../core.ts";
import { coreOf, type SessionClient } from "../session-client.ts";
import { type HandledMark, SessionCall } from "./call.ts";
import { deadlineSignal } from "./deadline.ts";
import { withMark } from "./interceptor.ts";

/**
 * Adds the session to an existing client. Its calls carry the tokens, read new ones from responses,
 * and are sent again after a refresh by the same rules as on `session.transport`.
 *
 * Two limits apply. The first call of each method cannot wait for an early refresh, because only its
 * result shows whether the method is a stream. A request that is an iterable of messages is never
 * sent again.
 *
 * Tokens go wherever the client's own transport sends its calls. Pass only clients of the service
 * that the session belongs to.
 *
 * ```ts
 * const notes = withRefresh(createClient(NotesService, transport), session);
 * ```
 *
 * @param client any client made by Connect's `createClient`
 * @returns an object of the same type. If the client's transport already has the session's
 *   interceptor, the interceptor does the work; a call is sent at most twice
 * @throws TypeError if `client` is not a Connect client, or `session` was not returned by
 *   `createSessionClient`
 */
export function withRefresh<C extends object>(client: C, session: SessionClient): C {
  const core = coreOf(session);
  if (core === undefined) {
    throw new TypeError(
      "withRefresh: `session` must be the object returned by createSessionClient",
    );
  }
  const methods = typeof client === "object" && client !== null ? Object.entries(client) : [];
  if (methods.length === 0 || !methods.every(([, method]) => typeof method === "function")) {
    throw new TypeError(
      "withRefresh: `client` must be a client returned by Connect's createClient",
    );
  }
  if (wrapped.get(client) === core) {
    return client;
  }
  const result = Object.fromEntries(methods.map(([name, method]) => [name, wrap(method, core)]));
  wrapped.set(result, core);
  return result as C;
}

/** The clients that withRefresh returned, so that wrapping one again changes nothing. */
const wrapped = new WeakMap<object, SessionCore>();

type Method = (input: unknown, options?: CallOptions) => unknown;

function wrap(method: Method, core: SessionCore): Method {
  let isStream: boolean | undefined;
  return (input, options = {}) => {
    const call = new WrappedCall(core, method, { input, options, isStream: isStream ?? false });
    // Clients do not carry the schema, so only the first result shows whether the method is a stream.
    const sent = isStream === undefined ? call.sendNow() : undefined;
    isStream ??= isIterable(sent);
    return isStream
      ? call.stream(sent as AsyncIterable<unknown> | undefined)
      : call.unary(sent as Promise<unknown> | undefined);
  };
}

/** One call of a wrapped method. */
class WrappedCall {
  readonly #method: Method;
  readonly #input: unknown;
  readonly #options: CallOptions;
  readonly #headers: Headers;
  readonly #call: SessionCall;
  readonly #mark: HandledMark;
  readonly #clearTimer: () => void;
  /** The headers of a refusal. The caller receives them only if the call is not sent again. */
  #heldHeaders: Headers | undefined;

  constructor(
    core: SessionCore,
    method: Method,
    call: { readonly input: unknown; readonly options: CallOptions; readonly isStream: boolean },
  ) {
    const { input, options } = call;
    const timeoutMs = options.timeoutMs && options.timeoutMs > 0 ? options.timeoutMs : undefined;
    const [signal, clearTimer] = deadlineSignal(core.options.clock, timeoutMs, options.signal);
    this.#method = method;
    this.#input = input;
    this.#options = options;
    this.#headers = new Headers(options.headers);
    this.#mark = { handled: false, hasOwnToken: this.#headers.has("authorization") };
    this.#clearTimer = clearTimer;
    this.#call = new SessionCall(core, {
      ...{ signal, timeoutMs, mark: this.#mark, isOuter: true },
      isStream: call.isStream || isIterable(input),
      isReplayable: !isIterable(input),
    });
  }

  /** Makes the first attempt at once, without waiting for anything. */
  sendNow(): unknown {
    const headers = new Headers(this.#headers);
    return this.#send(headers, this.#call.attach(headers));
  }

  async unary(sent: Promise<unknown> | undefined): Promise<unknown> {
    try {
      const message = await this.#call.run(
        this.#headers,
        async (headers, timeoutMs) => this.#send(headers, timeoutMs),
        sent,
      );
      this.#call.succeeded();
      return message;
    } catch (error) {
      this.#showHeldHeaders();
      throw error;
    } finally {
      this.#clearTimer();
    }
  }

  /**
   * Sends at once, as the methods of Connect clients do. Like theirs, the iterator has neither
   * `throw` nor `return`.
   */
  stream(sent: AsyncIterable<unknown> | undefined): AsyncIterable<unknown> {
    const opened = sent === undefined ? this.#open() : Promise.resolve(sent);
    // An error reaches the caller through the iterator, which the caller may never read.
    opened.catch(() => {});
    const messages = this.#messages(opened);
    return { [Symbol.asyncIterator]: () => ({ next: () => messages.next() }) };
  }

  #send(headers: Headers, timeoutMs: number | undefined): unknown {
    this.#heldHeaders = undefined;
    return this.#method(this.#input, {
      ...this.#options,
      headers,
      ...(timeoutMs !== undefined && { timeoutMs }),
      contextValues: withMark(this.#options.contextValues, this.#mark),
      onHeader: (received) => this.#onHeader(received),
    });
  }

  #open(): Promise<AsyncIterable<unknown>> {
    return this.#call.run(
      this.#headers,
      async (headers, timeoutMs) => this.#send(headers, timeoutMs) as AsyncIterable<unknown>,
    );
  }

  async *#messages(opened: Promise<AsyncIterable<unknown>>): AsyncGenerator<unknown> {
    let source = opened;
    try {
      for (;;) {
        try {
          for await (const message of await source) {
            this.#call.succeeded();
            yield message;
          }
          this.#call.succeeded();
          return;
        } catch (error) {
          await this.#call.recover(error);
          source = this.#open();
        }
      }
    } catch (error) {
      this.#showHeldHeaders();
      throw error;
    } finally {
      this.#clearTimer();
    }
  }

  #onHeader(received: Headers): void {
    this.#heldHeaders = undefined;
    if (!this.#mark.handled) {
      this.#call.accept(received);
      if (this.#call.isCurable(received)) {
        this.#heldHeaders = received;
        return;
      }
    }
    this.#options.onHeader?.(received);
  }

  #showHeldHeaders(): void {
    if (this.#heldHeaders !== undefined) {
      this.#options.onHeader?.(this.#heldHeaders);
    }
  }
}

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}
