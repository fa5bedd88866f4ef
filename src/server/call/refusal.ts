import type { ConnectError } from "@connectrpc/connect";
import { SessionError } from "../../base/errors.ts";
import type { VerifyingCore } from "../core.ts";
import { toConnectError } from "../response/errors.ts";
import { writeRefusal } from "../response/tokens.ts";
import type { Call } from "./call.ts";

/** An error that ended a call. */
export interface Failure {
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
  return toConnectError(failCall(core, call, failure), { realm: core.issuer, procedure });
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
  if (error.kind === "unavailable" || error.kind === "general") {
    core.emit({ type: "failed", procedure, error });
  }
  const byCookie = call.byCookie && call.written === undefined;
  writeRefusal(core, call.responseHeader, { error, byCookie });
  return error;
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
    return toConnectError(error, { realm: core.issuer, procedure });
  }
  const { kind, reason, message, sessionId, retryAfter, violations } = error;
  const kept = new SessionError(kind, reason, {
    message,
    violations,
    cause: error,
    ...(sessionId === undefined ? {} : { sessionId }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
  return refuseCall(core, call, { error: kept, procedure });
}
