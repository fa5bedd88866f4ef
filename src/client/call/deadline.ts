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
  let stopListening = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stopListening = onAbort(signal, () => reject(reasonOf(signal)));
  });
  try {
    return await Promise.race([aborted, promise]);
  } finally {
    stopListening();
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
 * Creates a signal that aborts with `late()` after `ms`, by default DeadlineExceeded, or together with
 * `signal`.
 *
 * @returns the signal, and a function that clears the timer
 */
export function deadlineSignal(
  clock: Clock,
  ms: number | undefined,
  signal?: AbortSignal,
  late: () => ConnectError = deadlineExceeded,
): [AbortSignal | undefined, () => void] {
  if (ms === undefined) {
    return [signal, () => {}];
  }
  // Not AbortSignal.any, which older browsers and React Native do not have.
  const until = new AbortController();
  const cancel = clock.after(ms, () => abortWith(until, late()));
  const stopListening = signal && onAbort(signal, () => abortWith(until, reasonOf(signal)));
  const done = (): void => {
    cancel();
    stopListening?.();
  };
  return [until.signal, done];
}

/** Calls `listener` when `signal` aborts, or now if it has. Returns a function that stops listening. */
function onAbort(signal: AbortSignal, listener: () => void): () => void {
  if (signal.aborted) {
    listener();
    return () => {};
  }
  signal.addEventListener("abort", listener);
  return () => signal.removeEventListener("abort", listener);
}

/** The error of a call whose time is over. */
export function deadlineExceeded(): ConnectError {
  return new ConnectError("the operation timed out", Code.DeadlineExceeded);
}

/** The reasons of this package's own signals, because React Native's AbortController drops them. */
const reasons = new WeakMap<AbortSignal, ConnectError>();

/** Aborts with a reason that {@link reasonOf} finds in every runtime. */
export function abortWith(controller: AbortController, reason: ConnectError): void {
  // The first reason counts.
  if (!controller.signal.aborted) {
    reasons.set(controller.signal, reason);
    controller.abort(reason);
  }
}

/** The reason of an aborted signal. */
export function reasonOf(signal: AbortSignal): ConnectError {
  const reason: unknown = reasons.get(signal) ?? signal.reason;
  return ConnectError.from(reason ?? "the operation was aborted", Code.Canceled);
}
