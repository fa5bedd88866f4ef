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
 * Who sent a request: an SDK, or rpc-session's client in cookie mode on a page whose SDK intercepts its
 * requests (`beside`).
 */
export type Sender = "sdk" | "beside";

/**
 * Returns who sent a request; undefined if no SDK has seen it. An SDK marks every request that it
 * intercepts, and its own. rpc-session's client also marks its requests. A request with both marks is one
 * of rpc-session's client.
 */
export function senderOf(read: ReadHeader): Sender | undefined {
  const isMarked = ["st-auth-mode", "rid", "fdi-version"].some((name) => read(name) !== undefined);
  const transport = read(header.transport);
  if (!isMarked || (transport === undefined && read(header.session) === undefined)) {
    return isMarked ? "sdk" : undefined;
  }
  // With tokens in headers, each of the two has a session of its own.
  const isShared = read("st-auth-mode") === "cookie" && transport === "cookie";
  return isShared ? "beside" : undefined;
}

/**
 * Whether the client of a request keeps cookies: a browser, or an app in cookie mode. The SDK for Android
 * fails in header mode if a response sets one.
 */
export function keepsCookies(read: ReadHeader): boolean {
  const marks = ["origin", "sec-fetch-site", "cookie"];
  return read("st-auth-mode") === "cookie" || marks.some((name) => Boolean(read(name)));
}

/** Whether a request has session cookies by their default names, with any prefix, and the port of localhost. */
export function hasSessionCookies(read: ReadHeader): boolean {
  const name = /(?:^|;) *(?:__[A-Za-z-]+-)?rpcsession-(?:access|refresh)(?:-\d+)?=/;
  return name.test(read("cookie") ?? "");
}

/**
 * Returns the changes that turn the headers of an SDK's request into those of rpc-session.
 *
 * An SDK that was switched from cookies to headers still has its session in cookies. Such a request is one in
 * cookie mode, as it is for SuperTokens. Otherwise that session could neither be used nor ended.
 */
export function requestChanges(read: ReadHeader): HeaderChange[] {
  const asked = read("st-auth-mode");
  const hasBearer = read("authorization") !== undefined;
  const mode = asked === "header" && !hasBearer && hasSessionCookies(read) ? "cookie" : asked;
  const known = mode === "cookie" && !hasBearer ? knownSession(read("cookie") ?? "") : undefined;
  const antiCsrf = read("anti-csrf");
  return [
    ...(mode === "cookie" || mode === "header" ? [[header.transport, mode] as const] : []),
    ...(known === undefined ? [] : [[header.session, known] as const]),
    ...(antiCsrf === undefined ? [] : [[header.csrf, antiCsrf] as const]),
    // A field is added to the body of a refusal, which must not be compressed by then.
    ["accept-encoding", undefined],
  ];
}

/**
 * Returns the id of the session that an SDK in cookie mode knows, or "signedOut". The SDK keeps it in cookies
 * of the page, so it is undefined if the page is on another host.
 *
 * rpc-session's client may have changed the session without the SDK. The server compares both sessions, and
 * its response reports the difference.
 */
function knownSession(cookies: string): string | undefined {
  const frontToken = /(?:^|;) *sFrontToken=([^;]*)/.exec(cookies)?.[1];
  if (frontToken === undefined) {
    return /(?:^|;) *st-last-access-token-update=/.test(cookies) ? "signedOut" : undefined;
  }
  try {
    const { up } = JSON.parse(atob(frontToken)) as { up?: { sessionHandle?: unknown } };
    const id = up?.sessionHandle;
    return typeof id === "string" && /^[\w-]{1,64}$/.test(id) ? id : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Returns the changes that turn the headers of a response into those that the SDK reads. For
 * rpc-session's client beside an SDK, its own headers stay. There are none for other clients.
 */
export function responseChanges(read: ReadHeader, sender: Sender | undefined): HeaderChange[] {
  if (sender === undefined) {
    return [];
  }
  const notice = decodeNotice(read(header.session) ?? null);
  const named: HeaderChange[] = [
    ["anti-csrf", read(header.csrf)],
    ["st-access-token", read(header.accessToken)],
    ["st-refresh-token", read(header.refreshToken)],
    ["front-token", notice && frontTokenOf(notice)],
  ];
  const own = [header.csrf, header.accessToken, header.refreshToken, header.session];
  const removed = (sender === "sdk" ? own : []).map((name) => [name, undefined] as const);
  const written = named.filter(([, value]) => value !== undefined);
  if (written.length === 0) {
    return removed;
  }
  const exposed = read("access-control-expose-headers");
  return [
    ...written,
    ...removed,
    [
      "access-control-expose-headers",
      [...(exposed ? [exposed] : []), ...written.map(([name]) => name)].join(", "),
    ],
  ];
}

/** Whether a response, before its translation, reports that a session began, was refreshed or ended. */
export function reportsSession(read: ReadHeader): boolean {
  const event = decodeNotice(read(header.session) ?? null)?.event;
  return event !== undefined && event !== "none" && event !== "current";
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
  if (event === "none") {
    // The SDK may still have a session of SuperTokens, which its next refresh trades for one of ours.
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
