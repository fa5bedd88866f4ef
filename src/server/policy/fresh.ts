import { SessionError } from "../../base/errors.ts";
import type { VerifyingCore } from "../core.ts";

/** When a user proved who they are, and how long ago that may be. */
export interface Freshness {
  readonly session: string;
  /** Milliseconds since 1970 by the store's clock. */
  readonly authTime: number;
  /** Milliseconds. */
  readonly within: number;
}

/**
 * Checks that the user proved who they are not too long ago.
 * @throws SessionError `forbidden`, `STEP_UP_REQUIRED` (RFC 9470)
 */
export function assertFresh(
  core: Pick<VerifyingCore, "storeNow">,
  { session, authTime, within }: Freshness,
): void {
  // Times in tokens are whole seconds, cut off: of the one in which it was some may be left.
  if (core.storeNow() - authTime < within + 1000) {
    return;
  }
  const requirement = `within ${within / 1000}s`;
  throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
    message: `the user must prove again who they are; it must have been ${requirement}`,
    session,
    violations: [{ claim: "auth_time", requirement, message: "is too long ago" }],
  });
}
