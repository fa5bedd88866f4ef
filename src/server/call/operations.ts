import type { Clock } from "../../base/clock.ts";
import { unavailable } from "../../base/errors.ts";

/** What is under way on a server, so that it can finish before it closes. */
export class Operations {
  #count = 0;
  #isClosing = false;
  readonly #closing = new Set<() => void>();
  #idle: () => void = () => {};

  /** Whether the server has begun to close. New calls are refused then. */
  get isClosing(): boolean {
    return this.#isClosing;
  }

  /** Notes that something has begun. Call `end` once it is over, however it ends. */
  begin(): void {
    this.#count += 1;
  }

  end(): void {
    this.#count -= 1;
    if (this.#count === 0) {
      this.#idle();
    }
  }

  /** Runs work that a server finishes before it closes. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.begin();
    try {
      return await work();
    } finally {
      this.end();
    }
  }

  /** @throws SessionError `unavailable` if the server has begun to close */
  assertOpen(): void {
    if (this.#isClosing) {
      throw unavailable(
        "the server is closing; try again, and another server will answer",
        undefined,
        100,
      );
    }
  }

  /** Calls `listener` once, when the server begins to close. */
  onClosing(listener: () => void): void {
    this.#closing.add(listener);
  }

  /** Refuses new calls, and waits until nothing is under way, `within` milliseconds at most. */
  async close(clock: Clock, within: number): Promise<void> {
    if (!this.#isClosing) {
      this.#isClosing = true;
      for (const listener of this.#closing) {
        listener();
      }
    }
    if (this.#count === 0 || within === 0) {
      return;
    }
    await new Promise<void>((resolve) => {
      const cancel = clock.after(within, resolve, true);
      this.#idle = () => {
        cancel();
        resolve();
      };
    });
  }
}
