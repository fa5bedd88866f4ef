import { Code, ConnectError } from "@connectrpc/connect";
import type { Clock } from "../../base/clock.ts";

/** How long the caller of `session.refresh` or `session.signOut` is willing to wait. */
export interface SessionCallOptions {
  /** Rejects the call when it aborts. */
  readonly signal?: AbortSignal;
  /** Rejects the call after this many milliseconds. */
  readonly timeoutMs?: number;
}

/**
 * Waits for `promise`, but only until `signal` aborts. The work behind the promise continues,
 * because others may be waiting for it too.
 *
 * @throws ConnectError Canceled, or the signal's reason if that is a ConnectError
 */
export async function race<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(reasonOf(signal));
  if (signal.aborted) {
    abort();
  }
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([aborted, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Starts `work` and waits for it within the bounds.
 *
 * @param work receives a signal that aborts at the bounds. It may ignore the signal, as some transports
 *   do; the wait ends anyway
 * @throws ConnectError DeadlineExceeded after `timeoutMs`; see {@link race} for the signal
 */
export async function withDeadline<T>(
  clock: Clock,
  { signal, timeoutMs }: SessionCallOptions,
  work: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  const [until, done] = deadlineSignal(clock, timeoutMs, signal);
  try {
    return await race(work(until), until);
  } finally {
    done();
  }
}

/**
 * Creates a signal that aborts with DeadlineExceeded after `ms`, or together with `signal`.
 *
 * @returns the signal, and a function that clears the timer
 */
export function deadlineSignal(
  clock: Clock,
  ms: number | undefined,
  signal?: AbortSignal,
): [AbortSignal | undefined, () => void] {
  if (ms === undefined) {
    return [signal, () => {}];
  }
  const timeout = new AbortController();
  const cancel = clock.after(ms, () => timeout.abort(deadlineExceeded()));
  return [signal ? AbortSignal.any([signal, timeout.signal]) : timeout.signal, cancel];
}

/** The error of a call whose time is over. */
export function deadlineExceeded(): ConnectError {
  return new ConnectError("the operation timed out", Code.DeadlineExceeded);
}

function reasonOf(signal: AbortSignal): ConnectError {
  return ConnectError.from(signal.reason ?? "the operation was aborted", Code.Canceled);
}
