import type { Interceptor, StreamResponse, UnaryResponse } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import type { SessionCore } from "../state/core.ts";
import { SessionCall } from "./call.ts";
import { setTimeoutOf, TimeLeft, timeoutOf } from "./deadline.ts";
import { claim } from "./mark.ts";

/** A request whose messages can be read from the start again. */
export interface Replay<T> {
  /**
   * The messages from the first one on. Ending a reader does not end the source: the transport
   * ends the readers of an attempt that failed.
   */
  open(): AsyncIterable<T>;
}

/**
 * Makes a request replayable by keeping every message that was read. Meant for requests of one
 * message; one that is longer is kept as a whole.
 */
export function replayable<T>(source: AsyncIterable<T>): Replay<T> {
  const pulls: Promise<IteratorResult<T>>[] = [];
  let iterator: AsyncIterator<T> | undefined;
  const pull = (index: number): Promise<IteratorResult<T>> => {
    iterator ??= source[Symbol.asyncIterator]();
    pulls[index] ??= iterator.next();
    return pulls[index];
  };
  return { open: () => ({ [Symbol.asyncIterator]: () => reader(pull) }) };
}

/** Transports insist on `throw` and `return`. */
function reader<T>(pull: (index: number) => Promise<IteratorResult<T>>): AsyncIterator<T> {
  let index = 0;
  let ended = false;
  return {
    async next() {
      return ended ? { done: true, value: undefined } : pull(index++);
    },
    async throw(reason) {
      ended = true;
      throw reason;
    },
    async return() {
      ended = true;
      return { done: true, value: undefined };
    },
  };
}

type Message = StreamResponse["message"] extends AsyncIterable<infer M> ? M : never;

/** One attempt whose headers have arrived. */
interface Opened {
  readonly response: StreamResponse;
  readonly messages: AsyncIterator<Message>;
  /** The first read, where it had to be done already. */
  first: IteratorResult<Message> | undefined;
}

/**
 * Opens a stream, and once more where it is refused before its first message. The refusal may come
 * instead of the headers, or (from servers of Connect) on the first read after them.
 */
export async function streamCall(
  call: SessionCall,
  send: () => Promise<StreamResponse>,
): Promise<StreamResponse> {
  const opened = await open(call, send);
  const { response } = opened;
  // Copies, because a later attempt may yet replace what is in them.
  const answer = { header: new Headers(response.header), trailer: new Headers() };
  const messages = new StreamMessages(call, opened, async () => {
    const again = await open(call, send);
    refill(answer.header, again.response.header);
    return again;
  });
  return {
    ...response,
    ...answer,
    message: { [Symbol.asyncIterator]: () => messages.iterator(answer.trailer) },
  };
}

/** Sends until it is accepted. `recover` throws when the call shall not be sent again. */
async function open(call: SessionCall, send: () => Promise<StreamResponse>): Promise<Opened> {
  for (;;) {
    try {
      const response = await send();
      call.accept(response.header);
      const messages = response.message[Symbol.asyncIterator]();
      // The server says that an error follows: wait for it, so that the caller never sees the
      // headers of the refusal.
      const refused = response.header.get(header.hint) === "refresh" && call.mayResend;
      return { response, messages, first: refused ? await messages.next() : undefined };
    } catch (error) {
      await call.recover(error);
    }
  }
}

class StreamMessages {
  readonly #call: SessionCall;
  readonly #reopen: () => Promise<Opened>;
  #opened: Opened;

  constructor(call: SessionCall, opened: Opened, reopen: () => Promise<Opened>) {
    this.#call = call;
    this.#opened = opened;
    this.#reopen = reopen;
  }

  iterator(trailer: Headers): AsyncIterator<Message> {
    return {
      next: async () => {
        const result = await this.#read();
        this.#call.succeeded();
        if (result.done) {
          refill(trailer, this.#opened.response.trailer);
        }
        return result;
      },
      throw: async (reason) => {
        await this.#opened.messages.throw?.(reason);
        throw reason;
      },
      return: async (value) => {
        await this.#opened.messages.return?.(value);
        return { done: true, value };
      },
    };
  }

  async #read(): Promise<IteratorResult<Message>> {
    for (;;) {
      const { first, messages } = this.#opened;
      this.#opened.first = undefined;
      try {
        return first ?? (await messages.next());
      } catch (error) {
        await this.#call.recover(error);
        this.#opened = await this.#reopen();
      }
    }
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

/** Attaches tokens, takes new ones, and refreshes and sends once more what was refused for age. */
export function sessionInterceptor(core: SessionCore): Interceptor {
  return (next) => async (req) => {
    const contextValues = claim(req.contextValues);
    return contextValues === undefined ? next(req) : run({ ...req, contextValues }, next, core);
  };
}

async function run(req: Request, next: Next, core: SessionCore): ReturnType<Next> {
  const left = new TimeLeft(core.options.clock, timeoutOf(req.header));
  const one = !req.stream || req.method.methodKind === "server_streaming";
  const call = new SessionCall(core, { signal: req.signal, replayable: one });
  await call.prepare(req.stream);
  const attach = (): void => {
    const { ms } = left;
    if (ms !== undefined) {
      setTimeoutOf(req.header, ms);
    }
    call.attach(req.header);
  };
  if (!req.stream) {
    return unaryCall(call, () => {
      attach();
      return next(req) as Promise<UnaryResponse>;
    });
  }
  const messages = one ? replayable(req.message) : { open: () => req.message };
  return streamCall(call, () => {
    attach();
    return next({ ...req, message: messages.open() }) as Promise<StreamResponse>;
  });
}

type Next = Parameters<Interceptor>[0];
type Request = Parameters<Next>[0];

async function unaryCall(
  call: SessionCall,
  send: () => Promise<UnaryResponse>,
): Promise<UnaryResponse> {
  for (;;) {
    try {
      const response = await send();
      call.accept(response.header);
      call.succeeded();
      return response;
    } catch (error) {
      // Throws unless the call shall be sent again.
      await call.recover(error);
    }
  }
}
