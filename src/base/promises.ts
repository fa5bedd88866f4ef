import type { Clock } from "./clock.ts";

/** A time limit for asynchronous work. */
export interface TimeLimit {
  readonly clock: Clock;
  /** Milliseconds. */
  readonly ms: number;
  /** Whether the timer keeps the process alive, because a caller waits for it. Default false. */
  readonly keepAlive?: boolean;
  /** Creates the rejection for work that takes longer. */
  readonly late: () => Error;
}

/**
 * Settles like `work`, or rejects when the time limit is over. Time that the clock skips does not
 * count, because the work could not make progress in it: a fake clock skips time, for example.
 */
export function inTime<T>(work: Promise<T>, { clock, ms, keepAlive, late }: TimeLimit): Promise<T> {
  return new Promise((resolve, reject) => {
    let ranMeanwhile = false;
    void Promise.resolve().then(() => {
      ranMeanwhile = true;
    });
    let cancel = (): void => {};
    const limit = (wait: number): void => {
      cancel = clock.after(
        wait,
        () => (ranMeanwhile ? reject(late()) : limit(2 * wait)),
        keepAlive,
      );
    };
    limit(ms);
    work.then(resolve, reject).finally(() => cancel());
  });
}

/** Opens a value once for all callers. After a failure, the next caller tries again. */
export class Opener<T> {
  readonly #open: () => Promise<T>;
  #opening: Promise<T> | undefined;
  #value: T | undefined;

  constructor(open: () => Promise<T>) {
    this.#open = open;
  }

  /** The value, if it is open. */
  get value(): T | undefined {
    return this.#value;
  }

  get(): Promise<T> {
    this.#opening ??= this.#open().then(
      (value) => {
        this.#value = value;
        return value;
      },
      (error: unknown) => {
        this.#opening = undefined;
        throw error;
      },
    );
    return this.#opening;
  }
}
