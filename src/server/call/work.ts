import { type SessionError, unavailable } from "../../base/errors.ts";

/** The number of calls after which those are looked for that ended without their interceptor. */
const lookAt = 1_024;

/**
 * The work of an instance: calls, from their gate to their end, and operations such as `sessions.issue`.
 * `finish` waits for all of it when the instance closes.
 */
export class Work {
  #state: "open" | "finishing" | "over" = "open";
  /** The calls under way. The signal of a call aborts however it ends, also if its body was malformed. */
  readonly #calls = new Map<object, AbortSignal>();
  #lookAt = lookAt;
  #operations = 0;
  /** Whether this server prepares for its stop, and keeps no streams. */
  isDraining = false;
  #changed = (): void => {};

  /** Notes that a call begins. Calls that begin while the instance closes are not waited for. */
  begin(call: object, signal: AbortSignal): void {
    if (this.#state !== "open" || signal.aborted) {
      return;
    }
    if (this.#calls.size >= this.#lookAt) {
      this.#forgetEnded();
      this.#lookAt = Math.max(lookAt, 2 * this.#calls.size);
    }
    this.#calls.set(call, signal);
  }

  /** Notes that a call ended, or that it is not to be waited for. */
  end(call: object): void {
    this.#calls.delete(call);
    this.#changed();
  }

  /** @throws SessionError `unavailable` if the instance is closing, so that no new call may begin */
  assertOpen(): void {
    if (this.#state !== "open") {
      throw closed();
    }
  }

  /**
   * Does an operation that is waited for. Handlers of calls under way may begin some while the instance
   * closes.
   * @throws SessionError `unavailable` if the instance has closed
   */
  async run<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#state === "over") {
      throw closed();
    }
    this.#operations += 1;
    try {
      return await operation();
    } finally {
      this.#operations -= 1;
      this.#changed();
    }
  }

  /** The same for all methods of an object. */
  waitedFor<T extends object>(methods: T): T {
    const entries = Object.entries(methods).map(([name, method]: [string, unknown]) => {
      return typeof method === "function"
        ? [name, (...given: unknown[]) => this.run(async () => method(...given))]
        : [name, method];
    });
    return Object.fromEntries(entries) as T;
  }

  /** Refuses new calls, waits for those under way, then refuses operations and waits for those. */
  async finish(): Promise<void> {
    this.#state = "finishing";
    this.#forgetEnded();
    for (const [call, signal] of this.#calls) {
      signal.addEventListener("abort", () => this.end(call), { once: true });
    }
    while (this.#calls.size > 0) {
      await this.#change();
    }
    this.#state = "over";
    while (this.#operations > 0) {
      await this.#change();
    }
  }

  /** What is under way, for people. */
  get left(): string {
    return `calls: ${this.#calls.size}, operations: ${this.#operations}`;
  }

  /** Refuses everything from now on, because the time of `finish` is over. */
  giveUp(): void {
    this.#state = "over";
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

function closed(): SessionError {
  return unavailable("the sessions of this server are closed; try another server");
}
