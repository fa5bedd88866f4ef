import type { StreamResponse } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import type { Call } from "./retry.ts";

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
  call: Call,
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
async function open(call: Call, send: () => Promise<StreamResponse>): Promise<Opened> {
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
  readonly #call: Call;
  readonly #reopen: () => Promise<Opened>;
  #opened: Opened;

  constructor(call: Call, opened: Opened, reopen: () => Promise<Opened>) {
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
