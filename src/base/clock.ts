/** Where time comes from. Tests give their own; nothing else reads a clock or sets a timer. */
export interface Clock {
  /** Milliseconds since 1970-01-01 UTC. May jump. */
  now(): number;
  /** Milliseconds since some moment. Never goes back. */
  monotonic(): number;
  /**
   * Calls `action` once after `ms` milliseconds.
   * @param keepAlive whether the process lives on for it. Default false: right for background work,
   * wrong for what a caller waits for
   * @returns a function that cancels the call
   */
  after(ms: number, action: () => void, keepAlive?: boolean): () => void;
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, action, keepAlive = false) {
    const timer: unknown = setTimeout(action, ms);
    if (!keepAlive) {
      // Browsers return a number; server runtimes an object that would keep the process alive.
      (timer as { unref?: () => void }).unref?.();
    }
    return () => clearTimeout(timer as ReturnType<typeof setTimeout>);
  },
};
