import { Code, type ConnectError } from "@connectrpc/connect";
import {
  type Action,
  type Reason,
  type RefreshHint,
  RefreshHintSchema,
  type Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { header } from "../../base/wire.ts";

// Numbers, because the enums carry all their names, and every page would load them.
const stepUp: typeof Action.STEP_UP = 3;
const tokensClear: typeof Tokens.CLEAR = 2;
const sessionMissing: typeof Reason.SESSION_MISSING = 1;

/**
 * The error detail with which the server instructs a client how to react to a refused call: refresh
 * and try again, sign in, or neither.
 */
export interface Hint {
  readonly action: "refresh" | "signIn" | "stepUp" | "none";
  /** Whether the session is over and the client should discard its tokens. */
  readonly clear: boolean;
  /** Whether the call came without any token of the service. */
  readonly isMissing: boolean;
  /** The id of the session; empty if the server could not verify one. */
  readonly sessionId: string;
  readonly procedure: string;
  readonly acrValues: readonly string[];
  /** Seconds. */
  readonly maxAge: number | undefined;
}

/**
 * Reads the hint of an error: only from Unauthenticated errors, and STEP_UP from PermissionDenied; and
 * only for this client's realm. An HTTP status or a message never counts, because a proxy's plain 401
 * is not about the session.
 *
 * @param realm the realm of this client; undefined if not known yet, and then any realm counts
 */
export function hintOf(error: ConnectError, realm: string | undefined): Hint | undefined {
  const hint = error
    .findDetails(RefreshHintSchema)
    .find(
      (found) =>
        error.code === (found.action === stepUp ? Code.PermissionDenied : Code.Unauthenticated) &&
        found.realm !== "" &&
        (realm === undefined || found.realm === realm || found.olderRealms.includes(realm)),
    );
  return (
    hint && {
      action: actionOf(hint),
      clear: hint.tokens === tokensClear,
      isMissing: hint.reason === sessionMissing && hint.tokens !== tokensClear,
      sessionId: hint.session,
      procedure: hint.procedure,
      acrValues: hint.acrValues,
      maxAge: hint.maxAge && Number(hint.maxAge.seconds),
    }
  );
}

/**
 * Like {@link hintOf}, for streams that the application has declared safe to open again. Some gateways
 * drop the details of an error. Then the header or trailer `rpcsession-hint: refresh` counts, which
 * can start a refresh but never end a session.
 */
export function streamHintOf(
  error: ConnectError,
  realm: string | undefined,
): StreamHint | undefined {
  const hint = hintOf(error, realm);
  const isBare =
    error.code === Code.Unauthenticated && error.findDetails(RefreshHintSchema).length === 0;
  return isBare && error.metadata.get(header.hint) === "refresh" ? bareRefresh : hint;
}

/** The part of a hint that a refresh depends on. */
export type StreamHint = Pick<Hint, "action" | "sessionId">;

const bareRefresh: StreamHint = { action: "refresh", sessionId: "" };

/** Milliseconds that the server asks the client to wait; 0 if it does not ask. */
export function retryAfterOf(error: ConnectError): number {
  const [hint] = error.findDetails(RefreshHintSchema);
  const { seconds = 0n, nanos = 0 } = hint?.retryAfter ?? {};
  return Number(seconds) * 1_000 + nanos / 1e6;
}

/**
 * Whether a call was interrupted: the service could not serve it now, or something other than the
 * service ended it. That is a lost connection, a response that ends before the protocol's end, or the
 * page of a gateway. Transports report these with many codes. An answer of the service in its protocol
 * is an interruption only if it says Unavailable.
 */
export function isInterruption(error: ConnectError): boolean {
  if (error.code === Code.Unavailable) {
    return true;
  }
  // Connect marks the errors that it read from a response. Errors of a transport have no details.
  if (error.isWireError || error.details.length > 0) {
    return false;
  }
  if (error.cause instanceof Error) {
    return exceptionCodes.has(error.code) && hasNetworkCause(error.cause);
  }
  if (httpCodes.has(error.code)) {
    // From the status of a page, whose headers the error carries. Without them it is the
    // application's own.
    return !error.metadata.keys().next().done;
  }
  return error.code === Code.InvalidArgument
    ? error.rawMessage.startsWith("protocol error")
    : transportCodes.has(error.code) && !repeating.test(error.rawMessage);
}

/**
 * Like {@link isInterruption}, for calls of SessionService. Connect takes every JSON page with the
 * status 401, 403 or 404 for an error of a unary call. Errors of SessionService have details, or the
 * header `rpcsession-hint`, which no gateway sends.
 */
export function isUnanswered(error: ConnectError): boolean {
  const { code, details, metadata } = error;
  const isPage =
    httpCodes.has(code) &&
    /^application\/json\b/i.test(metadata.get("content-type") ?? "") &&
    details.length === 0 &&
    !metadata.has(header.hint);
  return isPage || isInterruption(error);
}

/** An action that only a newer server uses counts as SIGN_IN, because signing in always helps. */
function actionOf(hint: RefreshHint): Hint["action"] {
  return actions[hint.action] ?? "signIn";
}

const actions: Readonly<Record<number, Hint["action"]>> = {
  [0 satisfies typeof Action.UNSPECIFIED]: "none",
  [1 satisfies typeof Action.REFRESH]: "refresh",
  [3 satisfies typeof Action.STEP_UP]: "stepUp",
  [4 satisfies typeof Action.RETRY_LATER]: "none",
};

/** The codes with which transports report an exception of the network, which is then the cause. */
const exceptionCodes: ReadonlySet<Code> = new Set([Code.Aborted, Code.Unknown, Code.Internal]);

/** The codes of a response with the HTTP status 401, 403 or 404, if it is not of the protocol. */
const httpCodes: ReadonlySet<Code> = new Set([
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.Unimplemented,
]);

/** The other codes that transports choose for what they cannot read, or for a stream that was reset. */
const transportCodes: ReadonlySet<Code> = new Set([
  Code.Canceled,
  Code.Unknown,
  Code.Internal,
  Code.ResourceExhausted,
  Code.DataLoss,
]);

/** How transports begin the message of a failure that a further attempt would only repeat. */
const repeating = /^(parse|serialize|message size) /;

/** `fetch` rejects with a TypeError (Fetch Standard); Node.js rejects with an error that has a code. */
function hasNetworkCause(first: Error): boolean {
  for (let cause: unknown = first, depth = 0; cause instanceof Error && depth < 5; depth++) {
    if (cause instanceof TypeError || typeof (cause as { code?: unknown }).code === "string") {
      return true;
    }
    cause = cause.cause;
  }
  return false;
}
