import { Code, type ConnectError } from "@connectrpc/connect";
import {
  Action,
  type RefreshHint,
  RefreshHintSchema,
  Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";

/**
 * The error detail with which the server instructs a client how to react to a refused call: refresh
 * and try again, sign in, or neither.
 */
export interface Hint {
  readonly action: "refresh" | "signIn" | "none";
  /** Whether the session is over and the client should discard its tokens. */
  readonly clear: boolean;
  /** The id of the session; empty if the server could not verify one. */
  readonly sessionId: string;
}

/**
 * Reads the hint of an error: only from Unauthenticated errors, and only for this client's realm. An
 * HTTP status or a message never counts, because a proxy's plain 401 is not about the session.
 *
 * @param realm the realm of this client; undefined if not known yet, and then any realm counts
 */
export function hintOf(error: ConnectError, realm: string | undefined): Hint | undefined {
  if (error.code !== Code.Unauthenticated) {
    return undefined;
  }
  const hint = error
    .findDetails(RefreshHintSchema)
    .find((found) => found.realm !== "" && (realm === undefined || found.realm === realm));
  return (
    hint && {
      action: actionOf(hint),
      clear: hint.tokens === Tokens.CLEAR,
      sessionId: hint.session,
    }
  );
}

/** Milliseconds that the server asks the client to wait; 0 if it does not ask. */
export function retryAfterOf(error: ConnectError): number {
  const [hint] = error.findDetails(RefreshHintSchema);
  const { seconds = 0n, nanos = 0 } = hint?.retryAfter ?? {};
  return Number(seconds) * 1_000 + nanos / 1e6;
}

/**
 * Whether a call failed for a temporary reason: the server could not serve it now, or the connection
 * was lost. Transports report a lost connection with different codes.
 */
export function isInterruption(error: ConnectError): boolean {
  // Over HTTP/2 a lost connection is Canceled, so check the caller's own signal first.
  const isTemporary = error.code === Code.Unavailable || error.code === Code.Canceled;
  return isTemporary || (localCodes.has(error.code) && hasNetworkCause(error));
}

/** An action that only a newer server uses counts as SIGN_IN, because signing in always helps. */
function actionOf(hint: RefreshHint): Hint["action"] {
  if (hint.action === Action.REFRESH) {
    return "refresh";
  }
  return otherActions.has(hint.action) ? "none" : "signIn";
}

const otherActions = new Set<number>([Action.UNSPECIFIED, Action.STEP_UP, Action.RETRY_LATER]);

/** The codes that transports give to failures of their own. */
const localCodes: ReadonlySet<Code> = new Set([Code.Aborted, Code.Unknown, Code.Internal]);

/** `fetch` rejects with a TypeError (Fetch Standard); Node.js rejects with an error that has a code. */
function hasNetworkCause(error: ConnectError): boolean {
  for (let cause: unknown = error.cause, depth = 0; cause instanceof Error && depth < 5; depth++) {
    if (cause instanceof TypeError || typeof (cause as { code?: unknown }).code === "string") {
      return true;
    }
    cause = cause.cause;
  }
  return false;
}
