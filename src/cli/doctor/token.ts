import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { systemClock } from "../../base/clock.ts";
import { fromPayload, type TokenClaims } from "../../jwt/claims.ts";
import { parseCompact } from "../../jwt/strict-parse.ts";
import type { CookieLook } from "./cookies.ts";
import { type Finding, Findings } from "./findings.ts";
import { callSession, methodUrl, type RpcReply, type Target } from "./rpc.ts";
import { causeOf } from "./wire.ts";

/** An access token, and what the checks before have shown. */
interface TokenTarget extends Target {
  readonly token: string;
  readonly cookies: CookieLook;
  readonly issuer: string | undefined;
}

/** Makes a call with an access token, which must succeed. */
export async function lookAtToken(target: TokenTarget): Promise<readonly Finding[]> {
  const found = new Findings("token");
  const claims = claimsOf(target.token);
  if (claims === undefined) {
    found.fail(
      "The given text is not an access token of rpc-session.",
      "No call was made with it.",
      'Let "rpc-session inspect" say where it breaks. Give the access token, not the refresh token.',
    );
    return found.list;
  }
  if (claims.iss !== target.issuer) {
    found.fail(
      `The token is of the issuer ${claims.iss}, the service is ${target.issuer ?? "another one"}.`,
      "The service refuses tokens of other issuers.",
      "Use a token of this service. After a change of the issuer, name the former one in olderIssuers.",
    );
  }
  const reply = await callSession(target, "GetSession", tokenHeaders(target, claims));
  if (reply.code !== undefined || !reply.isRpc) {
    reportRefusal(found, reply, claims);
  }
  return found.okIfNone("A call with the access token succeeds.");
}

function claimsOf(token: string): TokenClaims | undefined {
  const parsed = parseCompact(token);
  return parsed === undefined ? undefined : fromPayload(parsed.payload);
}

/** The token as its session's transport demands. */
function tokenHeaders(
  { token, cookies }: Pick<TokenTarget, "token" | "cookies">,
  { transport }: TokenClaims,
): Readonly<Record<string, string>> {
  return transport === "header"
    ? { authorization: `Bearer ${token}` }
    : { cookie: `${cookies.accessName}=${token}`, "sec-fetch-site": "same-origin" };
}

const advice: Readonly<Record<string, string>> = {
  TOKEN_EXPIRED: "Take a newer token. Access tokens live 15 minutes by default (lifetimes.access).",
  TOKEN_INVALID:
    'Let "rpc-session inspect --jwks" say what is wrong: the key, the issuer, the audience or the signature.',
  SESSION_REVOKED: "Sign in again; the session was ended.",
  SESSION_UNKNOWN:
    "Check that the service uses the store in which the session was created; sign in again.",
  SESSION_EXPIRED: "Sign in again; the session has expired.",
  SESSION_MISSING:
    "Let the proxy forward Cookie and Authorization. If the cookies have names of their own, name the refresh cookie with --cookie.",
  CROSS_SITE: "Let the proxy forward Sec-Fetch-Site, Origin and Host unchanged.",
  ANTI_CSRF: "This is in order: the service demands an anti-CSRF token, which only the client has.",
  SERVER_DRAINING: "The server is about to stop. Open the stream again; another server takes it.",
  AUTH_UNAVAILABLE: "See the events of the service (onEvent, type failed), and sessions.health().",
};

function reportRefusal(found: Findings, { status, reason }: RpcReply, claims: TokenClaims): void {
  if (reason === "ANTI_CSRF") {
    found.ok("The token is accepted; the call lacks only the anti-CSRF token of the client.");
    return;
  }
  const seconds = Math.round(systemClock.now() / 1000 - claims.exp);
  const since = seconds > 0 ? `, and expired ${seconds} s ago by this machine's clock` : "";
  found.fail(
    `GetSession refuses the token (${reason ?? `status ${status}`})${since}.`,
    "Calls with this token fail.",
    advice[reason ?? ""] ?? "Check what stands in front of the service.",
  );
}

/** Milliseconds within which a stream with keepAlive sends its first message, with room for slow ways. */
const patience = 5_000;

/** Opens a stream with the token, and looks whether its first message arrives before its end. */
export async function lookAtStream(
  target: TokenTarget,
  procedure: string,
): Promise<readonly Finding[]> {
  const found = new Findings("stream");
  const claims = claimsOf(target.token);
  if (claims === undefined) {
    return found.list;
  }
  const url = methodUrl(target.url, procedure);
  const create = url.protocol === "https:" ? httpsRequest : httpRequest;
  const request = create(url, {
    method: "POST",
    agent: false,
    headers: {
      ...{ "content-type": "application/connect+json", "connect-protocol-version": "1" },
      ...{ "user-agent": "rpc-session-doctor", ...tokenHeaders(target, claims) },
    },
  });
  try {
    const first = await firstPart(request);
    reportStream(found, first, procedure);
  } catch (error) {
    found.fail(
      `The stream ${procedure} fails: ${causeOf(error)}.`,
      "Clients cannot keep it open.",
      "Check the proxy's limits for open requests.",
    );
  } finally {
    request.destroy();
  }
  return found.okIfNone(`The first message of ${procedure} arrives while the stream is open.`);
}

/** What has arrived of a stream in time. */
interface FirstPart {
  readonly response: IncomingMessage | undefined;
  readonly part: Uint8Array | undefined;
}

/** Waits for the first bytes of the body, or until the patience is over. */
function firstPart(request: ReturnType<typeof httpRequest>): Promise<FirstPart> {
  return new Promise((resolve, reject) => {
    let response: IncomingMessage | undefined;
    const stop = systemClock.after(patience, () => resolve({ response, part: undefined }), true);
    const finish = (part: Uint8Array | undefined): void => {
      stop();
      resolve({ response, part });
    };
    request.on("response", (given) => {
      response = given;
      given.once("data", finish);
      given.once("end", () => finish(undefined));
      given.once("error", reject);
    });
    request.on("error", (error) => {
      stop();
      reject(error);
    });
    // One message in an envelope: no flags, two bytes, `{}`.
    request.end(Uint8Array.of(0, 0, 0, 0, 2, 0x7b, 0x7d));
  });
}

function reportStream(found: Findings, { response, part }: FirstPart, procedure: string): void {
  const isStream = /^application\/connect\+/.test(response?.headers["content-type"] ?? "");
  if (response !== undefined && !(response.statusCode === 200 && isStream)) {
    found.fail(
      `The method ${procedure} does not answer as a stream (status ${response.statusCode}).`,
      "Streams of this service cannot be opened here.",
      "Check the name of the method, such as notes.v1.NotesService/WatchNotes, and that it streams.",
    );
  } else if (part === undefined) {
    const isAnnounced = response?.headers["rpcsession-heartbeat"] !== undefined;
    const seen = `No message of ${procedure} arrives within ${patience / 1000} s.`;
    const mend =
      "Switch buffering off for streams (nginx: proxy_buffering off), and let the handler use keepAlive, which sends a message at once.";
    if (isAnnounced) {
      found.fail(seen, "The service sends heartbeats, so a proxy holds them back.", mend);
    } else {
      found.warn(
        seen,
        "A proxy may hold it back, or the handler sends nothing yet. These cannot be told apart.",
        mend,
      );
    }
  } else if (((part[0] ?? 0) & 0x02) !== 0) {
    found.fail(
      `The stream ${procedure} ends at once: its first message is its end.`,
      "The call was refused, or the handler had nothing to send.",
      "Name a method that the user of the token may call, and that takes an empty message.",
    );
  }
}
