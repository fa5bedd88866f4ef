import { Code, ConnectError } from "@connectrpc/connect";

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

/**
 * Returns the error of a call that its signal has ended.
 * Only errors of Connect are meant for the client; any other reason may hold internal details.
 */
export function endOf({ reason }: AbortSignal): ConnectError {
  return reason instanceof ConnectError
    ? reason
    : new ConnectError("the call was canceled", Code.Canceled, undefined, undefined, reason);
}
