import { fromBinary } from "@bufbuild/protobuf";
import {
  type PolicyViolations,
  PolicyViolationsSchema,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { SessionError } from "../../base/errors.ts";

/** A claim that a session does not meet, as the SDKs report it. */
export interface ClaimValidationError {
  /** The name of the claim; `auth_time` and `acr` where the user must authenticate again. */
  readonly id: string;
  readonly reason: { readonly message: string; readonly expectedValue: string };
}

/** The answer to a call of an SDK that is refused outside RPCs. */
export interface SuperTokensAnswer {
  /** 401 makes the SDK refresh; 403 with `claimValidationErrors` makes it report them. */
  readonly status: number;
  /** Send it as JSON. */
  readonly body: {
    readonly message: string;
    readonly claimValidationErrors?: readonly ClaimValidationError[];
  };
}

/**
 * Returns the status and body to send when `getSession` or `create` throws outside RPCs. The messages
 * are those of SuperTokens.
 *
 * @example
 * const refused = superTokensAnswer(error);
 * res.status(refused.status).json(refused.body);
 * @throws the error itself if it is not a SessionError
 */
export function superTokensAnswer(error: unknown): SuperTokensAnswer {
  if (!(error instanceof SessionError)) {
    throw error;
  }
  const { kind, reason, message, violations, statusCode: status } = error;
  if (kind === "forbidden" && violations.length > 0) {
    const claimValidationErrors = violations.map(toValidationError);
    return { status, body: { message: "invalid claim", claimValidationErrors } };
  }
  const texts = { unauthorized: "unauthorised", tryRefreshToken: "try refresh token" } as const;
  const own = kind === "unauthorized" || kind === "tryRefreshToken" ? texts[kind] : message;
  return { status, body: { message: reason === "TOKEN_THEFT" ? "token theft detected" : own } };
}

/**
 * Adds `claimValidationErrors` to the body of a refused Connect call, where the SDK looks for it. All
 * other bodies stay as they are.
 */
export function withValidationErrors(body: string): string {
  const error = parseError(body);
  const violations = (error?.details ?? []).flatMap(violationsOf);
  return error === undefined || violations.length === 0
    ? body
    : JSON.stringify({ ...error, claimValidationErrors: violations.map(toValidationError) });
}

interface ConnectErrorBody {
  readonly code: string;
  readonly details: readonly unknown[];
}

function parseError(body: string): ConnectErrorBody | undefined {
  try {
    const { code, details } = JSON.parse(body) as Partial<ConnectErrorBody>;
    const isError = typeof code === "string" && Array.isArray(details);
    return isError ? (JSON.parse(body) as ConnectErrorBody) : undefined;
  } catch {
    return undefined;
  }
}

function violationsOf(detail: unknown): PolicyViolations["violations"] {
  const { type, value } = (detail ?? {}) as { readonly type?: unknown; readonly value?: unknown };
  if (type !== PolicyViolationsSchema.typeName || typeof value !== "string") {
    return [];
  }
  const bytes = Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
  return fromBinary(PolicyViolationsSchema, bytes).violations;
}

function toValidationError({
  claim,
  requirement,
  message,
}: {
  readonly claim: string;
  readonly requirement: string;
  readonly message: string;
}): ClaimValidationError {
  return { id: claim, reason: { message, expectedValue: requirement } };
}
