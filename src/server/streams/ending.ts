import type { ConnectError } from "@connectrpc/connect";

/** What happens to the messages of one direction of a stream. */
export interface Passing {
  /** Before a message goes on. May end the stream; then the message stays behind. */
  readonly before?: () => void;
  /** When a message goes on. May end the stream; then it is the last one. */
  readonly after?: () => void;
  /** Makes an error of the source the one that goes on. */
  readonly failed?: (error: unknown) => unknown;
  /** When no more message will come. */
  readonly over?: () => void;
  /** Whether the source is told to return when the stream is ended: it is the handler's generator. */
  readonly returnSource?: boolean;
}

/**
 * The end that somebody else puts to a running stream: whoever reads its messages, in either
 * direction, gets the reason instead, and its signal aborts with it.
 */
export class Ending {
  readonly #controller = new AbortController();
  /** Whoever waits for a message now. By hand: a promise that is raced for each message never lets go. */
  readonly #waiting = new Set<(reason: ConnectError) => void>();
  readonly #actions = new Set<() => void>();
  #reason: ConnectError | undefined;

  /** Aborts with the reason, or as the call itself does. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why the stream was ended from here; undefined as long as it was not. */
  get reason(): ConnectError | undefined {
    return this.#reason;
  }

  /** Ends the stream, once. */
  end(reason: ConnectError): void {
    if (this.#reason !== undefined) {
      return;
    }
    this.#reason = reason;
    // First who reads, then the handler: what it throws because of the signal must not be first.
    for (const reject of this.#waiting) {
      reject(reason);
    }
    this.#waiting.clear();
    this.#controller.abort(reason);
    for (const action of this.#actions) {
      action();
    }
    this.#actions.clear();
  }

  /** The call is over by itself: its signal aborted. */
  callEnded(reason: unknown): void {
    this.#controller.abort(reason);
    this.#actions.clear();
  }

  /** The work, or the reason of the end, whichever is first. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#reason !== undefined) {
        reject(this.#reason);
      } else {
        this.#waiting.add(reject);
      }
      work.then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }

  /** The messages, until the stream is ended. */
  wrap<T>(source: AsyncIterable<T>, passing: Passing = {}): AsyncIterable<T> {
    return {
      [Symbol.asyncIterator]: () => {
        return new EndableMessages(this, source[Symbol.asyncIterator](), passing);
      },
    };
  }

  /** @returns a function that takes `action` back */
  whenEnded(action: () => void): () => void {
    this.#actions.add(action);
    return () => this.#actions.delete(action);
  }
}

/** All three methods: transports insist on `throw`, and `yield*` calls what there is. */
class EndableMessages<T> implements AsyncIterator<T> {
  readonly #ending: Ending;
  readonly #source: AsyncIterator<T>;
  readonly #passing: Passing;
  readonly #letGo: () => void = () => {};

  constructor(ending: Ending, source: AsyncIterator<T>, passing: Passing) {
    this.#ending = ending;
    this.#source = source;
    this.#passing = passing;
    if (passing.returnSource) {
      this.#letGo = ending.whenEnded(() => this.#leave());
    }
  }

  async next(): Promise<IteratorResult<T>> {
    try {
      this.#throwIfEnded();
      const result = await this.#ending.race(this.#source.next());
      if (result.done) {
        this.#over();
        return result;
      }
      this.#passing.before?.();
      this.#throwIfEnded();
      this.#passing.after?.();
      return result;
    } catch (error) {
      this.#over();
      throw this.#ending.reason ?? this.#passing.failed?.(error) ?? error;
    }
  }

  async throw(error: unknown): Promise<IteratorResult<T>> {
    this.#over();
    if (this.#source.throw === undefined) {
      this.#leave();
      throw error;
    }
    return this.#source.throw(error);
  }

  async return(value?: unknown): Promise<IteratorResult<T>> {
    this.#over();
    // Closing a request that is not read to its end would close the connection before the reason
    // is sent.
    const isKept = this.#ending.reason !== undefined && !this.#passing.returnSource;
    return isKept || this.#source.return === undefined
      ? { done: true, value }
      : this.#source.return(value);
  }

  /** A generator that waits at a yield runs its `finally` by this, any other when it goes on. */
  #leave(): void {
    (async () => this.#source.return?.())().catch(() => {});
  }

  #over(): void {
    this.#letGo();
    this.#passing.over?.();
  }

  #throwIfEnded(): void {
    if (this.#ending.reason !== undefined) {
      throw this.#ending.reason;
    }
  }
}
