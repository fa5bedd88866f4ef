import type { JsonObject } from "./json.ts";

/**
 * How the tokens of a session travel: in HttpOnly cookies, or in the `Authorization` header and
 * `rpcsession-*` response headers. Chosen when the session is created, and never changed after.
 */
export type TokenTransport = "cookie" | "header";

/** The names of the headers that rpc-session reads and writes. */
export const header = {
  /** Request: which transport a session that this call creates should have: `cookie` or `header`. */
  transport: "rpcsession-transport",
  /** Request and response: the anti-CSRF token of a cookie session. */
  csrf: "rpcsession-csrf",
  /** Response: the access token of a header session. */
  accessToken: "rpcsession-access-token",
  /** Response: the refresh token of a header session. */
  refreshToken: "rpcsession-refresh-token",
  /** Response: tells at once that the error to come carries a RefreshHint. */
  hint: "rpcsession-hint",
  /** Response: what happened to the session on this call; holds no secret. See {@link SessionNotice}. */
  session: "rpcsession-session",
} as const;

/**
 * What happened to a session on a call, for its client, in both transports. Sent as one
 * form-encoded header (WHATWG URL, application/x-www-form-urlencoded).
 */
export interface SessionNotice {
  readonly event: "created" | "refreshed" | "reissued" | "ended";
  /** The id of the session. */
  readonly session: string;
  /** The issuer. */
  readonly realm: string;
  /** The refresh generation of the access token. */
  readonly generation: number;
  /** The version of the claims in the access token. */
  readonly claimsVersion: number;
  /** `exp` of the access token: seconds since 1970 by the server's clock. Only for comparing. */
  readonly expiresAt: number;
  /** How much longer the access token is good, in milliseconds. */
  readonly expiresIn: number;
  /** What the client may read of the claims; absent where the service tells none. */
  readonly claims?: JsonObject;
}

/** The longest token that is read, in characters. Notices have the same limit. */
export const maxTokenLength = 8192;

/** The greatest {@link noticeLength} of claims: what a notice encodes to may be three times their JSON. */
export const maxNoticeClaims = 3072;

/** The length of claims in a notice. */
export function noticeLength(claims: JsonObject): number {
  return new URLSearchParams([["", JSON.stringify(claims)]]).toString().length - 1;
}

/** Encodes a {@link SessionNotice} as a header value. */
export function encodeNotice(notice: SessionNotice): string {
  return new URLSearchParams(
    Object.entries(notice).map(([name, value]) => [
      name,
      typeof value === "object" ? JSON.stringify(value) : String(value),
    ]),
  ).toString();
}

/** Decodes a {@link SessionNotice}; undefined when it is none. */
export function decodeNotice(value: string | null): SessionNotice | undefined {
  if (value === null || value.length > maxTokenLength) {
    return undefined;
  }
  const fields = new URLSearchParams(value);
  const event = fields.get("event");
  const session = fields.get("session");
  const realm = fields.get("realm");
  if (!isEvent(event) || !session || !realm) {
    return undefined;
  }
  const number = (name: string): number => Number(fields.get(name) ?? Number.NaN);
  const notice: SessionNotice = {
    event,
    session,
    realm,
    generation: number("generation"),
    claimsVersion: number("claimsVersion"),
    expiresAt: number("expiresAt"),
    expiresIn: number("expiresIn"),
    ...decodeClaims(fields.get("claims")),
  };
  const numbers = [notice.generation, notice.claimsVersion, notice.expiresAt, notice.expiresIn];
  return numbers.every(Number.isSafeInteger) ? notice : undefined;
}

function decodeClaims(value: string | null): Pick<SessionNotice, "claims"> {
  try {
    const claims: unknown = JSON.parse(value ?? "");
    const isObject = typeof claims === "object" && claims !== null && !Array.isArray(claims);
    return isObject ? { claims: claims as JsonObject } : {};
  } catch {
    return {};
  }
}

function isEvent(value: string | null): value is SessionNotice["event"] {
  return value === "created" || value === "refreshed" || value === "reissued" || value === "ended";
}
