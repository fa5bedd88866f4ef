import type { JsonObject } from "./json.ts";

/**
 * How the tokens of a session are transported: in HttpOnly cookies, or in the `Authorization` header
 * and `rpcsession-*` response headers. Chosen when the session is created, and fixed from then on.
 */
export type TokenTransport = "cookie" | "header";

/** The names of the headers that rpc-session reads and writes. */
export const header = {
  /** Request: the transport of a session that this call creates, `cookie` or `header`. */
  transport: "rpcsession-transport",
  /** Request and response: the anti-CSRF token of a cookie session. */
  csrf: "rpcsession-csrf",
  /** Response: the access token of a header session. */
  accessToken: "rpcsession-access-token",
  /** Response: the refresh token of a header session. */
  refreshToken: "rpcsession-refresh-token",
  /** Response: announces in the headers that the error of this call carries a RefreshHint. */
  hint: "rpcsession-hint",
  /** Response: the milliseconds within which a stream sends its next message, if only a heartbeat. */
  heartbeat: "rpcsession-heartbeat",
  /**
   * Request: the id of the session that a client with cookies takes for its own, or its status. If the
   * call belongs to another session, the response says so.
   * Response: what the client should know of its session, without secrets. See {@link SessionNotice}.
   */
  session: "rpcsession-session",
} as const;

/** The headers of proofs of possession (RFC 9449). */
export const proofHeader = {
  /** Request: the proof. */
  proof: "dpop",
  /** Response: the nonce for the next proof. */
  nonce: "dpop-nonce",
} as const;

/** The headers of Device Bound Session Credentials (DBSC, W3C). Browsers write the bare value or quote it. */
export const dbscHeader = {
  /** Response: asks a browser to register a key for the session. */
  registration: "secure-session-registration",
  /** Request: the proof, a JWT. */
  response: "secure-session-response",
  /** Response: asks for a proof with this challenge. */
  challenge: "secure-session-challenge",
  /** Request: the identifier that the registration returned. Scripts cannot set it. */
  sessionId: "sec-secure-session-id",
  /** Request: why the browser could not prove possession now. */
  skipped: "secure-session-skipped",
} as const;

/**
 * What a notice reports:
 *
 * - `created`, `refreshed`, `reissued`, `ended`: the call did this to the session.
 * - `current`: the call belongs to this session, and the client did not know.
 * - `none`: the call belongs to no session, and the client did not know. All fields but `realm` are
 *   empty or 0.
 */
export type NoticeEvent = "created" | "refreshed" | "reissued" | "ended" | "current" | "none";

/**
 * Informs a client of its session, in both transports. Sent as one form-encoded header (WHATWG URL,
 * application/x-www-form-urlencoded).
 */
export interface SessionNotice {
  readonly event: NoticeEvent;
  /** The id of the session. */
  readonly session: string;
  /** The id of the user; absent if older servers write the notice. */
  readonly user?: string;
  /** The issuer of the session. */
  readonly realm: string;
  /** The other issuers whose sessions the service accepts, after a change of the issuer. */
  readonly olderRealms?: readonly string[];
  /** The refresh generation of the access token. */
  readonly generation: number;
  /** The version of the claims in the access token. */
  readonly claimsVersion: number;
  /**
   * `exp` of the access token: seconds since 1970 by the server's clock. Compare it only with other
   * values of this server's clock.
   */
  readonly expiresAt: number;
  /** Milliseconds until the access token expires. */
  readonly expiresIn: number;
  /** The claims that the client may read; absent if the service publishes none. */
  readonly claims?: JsonObject;
}

/** The longest token that is read, in characters. Notices have the same limit. */
export const maxTokenLength = 8192;

/** The maximum {@link noticeLength} of claims. The encoding can be three times as long as their JSON. */
export const maxNoticeClaims = 3072;

/** Returns the length of claims in a notice, in characters. */
export function noticeLength(claims: JsonObject): number {
  return new URLSearchParams([["", JSON.stringify(claims)]]).toString().length - 1;
}

/** Encodes a {@link SessionNotice} as a header value. Clocks count fractions; clients read integers. */
export function encodeNotice({ claims, olderRealms, ...plain }: SessionNotice): string {
  const whole = { ...plain, expiresIn: Math.floor(plain.expiresIn) };
  return new URLSearchParams({
    ...Object.fromEntries(Object.entries(whole).map(([name, value]) => [name, String(value)])),
    ...(claims && { claims: JSON.stringify(claims) }),
    // Issuers contain no spaces.
    ...(olderRealms && { olderRealms: olderRealms.join(" ") }),
  }).toString();
}

/** Decodes a {@link SessionNotice}; returns undefined when the value is not one. */
export function decodeNotice(value: string | null): SessionNotice | undefined {
  if (value === null || value.length > maxTokenLength) {
    return undefined;
  }
  const fields = parseForm(value);
  const event = fields.get("event");
  const session = fields.get("session") ?? "";
  const user = fields.get("user");
  const realm = fields.get("realm");
  if (!isEvent(event) || !realm || (event === "none") !== (session === "")) {
    return undefined;
  }
  const olderRealms = fields.get("olderRealms")?.split(" ");
  const number = (name: string): number => Number(fields.get(name) ?? Number.NaN);
  const notice: SessionNotice = {
    event,
    session,
    ...(user && { user }),
    realm,
    ...(olderRealms && { olderRealms }),
    generation: number("generation"),
    claimsVersion: number("claimsVersion"),
    expiresAt: number("expiresAt"),
    expiresIn: number("expiresIn"),
    ...decodeClaims(fields.get("claims")),
  };
  const numbers = [notice.generation, notice.claimsVersion, notice.expiresAt, notice.expiresIn];
  return numbers.every(Number.isSafeInteger) ? notice : undefined;
}

/** Not URLSearchParams, whose `get` is missing from React Native before 0.80. The first value counts. */
function parseForm(text: string): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (const pair of text.split("&")) {
    const [name = "", ...rest] = pair.split("=");
    const value = decodeFormPart(rest.join("="));
    if (value !== undefined && !fields.has(name)) {
      fields.set(name, value);
    }
  }
  return fields;
}

function decodeFormPart(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replace(/\+/g, " "));
  } catch {
    return undefined;
  }
}

function decodeClaims(value: string | undefined): Pick<SessionNotice, "claims"> {
  try {
    const claims: unknown = JSON.parse(value ?? "");
    const isObject = typeof claims === "object" && claims !== null && !Array.isArray(claims);
    return isObject ? { claims: claims as JsonObject } : {};
  } catch {
    return {};
  }
}

function isEvent(value: string | undefined): value is NoticeEvent {
  return /^(created|refreshed|reissued|ended|current|none)$/.test(value ?? "");
}
