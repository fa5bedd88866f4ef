import { decodeNotice, header, type SessionNotice } from "../../base/wire.ts";

// Translates between the headers of the SuperTokens SDKs (front-end interface 1.16 to 4.2) and ours.

/** The request headers that the SDKs send, for CORS. */
export const requestHeaders: readonly string[] = [
  ...["rid", "fdi-version", "st-auth-mode", "anti-csrf", "authorization"],
];

/** The response headers that the SDKs read, for CORS. */
export const responseHeaders: readonly string[] = [
  ...["front-token", "anti-csrf", "st-access-token", "st-refresh-token"],
];

/** Sets a header to `value`, or removes it if `value` is undefined. */
export type HeaderChange = readonly [name: string, value: string | undefined];

/** Returns the value of a header by its lower-case name; undefined if it is absent. */
export type ReadHeader = (name: string) => string | undefined;

/**
 * Whether a SuperTokens SDK sent a request. It marks every request that it intercepts, and its own.
 * rpc-session's client also marks its requests. If a request has both marks, as on a page that uses both
 * clients, it counts as a request of rpc-session's client.
 */
export function isFromSdk(read: ReadHeader): boolean {
  const isMarked = ["st-auth-mode", "rid", "fdi-version"].some((name) => read(name) !== undefined);
  return isMarked && read(header.session) === undefined && read(header.transport) === undefined;
}

/** The session cookies by their default names, with any prefix, and the port of localhost. */
const sessionCookie = /(?:^|;) *(?:__[A-Za-z-]+-)?rpcsession-(?:access|refresh)(?:-\d+)?=/;

/**
 * Returns the changes that turn the headers of an SDK's request into those of rpc-session.
 *
 * An SDK that was switched from cookies to headers still has its session in cookies. SuperTokens goes by
 * the tokens of a request, so that session lives on; without this, it could neither be used nor ended.
 */
export function requestChanges(read: ReadHeader): HeaderChange[] {
  const asked = read("st-auth-mode");
  const hasOnlyCookies =
    read("authorization") === undefined && sessionCookie.test(read("cookie") ?? "");
  const mode = asked === "header" && hasOnlyCookies ? "cookie" : asked;
  const antiCsrf = read("anti-csrf");
  return [
    ...(mode === "cookie" || mode === "header" ? [[header.transport, mode] as const] : []),
    ...(antiCsrf === undefined ? [] : [[header.csrf, antiCsrf] as const]),
    // A field is added to the body of a refusal, which must not be compressed by then.
    ["accept-encoding", undefined],
  ];
}

/** Returns the changes that turn the headers of a response into those that the SDK reads. */
export function responseChanges(read: ReadHeader): HeaderChange[] {
  const notice = decodeNotice(read(header.session) ?? null);
  const named: HeaderChange[] = [
    ["anti-csrf", read(header.csrf)],
    ["st-access-token", read(header.accessToken)],
    ["st-refresh-token", read(header.refreshToken)],
    ["front-token", notice && frontTokenOf(notice)],
  ];
  const written = named.filter(([, value]) => value !== undefined);
  if (written.length === 0) {
    return [];
  }
  const own = [header.csrf, header.accessToken, header.refreshToken, header.session];
  const exposed = read("access-control-expose-headers");
  return [
    ...written,
    ...own.map((name) => [name, undefined] as const),
    [
      "access-control-expose-headers",
      [...(exposed ? [exposed] : []), ...written.map(([name]) => name)].join(", "),
    ],
  ];
}

/** Whether a response tells the SDK of a session that began, was refreshed or ended. */
export function tellsOfSession(changes: readonly HeaderChange[]): boolean {
  return changes.some(([name, value]) => name === "front-token" && value !== undefined);
}

/**
 * Describes a session to the SDK, which keeps it where scripts can read it: the user, when the access
 * token expires, and the claims of the option `clientClaims`. Returns undefined if nothing
 * changed for the SDK.
 */
function frontTokenOf(notice: SessionNotice): string | undefined {
  const { event, user = "", session, realm, claims, expiresAt, expiresIn } = notice;
  if (event === "ended") {
    return "remove";
  }
  if (event === "current" || event === "none") {
    return undefined;
  }
  return base64({
    uid: user,
    ate: expiresAt * 1000,
    up: {
      ...claims,
      // The SDK learns the difference between its clock and ours from `iat`.
      iat: Math.round(expiresAt - expiresIn / 1000),
      ...{ exp: expiresAt, iss: realm, sub: user, sessionHandle: session },
    },
  });
}

/** JSON in base64 with padding, as `atob` reads it. */
function base64(value: unknown): string {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
