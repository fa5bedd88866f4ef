import { Code, type ConnectError } from "@connectrpc/connect";
import { RefreshHintSchema } from "../../../gen/rpcsession/v1/hint_pb.ts";

/**
 * Whether a call failed for a reason that passes: the server could not serve it now, or the
 * connection was lost. Transports tell the latter by different codes.
 */
export function isInterruption(error: ConnectError): boolean {
  // Over HTTP/2 a lost connection is Canceled; so the caller's own signal is to be asked first.
  const passes = error.code === Code.Unavailable || error.code === Code.Canceled;
  return passes || (localCodes.has(error.code) && hasNetworkCause(error));
}

/** Milliseconds that the server asks to wait; 0 where it does not say. */
export function retryAfterOf(error: ConnectError): number {
  const [hint] = error.findDetails(RefreshHintSchema);
  const { seconds = 0n, nanos = 0 } = hint?.retryAfter ?? {};
  return Number(seconds) * 1_000 + nanos / 1e6;
}

/** The codes of a failure that no server sent. */
const localCodes: ReadonlySet<Code> = new Set([Code.Aborted, Code.Unknown, Code.Internal]);

/** `fetch` rejects with a TypeError (Fetch Standard), Node.js with an error that has a code. */
function hasNetworkCause(error: ConnectError): boolean {
  for (let cause: unknown = error.cause, depth = 0; cause instanceof Error && depth < 5; depth++) {
    if (cause instanceof TypeError || typeof (cause as { code?: unknown }).code === "string") {
      return true;
    }
    cause = cause.cause;
  }
  return false;
}
