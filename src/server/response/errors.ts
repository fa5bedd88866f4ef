import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import {
  Action,
  PolicyViolationsSchema,
  Reason,
  RefreshHintSchema,
  Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { type PolicyViolation, SessionError, type SessionErrorReason } from "../../base/errors.ts";
import { header, proofHeader } from "../../base/wire.ts";
import { foreignIssuer, presentedIssuer } from "../authenticate/candidates.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";
import { expireCookies } from "./tokens.ts";

/** An error that ended a call. */
interface Failure {
  readonly error: unknown;
  /** The procedure of the method, such as "notes.v1.NotesService/ListNotes"; undefined outside RPCs. */
  readonly procedure: string | undefined;
}

/** Refuses a call: writes the response headers and returns the error to send. */
export function refuseCall(
  core: VerifyingCore,
  call: Call,
  failure: Failure & { readonly procedure: string },
): ConnectError {
  const { procedure } = failure;
  const error = failCall(core, call, failure);
  return toConnectError(error, placeOf(core, call, { error, procedure }));
}

/**
 * Writes the response headers of a failed call: expired cookies, hint and challenge.
 * @returns the failure as a SessionError
 */
export function failCall(
  core: VerifyingCore,
  call: Call,
  { error: thrown, procedure }: Failure,
): SessionError {
  const error =
    thrown instanceof SessionError
      ? thrown
      : new SessionError("general", "INTERNAL", {
          message: "an unexpected error occurred; see its cause",
          cause: thrown,
        });
  call.failure = error;
  // These two are no faults, although the client is to try again.
  const isExpected = error.reason === "SERVER_DRAINING" || error.reason === "PROOF_REQUIRED";
  if (!isExpected && isFault(error)) {
    core.emit({ type: "failed", procedure, error });
  } else {
    core.emit({
      ...{ type: "refused", procedure, reason: error.reason, ...sessionOf(call, error) },
      ...issuersOf(core, call, error),
    });
  }
  // Only the token that failed is cleared.
  if (error.clearTokens && call.byCookie && call.written === undefined) {
    expireCookies(core, call);
  }
  writeRefusal(core, call, error);
  return error;
}

function isFault({ kind }: SessionError): boolean {
  return kind === "unavailable" || kind === "general";
}

/** Both issuers, if a call was refused because of a token of another one. */
function issuersOf(core: VerifyingCore, { presented }: Call, { reason }: SessionError) {
  const seenIssuer =
    reason === "TOKEN_INVALID" || reason === "SESSION_MISSING"
      ? foreignIssuer(core, presented)
      : undefined;
  return seenIssuer === undefined ? {} : { expectedIssuer: core.issuer, seenIssuer };
}

/** The session and the user of a refusal, as far as they are proven. */
function sessionOf({ proven }: Call, error: SessionError) {
  const { sessionId = proven?.sid } = error;
  const { userId = proven?.sid === sessionId ? proven?.sub : undefined } = error;
  return { sessionId, userId };
}

/**
 * Turns a session error that a handler threw into the error to send. If the response headers
 * already report this failure, they stay as they are. Any other error does not concern the tokens
 * of this call, so it clears none of them.
 */
export function relayFailure(
  core: VerifyingCore,
  call: Call,
  { error, procedure }: { readonly error: SessionError; readonly procedure: string },
): ConnectError {
  if (error === call.failure) {
    return toConnectError(error, placeOf(core, call, { error, procedure }));
  }
  const { kind, reason, message, sessionId, userId, retryAfter, violations } = error;
  const { stepUp, proofNonce } = error;
  const kept = new SessionError(kind, reason, {
    message,
    violations,
    stepUp,
    proofNonce,
    cause: error,
    ...(sessionId === undefined ? {} : { sessionId }),
    ...(userId === undefined ? {} : { userId }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
  return refuseCall(core, call, { error: kept, procedure });
}

/** Writes the headers of a refused call: the hint and the challenge. */
function writeRefusal(
  core: VerifyingCore,
  { responseHeader: headers, byCookie }: Call,
  error: SessionError,
): void {
  const flag = hintFlags[actionOf(error)];
  if (flag !== undefined) {
    headers.set(header.hint, flag);
  }
  if (error.proofNonce !== undefined) {
    headers.set(proofHeader.nonce, error.proofNonce);
  }
  // A browser proves its key otherwise (DBSC).
  const proofCode = byCookie ? undefined : proofCodes[error.reason];
  if (error.kind === "unauthorized" && proofCode !== undefined) {
    // RFC 9449 section 7.1.
    headers.set(
      "www-authenticate",
      `DPoP realm="${core.issuer}", error="${proofCode}", algs="ES256 EdDSA RS256"`,
    );
  } else if (error.kind === "unauthorized" || error.kind === "tryRefreshToken") {
    // RFC 6750 section 3.1: no error code if no token was presented.
    const code = error.reason === "SESSION_MISSING" ? "" : ', error="invalid_token"';
    headers.set("www-authenticate", `Bearer realm="${core.issuer}"${code}`);
  } else if (error.reason === "STEP_UP_REQUIRED") {
    // RFC 9470 section 3.
    const code = "insufficient_user_authentication";
    headers.set(
      "www-authenticate",
      `Bearer realm="${core.issuer}", error="${code}"${challengeOf(error)}`,
    );
  }
}

/** The error codes of refused proofs (RFC 9449 section 12.2). */
const proofCodes: Readonly<Partial<Record<SessionErrorReason, string>>> = {
  PROOF_REQUIRED: "use_dpop_nonce",
  PROOF_NONCE: "use_dpop_nonce",
  PROOF_INVALID: "invalid_dpop_proof",
};

/** The parameters of a challenge that ask for another authentication. */
function challengeOf({ stepUp }: SessionError): string {
  const { maxAge, acrValues = [] } = stepUp ?? {};
  return [
    acrValues.length === 0 ? "" : `, acr_values="${acrValues.join(" ")}"`,
    maxAge === undefined ? "" : `, max_age="${Math.floor(maxAge / 1000)}"`,
  ].join("");
}

/** The service and method where an error happened. */
interface ErrorPlace {
  /** The issuer that the presented access token names, or this service's own. */
  readonly realm: string;
  readonly olderRealms: readonly string[];
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
  readonly message: string;
}

/** An error to send, and the procedure that was called. */
interface Sent {
  readonly error: SessionError;
  readonly procedure: string;
}

function placeOf(core: VerifyingCore, call: Call, { error, procedure }: Sent): ErrorPlace {
  const realm = presentedIssuer(core, call.presented) ?? core.issuer;
  const message = messageOf(core, call, { error, procedure });
  return { realm, olderRealms: core.olderIssuers, procedure, message };
}

/** Characters of a message by the option `refusalMessage`: gRPC sends it in a trailer. */
const messageMax = 1_000;

/** Asks the option `refusalMessage`. If it fails, the refusal goes out with its own message. */
function messageOf(core: VerifyingCore, call: Call, { error, procedure }: Sent): string {
  const { reason, message } = error;
  if (core.refusalMessage === undefined || isInternal(error)) {
    return message;
  }
  const { requestHeader } = call;
  let problem = `returned something else than a text of 1 to ${messageMax} characters, or undefined`;
  let cause: unknown;
  try {
    const text: unknown = core.refusalMessage({ reason, procedure, message, requestHeader });
    if (text === undefined) {
      return message;
    }
    if (typeof text === "string" && text !== "" && text.length <= messageMax) {
      return text.toWellFormed();
    }
    // A promise may reject later, with nobody to catch it.
    Promise.resolve(text).catch(() => {});
  } catch (thrown) {
    problem = "threw an error";
    cause = thrown;
  }
  const failure = `the option refusalMessage ${problem}; the refusal kept its own message`;
  const failed = new SessionError("general", "INTERNAL", { message: failure, cause });
  core.emit({ type: "failed", procedure, error: failed });
  return message;
}

/** Whether the client sees only "internal error". */
function isInternal({ kind, reason }: SessionError): boolean {
  return kind === "general" || reason === "INTERNAL";
}

/** The values of the response header `rpcsession-hint`, by the action of the hint. */
const hintFlags: Readonly<Record<number, string>> = {
  [Action.REFRESH]: "refresh",
  [Action.SIGN_IN]: "sign-in",
  [Action.STEP_UP]: "step-up",
  [Action.RETRY_LATER]: "retry-later",
  [Action.REOPEN]: "reopen",
};

const codes = {
  unauthorized: Code.Unauthenticated,
  tryRefreshToken: Code.Unauthenticated,
  forbidden: Code.PermissionDenied,
  unavailable: Code.Unavailable,
  general: Code.Internal,
} as const;

/** Returns the action that the client should take. */
function actionOf(error: SessionError): Action {
  switch (error.kind) {
    case "unauthorized":
      // A client without proofs is never asked for a nonce. If one were, it would keep its tokens.
      return error.reason === "PROOF_NONCE" ? Action.RETRY_LATER : Action.SIGN_IN;
    case "tryRefreshToken":
      return Action.REFRESH;
    case "unavailable":
      return error.reason === "SERVER_DRAINING" ? Action.REOPEN : Action.RETRY_LATER;
    case "forbidden":
      return error.reason === "STEP_UP_REQUIRED" ? Action.STEP_UP : Action.UNSPECIFIED;
    case "general":
      return Action.UNSPECIFIED;
  }
}

/**
 * Converts an error to its form on the wire: with a RefreshHint, a `google.rpc.ErrorInfo` and, if
 * claims were rejected, PolicyViolations. For an unexpected error, the client only sees
 * "internal error".
 */
function toConnectError(error: SessionError, place: ErrorPlace): ConnectError {
  if (isInternal(error)) {
    return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
  }
  const details: ConstructorParameters<typeof ConnectError>[3] = [
    { desc: RefreshHintSchema, value: hintOf(error, place) },
    {
      desc: ErrorInfoSchema,
      value: {
        reason: error.reason,
        domain: "rpc-session",
        metadata: { realm: place.realm, procedure: place.procedure },
      },
    },
  ];
  if (error.violations.length > 0) {
    details.push({
      desc: PolicyViolationsSchema,
      value: { violations: shortened(error.violations) },
    });
  }
  return new ConnectError(place.message, codes[error.kind], undefined, details, error);
}

/** The characters of a text in a violation, and of all violations of a refusal. */
const maxViolation = { text: 255, total: 2_048 } as const;

/**
 * Makes violations short enough for the metadata of a gRPC response: rules, conditions and the reasons of
 * the service's code have any length. The first one is always there.
 */
function shortened(violations: readonly PolicyViolation[]): PolicyViolation[] {
  const cut = (text: string): string =>
    (text.length > maxViolation.text
      ? `${text.slice(0, maxViolation.text - 1)}…`
      : text
    ).toWellFormed();
  const short: PolicyViolation[] = [];
  let total = 0;
  for (const violation of violations) {
    const entries = Object.entries(violation).map(([name, text]) => [name, cut(text)] as const);
    total += entries.reduce((sum, [, text]) => sum + text.length, 0);
    if (short.length > 0 && total > maxViolation.total) {
      break;
    }
    short.push({ ...violation, ...Object.fromEntries(entries) });
  }
  return short;
}

/**
 * Removes the session details of another service from an error that a handler passes on. The client
 * would otherwise take them for details about its own session.
 */
export function withoutForeignHints(error: unknown): unknown {
  if (error instanceof ConnectError) {
    // Received details have a type name, in gRPC a URL. Details created here have a descriptor.
    error.details = error.details.filter(
      (d) => !("type" in d && ownTypes.has(d.type.slice(d.type.lastIndexOf("/") + 1))),
    );
  }
  return error;
}

/**
 * Marks an error of SessionService that carries no hint, so that a client can tell it from the page of
 * a gateway: over Connect, every JSON page looks like an error.
 */
export function markAsAnswer(error: unknown): unknown {
  if (error instanceof ConnectError && error.details.length === 0) {
    error.metadata.set(header.hint, "none");
  }
  return error;
}

const ownTypes: ReadonlySet<string> = new Set([
  RefreshHintSchema.typeName,
  PolicyViolationsSchema.typeName,
]);

function hintOf(error: SessionError, { realm, olderRealms, procedure }: ErrorPlace) {
  const retryAfter = error.kind === "unavailable" ? error.retryAfter : undefined;
  const maxAge = error.stepUp?.maxAge;
  return {
    action: actionOf(error),
    reason:
      error.reason === "INTERNAL" || error.reason === "HOST_UNKNOWN"
        ? Reason.UNSPECIFIED
        : Reason[error.reason],
    tokens: error.clearTokens ? Tokens.CLEAR : Tokens.KEEP,
    session: error.sessionId ?? "",
    realm,
    procedure,
    olderRealms: [...olderRealms],
    proofNonce: error.proofNonce ?? "",
    acrValues: [...(error.stepUp?.acrValues ?? [])],
    ...(maxAge === undefined ? {} : { maxAge: duration(Math.floor(maxAge / 1000) * 1000) }),
    ...(retryAfter === undefined ? {} : { retryAfter: duration(retryAfter) }),
  };
}

function duration(ms: number): { seconds: bigint; nanos: number } {
  const whole = Math.ceil(ms);
  return { seconds: BigInt(Math.floor(whole / 1000)), nanos: (whole % 1000) * 1_000_000 };
}

/** The error of a programming mistake. Its message is for developers and contains no request data. */
export function misuse(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Internal, undefined, undefined, cause);
}

/**
 * The error of a call that requires a session and has none.
 * @param besideForeign whether it came with cookies of another service under the same names
 */
export function sessionMissing(besideForeign = false): SessionError {
  return new SessionError("unauthorized", "SESSION_MISSING", {
    message: besideForeign
      ? "the call needs a session, but its cookies were set by a service with another issuer; sign in. If two services share this host, give each its own cookies.names"
      : "the call needs a session; sign in first",
  });
}
