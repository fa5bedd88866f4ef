import { type Duration, durationMs } from "../duration.ts";
import { SessionError } from "../errors.ts";
import type { VerifiedSession } from "../session/session.ts";
import type { VerifyingCore } from "./core.ts";

/**
 * Checks that the user proved who they are not longer ago than `within`.
 * @throws SessionError `forbidden`, `STEP_UP_REQUIRED` (RFC 9470)
 */
export function assertFresh(
  core: Pick<VerifyingCore, "storeNow">,
  session: Pick<VerifiedSession, "id" | "authTime">,
  within: Duration,
): void {
  const span = durationMs("requireFresh", within);
  // Times in tokens are whole seconds, cut off: of the one in which it began some may be left.
  if (core.storeNow() - session.authTime.getTime() >= span + 1000) {
    throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
      message: `the user must prove again who they are: the last time was more than ${within} ago`,
      session: session.id,
      violations: [
        {
          claim: "auth_time",
          requirement: `within ${within}`,
          message: "is too long ago",
        },
      ],
    });
  }
}
