import { SessionError } from "../../base/errors.ts";
import { isTrustedSite } from "../../request/cross-site.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";

/** @throws SessionError `forbidden` when a call with cookies comes from a page that may not make it */
export function checkCrossSite(
  core: VerifyingCore,
  { requestHeader, requestMethod }: Pick<Call, "requestHeader" | "requestMethod">,
): void {
  if (core.crossSite === "checked" && !isTrustedSite(requestHeader, requestMethod, core.origins)) {
    core.emit({ type: "csrfRefused", check: "crossSite", origin: requestHeader.get("origin") });
    throw new SessionError("forbidden", "CROSS_SITE", {
      message:
        "session cookies are for pages of this service's origins, and the request comes from elsewhere",
    });
  }
}
