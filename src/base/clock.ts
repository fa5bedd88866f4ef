/** The source of time and timers. All other code uses it, so that tests can provide their own. */
export interface Clock {
  /** Returns milliseconds since 1970-01-01 UTC. May jump forward or back. */
  now(): number;
  /** Returns milliseconds since an arbitrary moment. Never decreases. */
  monotonic(): number;
  /**
   * Calls `action` once after `ms` milliseconds.
   * @param keepAlive whether the timer keeps the process alive. Default false, for background work. Use
   *   true if a caller waits for the action
   * @returns a function that cancels the call
   */
  after(ms: number, action: () => void, keepAlive?: boolean): () => void;
}

/** The clock of this machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, action, keepAlive = false) {
    const timer: unknown = setTimeout(action, ms);
    if (!keepAlive) {
      // Browsers return a number, server runtimes an object that would keep the process alive.
      (timer as { unref?: () => void }).unref?.();
    }
    return () => clearTimeout(timer as ReturnType<typeof setTimeout>);
  },
};

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
 * Settles like `work`, or rejects when the time limit is over. Time that a clock skips, as a fake
 * clock does, does not count: nothing could have answered meanwhile.
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
