import type { Clock } from "../../base/clock.ts";
import { unavailable } from "../../base/errors.ts";

/** The number of calls after which those are looked for that ended without their interceptor. */
const lookAt = 1_024;

/**
 * What is under way on a server, so that it can finish before the server closes: calls, from their gate
 * to their end, and operations such as `sessions.issue`.
 */
export class Operations {
  /** The calls under way. The signal of a call aborts however it ends, also if its body was malformed. */
  readonly #calls = new Map<object, AbortSignal>();
  #lookAt = lookAt;
  #count = 0;
  #isClosing = false;
  #isOver = false;
  readonly #closing = new Set<(within: number) => void>();
  #changed: () => void = () => {};

  /** Whether the server ends its streams, because it is about to stop. */
  isDraining = false;

  /** Whether the server has begun to close. New calls are refused then. */
  get isClosing(): boolean {
    return this.#isClosing;
  }

  /** What is under way, for people; undefined if nothing is. */
  get left(): string | undefined {
    return this.#calls.size + this.#count === 0
      ? undefined
      : `calls: ${this.#calls.size}, operations: ${this.#count}`;
  }

  /** Notes that a call begins. */
  begin(call: object, signal: AbortSignal): void {
    if (this.#isClosing || signal.aborted) {
      return;
    }
    if (this.#calls.size >= this.#lookAt) {
      this.#forgetEnded();
      this.#lookAt = Math.max(lookAt, 2 * this.#calls.size);
    }
    this.#calls.set(call, signal);
  }

  /** Notes that a call has ended, or that it is not to be waited for. */
  end(call: object): void {
    this.#calls.delete(call);
    this.#changed();
  }

  /**
   * Runs work that a server finishes before it closes. The handlers of calls under way may begin some
   * while it closes.
   * @throws SessionError `unavailable` if no call is under way any more
   */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isOver) {
      throw closing();
    }
    this.#count += 1;
    try {
      return await work();
    } finally {
      this.#count -= 1;
      this.#changed();
    }
  }

  /** The same for all methods of an object. */
  tracked<T extends object>(methods: T): T {
    const entries = Object.entries(methods).map(([name, method]: [string, unknown]) => {
      return typeof method === "function"
        ? [name, (...given: unknown[]) => this.run(async () => method(...given))]
        : [name, method];
    });
    return Object.fromEntries(entries) as T;
  }

  /** @throws SessionError `unavailable` if the server has begun to close */
  assertOpen(): void {
    if (this.#isClosing) {
      throw closing();
    }
  }

  /** Calls `listener` once, when the server begins to close, with the milliseconds it may take. */
  onClosing(listener: (within: number) => void): void {
    this.#closing.add(listener);
  }

  /**
   * Refuses new calls and waits for those under way; then refuses operations and waits for those. Waits
   * for `within` milliseconds at most.
   */
  async close(clock: Clock, within: number): Promise<void> {
    this.#isClosing = true;
    for (const listener of this.#closing) {
      listener(within);
    }
    const finished = this.#finish();
    if (this.left !== undefined && within > 0) {
      let cancel = (): void => {};
      const late = new Promise<void>((resolve) => {
        cancel = clock.after(within, resolve, true);
      });
      await Promise.race([finished, late]);
      cancel();
    }
    this.#isOver = true;
  }

  async #finish(): Promise<void> {
    this.#forgetEnded();
    for (const [call, signal] of this.#calls) {
      signal.addEventListener("abort", () => this.end(call), { once: true });
    }
    while (this.#calls.size > 0) {
      await this.#change();
    }
    this.#isOver = true;
    while (this.#count > 0) {
      await this.#change();
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#changed = resolve;
    });
  }

  #forgetEnded(): void {
    for (const [call, signal] of this.#calls) {
      if (signal.aborted) {
        this.#calls.delete(call);
      }
    }
  }
}

function closing() {
  return unavailable(
    "the server is closing; try again, and another server will answer",
    undefined,
    100,
  );
}
