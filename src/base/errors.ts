import type { Reason } from "../../gen/rpcsession/v1/hint_pb.ts";

/**
 * Classifies a failed session check by what the caller should do.
 *
 * - `unauthorized`: there is no session, or it has ended; sign in.
 * - `tryRefreshToken`: the session may be live; refresh, then try again.
 * - `forbidden`: the session is valid, but the request is not allowed.
 * - `unavailable`: an outage prevents a decision; try again later. Do not sign the user out.
 * - `general`: a fault of the service.
 */
export type SessionErrorKind =
  | "unauthorized"
  | "tryRefreshToken"
  | "forbidden"
  | "unavailable"
  | "general";

/**
 * The cause of a {@link SessionError}: a name of the enum `rpcsession.v1.Reason`, or one that clients are
 * not told. `INTERNAL` is a fault of the service. `HOST_UNKNOWN` is a request for a host that the option
 * `hosts` does not list.
 */
export type SessionErrorReason =
  | Exclude<keyof typeof Reason, "UNSPECIFIED">
  | "INTERNAL"
  | "HOST_UNKNOWN";

/** The details of a {@link SessionError}. */
export interface SessionErrorOptions {
  /** Shown to people and sent to the client. Must not contain secrets or internals of the service. */
  readonly message: string;
  /** The id of the session to which the presented token belongs, if that was proven. */
  readonly sessionId?: string;
  /** The user of that session, for events and logs; never sent. */
  readonly userId?: string;
  /** Whether the tokens have become useless and should be cleared. Default `false`. */
  readonly clearTokens?: boolean;
  /** Milliseconds after which the caller should try again. */
  readonly retryAfter?: number;
  /** The requirements of the policy that the session did not meet. */
  readonly violations?: readonly PolicyViolation[];
  /** What the next authentication must be, for STEP_UP_REQUIRED. */
  readonly stepUp?: StepUp | undefined;
  /** The nonce for the next proof of possession, for the reasons `PROOF_…`. */
  readonly proofNonce?: string | undefined;
  /** The underlying fault, for logs; never sent. */
  readonly cause?: unknown;
}

/** What a method demands of the authentication of its caller (RFC 9470). */
export interface StepUp {
  /** The maximum time since the user authenticated, in milliseconds; undefined for any time. */
  readonly maxAge: number | undefined;
  /** The accepted authentication context classes; empty for any. */
  readonly acrValues: readonly string[];
}

/** One requirement of a policy that a session did not meet. */
export interface PolicyViolation {
  /** The name of the claim: `auth_time` for the age of the last authentication, `acr` for its class. */
  readonly claim: string;
  /** The requirement: `present`, `one of admin, editor`, `within 600s` or `schema`, for example. */
  readonly requirement: string;
  /** Why the claim does not meet it. Contains no value of the claim. */
  readonly message: string;
  /** The rule that states it, such as `noneOf`, `freshWithin` or `validate`. Default: not named. */
  readonly rule?: string;
  /** The value of the claim as JSON, only if `clientClaims` lets the client read it anyway. */
  readonly value?: string;
}

/**
 * The error of a failed session check. The message contains no token or other secret. Clients receive
 * it as a `ConnectError` with a `RefreshHint`.
 */
export class SessionError extends Error {
  override readonly name = "SessionError";
  /** The reaction that the caller should take. */
  readonly kind: SessionErrorKind;
  /** The cause; see {@link SessionErrorReason}. */
  readonly reason: SessionErrorReason;
  /** The id of the session to which the presented token belongs, if that was proven. */
  readonly sessionId: string | undefined;
  /** The user of that session, as far as it is known. Clients never receive it. */
  readonly userId: string | undefined;
  /** Whether the session's tokens have become useless. */
  readonly clearTokens: boolean;
  /** Milliseconds after which the caller should try again; only set for `unavailable`. */
  readonly retryAfter: number | undefined;
  /** The requirements of the policy that were not met. */
  readonly violations: readonly PolicyViolation[];
  /** What the next authentication must be; only set for `STEP_UP_REQUIRED`. */
  readonly stepUp: StepUp | undefined;
  /** The nonce for the next proof of possession (RFC 9449); only set for `PROOF_…`. Not a secret. */
  readonly proofNonce: string | undefined;

  constructor(kind: SessionErrorKind, reason: SessionErrorReason, options: SessionErrorOptions) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.reason = reason;
    this.sessionId = options.sessionId;
    this.userId = options.userId;
    this.clearTokens = options.clearTokens ?? false;
    this.retryAfter = options.retryAfter;
    this.violations = options.violations ?? [];
    this.stepUp = options.stepUp;
    this.proofNonce = options.proofNonce;
  }

  /**
   * The HTTP status for a response outside RPCs: 401, 403, 500 or 503. Express and Fastify use it for
   * an error that a handler throws.
   */
  get statusCode(): 401 | 403 | 500 | 503 {
    return statusCodes[this.kind];
  }
}

const statusCodes = {
  unauthorized: 401,
  tryRefreshToken: 401,
  forbidden: 403,
  unavailable: 503,
  general: 500,
} as const;

/**
 * Creates the error of an outage that prevents a decision. The client keeps its tokens.
 *
 * @param message a whole sentence for the client: what failed, and what to do
 * @param cause the underlying fault, for logs; never sent
 * @param retryAfter milliseconds after which the caller should try again
 */
export function unavailable(message: string, cause?: unknown, retryAfter = 1000): SessionError {
  return new SessionError("unavailable", "AUTH_UNAVAILABLE", {
    message,
    retryAfter,
    cause,
  });
}
