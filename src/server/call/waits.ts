import { Code, ConnectError } from "@connectrpc/connect";

/**
 * The waits of one call for the store, for keys or for a schema. Each ends with the call's signal.
 * A value that is already there costs nothing: listening to a signal takes longer than verifying a
 * remembered token.
 */
export class Waits {
  readonly #signal: AbortSignal | undefined;
  #waited = false;

  /** @param signal ends every wait when it aborts; undefined for waits that nothing ends */
  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  /** Whether the call has waited, so that a time read before may be out of date. */
  get waited(): boolean {
    return this.#waited;
  }

  /** @throws ConnectError `DeadlineExceeded` or `Canceled` when the signal is first */
  for<T>(work: T | Promise<T>): T | Promise<T> {
    if (!(work instanceof Promise)) {
      return work;
    }
    this.#waited = true;
    return this.#signal === undefined ? work : raceSignal(work, this.#signal);
  }
}

/**
 * Settles with the work or with the end of the call, whichever is first. Connect itself does not
 * end a gate or handler that waits for anything but its signal.
 *
 * @throws ConnectError `DeadlineExceeded` or `Canceled` when the signal is first
 */
export async function raceSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = (): void => {};
  const ended = new Promise<never>((_, reject) => {
    stop = () => reject(endOf(signal));
  });
  if (signal.aborted) {
    stop();
  }
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await Promise.race([ended, work]);
  } finally {
    signal.removeEventListener("abort", stop);
    // The loser of the race must not cause an unhandled rejection.
    work.catch(() => {});
    ended.catch(() => {});
  }
}

/** @throws ConnectError `DeadlineExceeded` or `Canceled` if the call has already ended */
export function throwIfEnded(signal: AbortSignal): void {
  if (signal.aborted) {
    throw endOf(signal);
  }
}

/** Only errors of Connect are meant for the client; any other reason may hold internal details. */
function endOf({ reason }: AbortSignal): ConnectError {
  return reason instanceof ConnectError
    ? reason
    : new ConnectError("the call was canceled", Code.Canceled, undefined, undefined, reason);
}
