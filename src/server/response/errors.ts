import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import {
  Action,
  PolicyViolationsSchema,
  Reason,
  RefreshHintSchema,
  Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { SessionError } from "../../base/errors.ts";

/** The service and method where an error happened. */
export interface ErrorPlace {
  /** The issuer. */
  readonly realm: string;
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
}

/** The values of the response header `rpcsession-hint`, by the action of the hint. */
export const hintFlags: Readonly<Record<number, string>> = {
  [Action.REFRESH]: "refresh",
  [Action.SIGN_IN]: "sign-in",
  [Action.STEP_UP]: "step-up",
  [Action.RETRY_LATER]: "retry-later",
};

const codes = {
  unauthorized: Code.Unauthenticated,
  tryRefreshToken: Code.Unauthenticated,
  forbidden: Code.PermissionDenied,
  unavailable: Code.Unavailable,
  general: Code.Internal,
} as const;

/** Returns the action that the client should take. */
export function actionOf(error: SessionError): Action {
  switch (error.kind) {
    case "unauthorized":
      return Action.SIGN_IN;
    case "tryRefreshToken":
      return Action.REFRESH;
    case "unavailable":
      return Action.RETRY_LATER;
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
export function toConnectError(error: SessionError, place: ErrorPlace): ConnectError {
  if (error.kind === "general" || error.reason === "INTERNAL") {
    return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
  }
  const details: ConstructorParameters<typeof ConnectError>[3] = [
    { desc: RefreshHintSchema, value: hintOf(error, place) },
    {
      desc: ErrorInfoSchema,
      value: { reason: error.reason, domain: "rpc-session", metadata: { ...place } },
    },
  ];
  if (error.violations.length > 0) {
    const violations = error.violations.map((violation) => ({ ...violation }));
    details.push({ desc: PolicyViolationsSchema, value: { violations } });
  }
  return new ConnectError(error.message, codes[error.kind], undefined, details, error);
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

const ownTypes: ReadonlySet<string> = new Set([
  RefreshHintSchema.typeName,
  PolicyViolationsSchema.typeName,
]);

function hintOf(error: SessionError, { realm, procedure }: ErrorPlace) {
  const retryAfter = error.kind === "unavailable" ? error.retryAfter : undefined;
  return {
    action: actionOf(error),
    reason: error.reason === "INTERNAL" ? Reason.UNSPECIFIED : Reason[error.reason],
    tokens: error.clearTokens ? Tokens.CLEAR : Tokens.KEEP,
    session: error.sessionId ?? "",
    realm,
    procedure,
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

/** The error of a call that requires a session and has none. */
export function sessionMissing(): SessionError {
  return new SessionError("unauthorized", "SESSION_MISSING", {
    message: "the call needs a session",
  });
}
