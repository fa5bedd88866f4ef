import type { Clock } from "./clock.ts";

/**
 * Goes on with a value: at once where it is there, so that a call that waits for nothing makes no
 * promises.
 */
export function andThen<T, R>(
  value: T | Promise<T>,
  next: (value: T) => R | Promise<R>,
): R | Promise<R> {
  return value instanceof Promise ? goOn(value, next) : next(value);
}

async function goOn<T, R>(value: Promise<T>, next: (value: T) => R | Promise<R>): Promise<R> {
  return next(await value);
}

/** How long work may take. */
export interface TimeLimit {
  readonly clock: Clock;
  /** Milliseconds. */
  readonly ms: number;
  /** Whether a caller waits for it, so that the process must live on. Default false. */
  readonly keepAlive?: boolean;
  /** What it rejects with when it took longer. */
  readonly late: () => Error;
}

/**
 * The work, or a rejection when it takes too long. Time that a clock jumps over, as a test's does,
 * is not held against it: nobody could have answered meanwhile.
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

/** Opens something once, however many wait for it; a failure is forgotten, so that it is tried again. */
export interface Opener<T> {
  get(): Promise<T>;
  /** What is open now, without a promise; undefined before and after. */
  opened(): T | undefined;
  /** Ends it for good: resolves to what was opened, if anything was. Later calls of `get` reject. */
  end(): Promise<T | undefined>;
}

export function createOpener<T>(open: () => Promise<T>): Opener<T> {
  let opening: Promise<T> | undefined;
  let opened: T | undefined;
  let ended = false;
  return {
    get() {
      if (ended) {
        return Promise.reject(new Error("closed"));
      }
      opening ??= open().then(
        (value) => {
          opened = value;
          return value;
        },
        (error: unknown) => {
          opening = undefined;
          throw error;
        },
      );
      return opening;
    },
    opened: () => (ended ? undefined : opened),
    async end() {
      ended = true;
      return await opening?.catch(() => undefined);
    },
  };
}
