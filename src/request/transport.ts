import { SessionError } from "../base/errors.ts";
import type { TokenTransport } from "../base/wire.ts";

/** The facts that determine the token transport of a new session. */
export interface TransportRequest {
  /** The request header `rpcsession-transport`; undefined if it is absent. */
  readonly wanted: string | undefined;
  /** Whether a browser sent the request: it carries `Sec-Fetch-Site` or `Origin`. */
  readonly fromBrowser: boolean;
  /** Whether the request comes from a page that may use cookies. */
  readonly trustedSite: boolean;
  /** Whether browsers may receive tokens in headers, where scripts can read them. */
  readonly browserHeaderTransport: boolean;
}

/**
 * Chooses the token transport of a new session: the one that the client asks for, else cookies for a
 * browser that will keep them, else headers.
 *
 * @throws SessionError `forbidden` if a browser would receive tokens in headers and may not, or if
 * the client asks for an unknown transport
 */
export function chooseTransport(request: TransportRequest): TokenTransport {
  const { wanted, fromBrowser } = request;
  if (wanted !== undefined && wanted !== "cookie" && wanted !== "header") {
    throw refused('the request header rpcsession-transport must be "cookie" or "header"');
  }
  const transport = wanted ?? (fromBrowser && request.trustedSite ? "cookie" : "header");
  if (transport === "header" && fromBrowser && !request.browserHeaderTransport) {
    throw refused(
      wanted === undefined
        ? "session cookies are for pages of this service's origins, and the request comes from elsewhere"
        : "browsers must use session cookies at this service; to allow header transport, set browserHeaderTransport",
    );
  }
  return transport;
}

function refused(message: string): SessionError {
  return new SessionError("forbidden", "TRANSPORT_REFUSED", { message });
}
