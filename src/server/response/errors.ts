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

/** Where an error happened. */
export interface ErrorPlace {
  /** The issuer. */
  readonly realm: string;
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
}

/** The value of the response header `rpcsession-hint`, by the action of the hint. */
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

/** What the client should do. */
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
 * The error as it goes on the wire, with a RefreshHint, a `google.rpc.ErrorInfo` and, where claims
 * were not met, PolicyViolations. An unforeseen error says nothing but "internal error".
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
 * An error that a handler lets through, without what another service said of its own sessions: to
 * our client that would look like ours.
 */
export function withoutForeignHints(error: unknown): unknown {
  if (error instanceof ConnectError) {
    // Details that were received have a type name, in gRPC a URL; those made here have a descriptor.
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

/** A developer's mistake: the message is for them, and holds nothing of the request. */
export function misuse(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Internal, undefined, undefined, cause);
}

/** The error of a call that requires a session and has none. */
export function sessionMissing(): SessionError {
  return new SessionError("unauthorized", "SESSION_MISSING", {
    message: "the call needs a session",
  });
}
