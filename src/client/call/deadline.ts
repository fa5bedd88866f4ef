import { Code, ConnectError } from "@connectrpc/connect";
import type { Clock } from "../../base/clock.ts";

/**
 * Waits for `promise` no longer than until `signal` aborts. What is waited for goes on: others may
 * wait for it too.
 *
 * @throws ConnectError Canceled, or the signal's reason where that is one
 */
export function race<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(reasonOf(signal));
    if (signal.aborted) {
      abort();
    }
    signal.addEventListener("abort", abort, { once: true });
    promise
      .then(resolve, reject)
      .finally(() => signal.removeEventListener("abort", abort))
      .catch(() => {});
  });
}

/**
 * A signal that aborts with DeadlineExceeded after `ms`, or with `signal`.
 *
 * @returns the signal, and a function that lets go of the timer
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

/** Measures what is left of a call's time. */
export class TimeLeft {
  readonly #clock: Clock;
  readonly #start: number;
  readonly #total: number | undefined;

  /** @param total milliseconds; undefined means no limit */
  constructor(clock: Clock, total: number | undefined) {
    this.#clock = clock;
    this.#start = clock.monotonic();
    this.#total = total;
  }

  /**
   * Whole milliseconds, at least 1; undefined when there is no limit.
   *
   * @throws ConnectError DeadlineExceeded when nothing is left
   */
  get ms(): number | undefined {
    if (this.#total === undefined) {
      return undefined;
    }
    const left = this.#total - (this.#clock.monotonic() - this.#start);
    if (left <= 0) {
      throw deadlineExceeded();
    }
    return Math.ceil(left);
  }
}

/** Reads the timeout header of a request; undefined when it has none that Connect would write. */
export function timeoutOf(headers: Headers): number | undefined {
  const text = headers.get(connectTimeout) ?? headers.get(grpcTimeout)?.replace(/m$/, "");
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : undefined;
}

/** Writes the timeout header that a request has anew. */
export function setTimeoutOf(headers: Headers, ms: number): void {
  if (headers.has(connectTimeout)) {
    headers.set(connectTimeout, String(ms));
  } else {
    headers.set(grpcTimeout, `${ms}m`);
  }
}

const connectTimeout = "connect-timeout-ms";
const grpcTimeout = "grpc-timeout";

function deadlineExceeded(): ConnectError {
  return new ConnectError("the operation timed out", Code.DeadlineExceeded);
}

function reasonOf(signal: AbortSignal): ConnectError {
  return ConnectError.from(signal.reason ?? "the operation was aborted", Code.Canceled);
}
