import type { Reason } from "../../gen/rpcsession/v1/hint_pb.ts";

/**
 * What a failed session check means for the caller.
 *
 * - `unauthorized`: there is no session (any more); sign in.
 * - `tryRefreshToken`: the session may well live; refresh, then try again.
 * - `forbidden`: the session is not the problem, the request is.
 * - `unavailable`: nothing could be decided; try again later. Never a reason to sign anybody out.
 * - `general`: a fault of the service.
 */
export type SessionErrorKind =
  | "unauthorized"
  | "tryRefreshToken"
  | "forbidden"
  | "unavailable"
  | "general";

/** The cause of a {@link SessionError}: the names of the enum `rpcsession.v1.Reason`. */
export type SessionErrorReason = Exclude<keyof typeof Reason, "UNSPECIFIED"> | "INTERNAL";

/** Facts about a {@link SessionError} beside its kind and reason. */
export interface SessionErrorOptions {
  /** For people; goes to the client. No secret, and nothing of the inside of the service. */
  readonly message: string;
  /** The id of the session the presented token proved to belong to. */
  readonly sessionId?: string;
  /** Whether the session's tokens are of no more use and their cookies are expired. Default `false`. */
  readonly clearTokens?: boolean;
  /** Milliseconds after which another try makes sense. */
  readonly retryAfter?: number;
  /** What the requirements on claims were that the session did not meet. */
  readonly violations?: readonly PolicyViolation[];
  /** The underlying fault; for logs, never sent. */
  readonly cause?: unknown;
}

/** One requirement of a policy that a session did not meet. */
export interface PolicyViolation {
  readonly claim: string;
  readonly requirement: string;
  readonly message: string;
}

/**
 * Why a call has no verified session. Its message holds no token and no other secret.
 * `server/` turns it into a `ConnectError` with a `RefreshHint`.
 */
export class SessionError extends Error {
  override readonly name = "SessionError";
  /** What it means for the caller. */
  readonly kind: SessionErrorKind;
  /** The cause; `INTERNAL` for a fault of the service. */
  readonly reason: SessionErrorReason;
  /** The id of the session the presented token proved to belong to. */
  readonly sessionId: string | undefined;
  /** Whether the session's tokens are of no more use. */
  readonly clearTokens: boolean;
  /** Milliseconds after which another try makes sense; with `unavailable` only. */
  readonly retryAfter: number | undefined;
  /** The requirements on claims that were not met. */
  readonly violations: readonly PolicyViolation[];

  constructor(kind: SessionErrorKind, reason: SessionErrorReason, options: SessionErrorOptions) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.reason = reason;
    this.sessionId = options.sessionId;
    this.clearTokens = options.clearTokens ?? false;
    this.retryAfter = options.retryAfter;
    this.violations = options.violations ?? [];
  }
}

/**
 * An outage that prevents a decision: `Unavailable`, with tokens kept.
 *
 * @param message a whole sentence for the client: what failed, and what to do
 * @param cause the underlying fault, for logs; never sent
 * @param retryAfter milliseconds after which another try makes sense
 */
export function unavailable(message: string, cause?: unknown, retryAfter = 1000): SessionError {
  return new SessionError("unavailable", "AUTH_UNAVAILABLE", {
    message,
    retryAfter,
    cause,
  });
}
