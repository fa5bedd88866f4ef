import { Code, type ConnectError } from "@connectrpc/connect";
import {
  Action,
  type RefreshHint,
  RefreshHintSchema,
  Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { header } from "../../base/wire.ts";

/** What a refused call asks of its client. */
export interface Hint {
  readonly action: "refresh" | "signIn" | "none";
  /** Whether the session is over and its tokens are worth nothing. */
  readonly clear: boolean;
  /** The id of the session, or empty when none was proven. */
  readonly session: string;
}

/**
 * Reads the hint of an error, if it is Unauthenticated and carries one of our realm. An HTTP status
 * or a text never counts: a proxy's plain 401 says nothing about the session.
 *
 * @param realm the realm of this client; undefined while it knows none, and then any realm counts
 */
export function hintOf(error: ConnectError, realm: string | undefined): Hint | undefined {
  if (error.code !== Code.Unauthenticated) {
    return undefined;
  }
  const ours = error
    .findDetails(RefreshHintSchema)
    .find((hint) => hint.realm !== "" && (realm === undefined || hint.realm === realm));
  return (
    ours && { action: actionOf(ours), clear: ours.tokens === Tokens.CLEAR, session: ours.session }
  );
}

/**
 * Takes the tokens out of an error's metadata: a caller may log the error.
 */
export function withoutTokens(error: ConnectError): ConnectError {
  for (const name of [header.accessToken, header.refreshToken, header.csrf]) {
    error.metadata.delete(name);
  }
  return error;
}

/** An action that only a newer server knows means signing in: that always helps. */
function actionOf(hint: RefreshHint): Hint["action"] {
  if (hint.action === Action.REFRESH) {
    return "refresh";
  }
  return others.has(hint.action) ? "none" : "signIn";
}

const others = new Set<number>([Action.UNSPECIFIED, Action.STEP_UP, Action.RETRY_LATER]);

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
