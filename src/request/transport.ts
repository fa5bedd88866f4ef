import { SessionError } from "../base/errors.ts";
import type { TokenTransport } from "../base/wire.ts";

/** What the choice of a new session's transport depends on. */
export interface TransportRequest {
  /** The request header `rpcsession-transport`, if any. */
  readonly wanted: string | undefined;
  /** Whether a browser made the request: it carries `Sec-Fetch-Site` or `Origin`. */
  readonly fromBrowser: boolean;
  /** Whether the request came from a page that may use cookies. */
  readonly trustedSite: boolean;
  /** Whether scripts may have their tokens in headers. */
  readonly browserHeaderTransport: boolean;
}

/**
 * Chooses the transport of a new session: what the client asks for, else cookies for a browser
 * that will keep them, else headers.
 *
 * @throws SessionError `forbidden` when a browser would get its tokens in headers and may not, or
 * when the client asks for something else
 */
export function chooseTransport(request: TransportRequest): TokenTransport {
  const { wanted, fromBrowser } = request;
  if (wanted !== undefined && wanted !== "cookie" && wanted !== "header") {
    throw refused('the header rpcsession-transport must be "cookie" or "header"');
  }
  const transport = wanted ?? (fromBrowser && request.trustedSite ? "cookie" : "header");
  if (transport === "header" && fromBrowser && !request.browserHeaderTransport) {
    throw refused(
      wanted === undefined
        ? "session cookies are for pages of this service's origins, and the request comes from elsewhere"
        : "browsers keep their tokens in cookies here; header transport needs browserHeaderTransport",
    );
  }
  return transport;
}

function refused(message: string): SessionError {
  return new SessionError("forbidden", "TRANSPORT_REFUSED", { message });
}
