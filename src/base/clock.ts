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
