import type { CallOptions } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import { coreOf, type SessionClient } from "../session-client.ts";
import type { SessionCore } from "../state/core.ts";
import { SessionCall } from "./call.ts";
import { deadlineSignal, TimeLeft } from "./deadline.ts";
import { type Handled, withMark } from "./mark.ts";

/**
 * Gives a client that exists already the session: its calls carry the tokens, take new ones, and
 * are refreshed for and sent again by the same rules as on `session.transport`. Two limits: a
 * method's very first call cannot wait for an early refresh (whether it is a stream is only known
 * by its result), and a request that is an iterable of messages is never sent again.
 *
 * Tokens go where the client's own transport goes; give it one to the session's service only.
 *
 * @param client any client made by Connect's `createClient`
 * @returns an object of the same type. When its transport has the session's interceptor already,
 *   that one does the work; a call is sent twice at most
 * @throws TypeError when `client` is no client or `session` none of `createSessionClient`
 */
export function withRefresh<C extends object>(client: C, session: SessionClient): C {
  const core = coreOf(session);
  if (core === undefined) {
    throw new TypeError("withRefresh: session is none; give what createSessionClient returned");
  }
  const methods = typeof client === "object" && client !== null ? Object.entries(client) : [];
  if (methods.length === 0 || !methods.every(([, method]) => typeof method === "function")) {
    throw new TypeError("withRefresh: client is none; give what Connect's createClient returned");
  }
  if (wrapped.get(client) === core) {
    return client;
  }
  const result = Object.fromEntries(methods.map(([name, method]) => [name, wrap(method, core)]));
  wrapped.set(result, core);
  return result as C;
}

const wrapped = new WeakMap<object, SessionCore>();

type Method = (input: unknown, options?: CallOptions) => unknown;

function wrap(method: Method, core: SessionCore): Method {
  let streams: boolean | undefined;
  return (input, options = {}) => {
    const call = new WrappedCall(core, method, { input, options });
    // Clients do not carry the schema: the first result tells the kind of the method.
    const sent = streams === undefined ? call.send() : undefined;
    streams ??= isIterable(sent);
    return streams
      ? call.stream(sent as AsyncIterable<unknown> | undefined)
      : call.unary(sent as Promise<unknown> | undefined);
  };
}

class WrappedCall {
  readonly #method: Method;
  readonly #input: unknown;
  readonly #options: CallOptions;
  readonly #call: SessionCall;
  readonly #left: TimeLeft;
  readonly #handled: Handled = { by: false };
  readonly #letGo: () => void;
  #heldHeader: Headers | undefined;

  constructor(
    core: SessionCore,
    method: Method,
    { input, options }: { readonly input: unknown; readonly options: CallOptions },
  ) {
    const { clock } = core.options;
    const timeoutMs = options.timeoutMs && options.timeoutMs > 0 ? options.timeoutMs : undefined;
    const [signal, letGo] = deadlineSignal(clock, timeoutMs, options.signal);
    this.#method = method;
    this.#input = input;
    this.#options = options;
    this.#letGo = letGo;
    this.#left = new TimeLeft(clock, timeoutMs);
    this.#call = new SessionCall(core, { signal, replayable: !isIterable(input) });
  }

  send(): unknown {
    const { ms } = this.#left;
    const headers = new Headers(this.#options.headers);
    this.#call.attach(headers);
    return this.#method(this.#input, {
      ...this.#options,
      headers,
      ...(ms !== undefined && { timeoutMs: ms }),
      contextValues: withMark(this.#options.contextValues, this.#handled),
      onHeader: (answer) => this.#take(answer),
    });
  }

  async unary(sent: Promise<unknown> | undefined): Promise<unknown> {
    let result = sent;
    try {
      if (result === undefined) {
        await this.#call.prepare(isIterable(this.#input));
      }
      for (;;) {
        try {
          const message = await (result ?? this.send());
          this.#call.succeeded();
          return message;
        } catch (error) {
          await this.#recover(error);
          result = undefined;
        }
      }
    } finally {
      this.#letGo();
    }
  }

  /** Sends at once, as clients do; without `throw` and `return`, as they are. */
  stream(sent: AsyncIterable<unknown> | undefined): AsyncIterable<unknown> {
    const open = async (): Promise<AsyncIterable<unknown>> => {
      await this.#call.prepare(true);
      return this.send() as AsyncIterable<unknown>;
    };
    const opened = sent === undefined ? open() : Promise.resolve(sent);
    // Whoever iterates gets the error; nobody may.
    opened.catch(() => {});
    const messages = this.#messages(opened);
    return { [Symbol.asyncIterator]: () => ({ next: () => messages.next() }) };
  }

  async *#messages(opened: Promise<AsyncIterable<unknown>>): AsyncGenerator<unknown> {
    let source: Promise<AsyncIterable<unknown>> | undefined = opened;
    try {
      for (;;) {
        try {
          for await (const message of (await (source ?? this.send())) as AsyncIterable<unknown>) {
            this.#call.succeeded();
            yield message;
          }
          this.#call.succeeded();
          return;
        } catch (error) {
          await this.#recover(error);
          source = undefined;
        }
      }
    } finally {
      this.#letGo();
    }
  }

  #take(answer: Headers): void {
    if (!this.#handled.by) {
      this.#call.accept(answer);
      if (answer.get(header.hint) === "refresh" && this.#call.mayResend) {
        // Headers of a refusal; the caller sees them only if there will be no better ones.
        this.#heldHeader = answer;
        return;
      }
    }
    this.#heldHeader = undefined;
    this.#options.onHeader?.(answer);
  }

  async #recover(error: unknown): Promise<void> {
    const held = this.#heldHeader;
    this.#heldHeader = undefined;
    try {
      if (this.#handled.by) {
        throw error;
      }
      await this.#call.recover(error);
    } catch (final) {
      if (held !== undefined) {
        this.#options.onHeader?.(held);
      }
      throw final;
    }
  }
}

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}
