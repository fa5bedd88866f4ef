import type { ConnectError } from "@connectrpc/connect";

/** Hooks for the messages of one direction of a stream. */
export interface Passing {
  /** Runs before a message is passed on. If it ends the stream, the message is not passed on. */
  readonly before?: () => void;
  /** Runs when a message is passed on. If it ends the stream, this message is the last one. */
  readonly after?: () => void;
  /** Converts an error of the source before it is passed on. */
  readonly failed?: (error: unknown) => unknown;
  /** Runs when no more messages will come. */
  readonly over?: () => void;
  /** Whether to call `return` of the source when the stream is ended: it is the handler's generator. */
  readonly returnSource?: boolean;
}

/**
 * Terminates a running stream from outside: readers in both directions receive the reason as an
 * error, and the stream's signal aborts with it.
 */
export class Ending {
  readonly #controller = new AbortController();
  /** Readers waiting for a message. `Promise.race` would leak: each race holds on to a long-lived promise. */
  readonly #waiting = new Set<(reason: ConnectError) => void>();
  readonly #actions = new Set<() => void>();
  #reason: ConnectError | undefined;

  /** Aborts with the reason of `end`, or when the call itself is over. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The reason given to `end`; undefined until then. */
  get reason(): ConnectError | undefined {
    return this.#reason;
  }

  /** Ends the stream. Only the first call has an effect. */
  end(reason: ConnectError): void {
    if (this.#reason !== undefined) {
      return;
    }
    this.#reason = reason;
    // Reject the readers before the signal aborts: an error that the handler throws because of the
    // signal must not arrive first.
    for (const reject of this.#waiting) {
      reject(reason);
    }
    this.#waiting.clear();
    this.#abort(reason);
  }

  /**
   * Reports that the call itself is over: its own signal has aborted. Its client is gone or its deadline
   * has passed, and transports then do not always release a handler that is blocked at a `yield`.
   */
  callEnded(reason: unknown): void {
    this.#abort(reason);
  }

  #abort(reason: unknown): void {
    this.#controller.abort(reason);
    for (const action of this.#actions) {
      action();
    }
    this.#actions.clear();
  }

  /** Settles as `work` does, or rejects with the reason if the stream ends first. */
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

  /** Passes messages on until the stream is ended. */
  wrap<T>(source: AsyncIterable<T>, passing: Passing = {}): AsyncIterable<T> {
    return {
      [Symbol.asyncIterator]: () => {
        return new EndableMessages(this, source[Symbol.asyncIterator](), passing);
      },
    };
  }

  /**
   * Runs `action` when the stream is ended.
   * @returns a function that cancels it
   */
  whenEnded(action: () => void): () => void {
    this.#actions.add(action);
    return () => this.#actions.delete(action);
  }
}

/** Implements all three methods: transports require `throw`, and `yield*` calls those that exist. */
class EndableMessages<T> implements AsyncIterator<T> {
  readonly #ending: Ending;
  readonly #source: AsyncIterator<T>;
  readonly #passing: Passing;
  readonly #cancelLeave: () => void = () => {};

  constructor(ending: Ending, source: AsyncIterator<T>, passing: Passing) {
    this.#ending = ending;
    this.#source = source;
    this.#passing = passing;
    if (passing.returnSource) {
      this.#cancelLeave = ending.whenEnded(() => this.#leave());
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
    // Closing a request before it is read to its end would close the connection before the reason is
    // sent.
    const isKept = this.#ending.reason !== undefined && !this.#passing.returnSource;
    return isKept || this.#source.return === undefined
      ? { done: true, value }
      : this.#source.return(value);
  }

  /** A generator blocked at a `yield` runs its `finally` now; any other runs it when it continues. */
  #leave(): void {
    (async () => this.#source.return?.())().catch(() => {});
  }

  #over(): void {
    this.#cancelLeave();
    this.#passing.over?.();
  }

  #throwIfEnded(): void {
    const { reason, signal } = this.#ending;
    if (signal.aborted) {
      throw reason ?? signal.reason;
    }
  }
}
