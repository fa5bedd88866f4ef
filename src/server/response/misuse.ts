import { Code, ConnectError } from "@connectrpc/connect";

/** A developer's mistake: the message is for them, and holds nothing of the request. */
export function misuse(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Internal, undefined, undefined, cause);
}
