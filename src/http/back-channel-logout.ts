import { assertId, assertMembers, type Duration, readClockSkew } from "../base/checks.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import { SessionError, unavailable } from "../base/errors.ts";
import { EventLimit } from "../base/event-limit.ts";
import { type SessionEventListener, safeListener } from "../base/events.ts";
import type { ExternalId } from "../engine/store.ts";
import { keysOfIssuer } from "../jwt/issuer-keys.ts";
import {
  isSigningAlgorithm,
  type JsonWebKeySet,
  type SigningAlgorithm,
  signingAlgorithmNames,
} from "../jwt/jwk.ts";
import { type LogoutTokenRules, verifyLogoutToken } from "../jwt/logout-token.ts";
import type { Fetch } from "../jwt/remote-keys.ts";
import { type NodeFallback, type NodeRequest, nodeFallback } from "./node.ts";

/** The sessions to end, such as the object that `createSessions` returns. */
export interface LogoutTarget {
  /** Ends the sessions with an external id. Rejects if the store cannot be reached. */
  revokeAll(options: { readonly externalId: ExternalId }): Promise<readonly string[]>;
}

/** What the strict rules refuse and a provider may need. */
type Leniency = "untyped" | "withoutExpiry";

/** The options of {@link backChannelLogoutHandler}. */
export interface BackChannelLogoutOptions {
  /**
   * The provider: `iss` of its tokens, compared exactly. Sessions are found by the `externalId` with
   * the same `issuer`.
   */
  readonly issuer: string;
  /** The `client_id` of this service at the provider, which `aud` must contain; or several. */
  readonly clientId: string | readonly string[];
  /**
   * The URL where the provider publishes its keys: `jwks_uri` of its metadata. It must be https; http
   * is allowed for localhost. Alternatively the key set itself, which then never changes.
   */
  readonly jwks: string | URL | JsonWebKeySet;
  /** The path of this endpoint: the provider's `backchannel_logout_uri`. Default "/backchannel-logout". */
  readonly path?: string;
  /** The accepted signature algorithms. Default: ES256, RS256 and EdDSA. */
  readonly algorithms?: readonly SigningAlgorithm[];
  /**
   * What to accept although it is less safe. "untyped": a `typ` other than `logout+jwt`, or none. Then
   * only `events` and the absence of `nonce` tell a logout token from an ID token. "withoutExpiry": a
   * token without `exp`, as before the final version of the standard. Default: nothing.
   */
  readonly allow?: readonly Leniency[];
  /** How far `iat` may lie in the future, in whole seconds. Default and maximum: "60s". */
  readonly clockSkew?: Duration;
  /** Fetches the keys; must honor `redirect: "manual"`. Default: the global `fetch`. */
  readonly fetch?: Fetch;
  /**
   * Receives `logoutRefused` for every refused request and `failed` for every outage, at most 10 of one
   * cause in a second. The ends of sessions go to the listener of the sessions.
   */
  readonly onEvent?: SessionEventListener;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
}

/** Responds to requests for one path; returns undefined for all others. */
export type BackChannelLogoutHandler = (request: Request) => Promise<Response | undefined>;

/** The longest form that is read, in bytes. A logout token has at most 8192 characters. */
const maxForm = 16_384;
/** Seconds after `iat` in which a token is accepted, for providers that deliver late. */
const maxAge = 3_600;
/** Tokens that are remembered, so that each ends sessions once. Beyond that the oldest are forgotten. */
const maxRemembered = 10_000;

/**
 * Ends sessions when their user signs out at the identity provider (OpenID Connect Back-Channel Logout
 * 1.0). Register the URL of this endpoint at the provider as `backchannel_logout_uri`, and pass
 * `externalId` to `sessions.create`.
 *
 * A logout token with a `sid` ends the sessions with that `sid`, and those with its `sub` that have no
 * `sid`. A token with a `sub` alone ends all sessions of that user. The ends reach every server and
 * stream like every revocation; their `endedBy` is `externalLogout`.
 *
 * The response is 200 once the sessions have ended, also if there were none. It is 400 with a JSON
 * `error` for a token that is invalid or was used before; 503 in an outage of the store or of the
 * provider's keys, so that the provider tries again. Each server remembers the last 10,000 tokens.
 *
 * ```ts
 * const logout = backChannelLogoutHandler(sessions, {
 *   issuer: "https://login.example.com",
 *   clientId: "your-client-id",
 *   jwks: "https://login.example.com/jwks",
 * });
 * const handler = async (request: Request) => (await logout(request)) ?? handleRpc(request);
 * ```
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if an option is wrong; the message says what to change
 */
export function backChannelLogoutHandler(
  sessions: LogoutTarget,
  options: BackChannelLogoutOptions,
): BackChannelLogoutHandler {
  const endpoint = new LogoutEndpoint(sessions, options);
  return async (request) => {
    if (new URL(request.url).pathname !== endpoint.path) {
      return undefined;
    }
    return endpoint.answer(request.method, () => readForm(request));
  };
}

/**
 * The Node.js version of `backChannelLogoutHandler`: use it as the option `fallback` of
 * `connectNodeAdapter`, as the listener of a plain server, or as Express middleware, before or after
 * `express.urlencoded()`.
 *
 * @param sessions the object that `createSessions` returned
 * @throws TypeError if an option is wrong; the message says what to change
 */
export function backChannelLogoutFallback(
  sessions: LogoutTarget,
  options: BackChannelLogoutOptions,
): NodeFallback {
  const endpoint = new LogoutEndpoint(sessions, options);
  return nodeFallback(endpoint.path, (request) =>
    endpoint.answer(request.method, () => readNodeForm(request)),
  );
}

/** A form that was read; the text of an error if it is none. */
type Form = URLSearchParams | string;

class LogoutEndpoint {
  readonly path: string;
  readonly #sessions: LogoutTarget;
  readonly #rules: LogoutTokenRules;
  readonly #clock: Clock;
  readonly #events: EventLimit;
  /** By `jti`, until when each token is remembered; the oldest first. */
  readonly #used = new Map<string, number>();

  constructor(sessions: LogoutTarget, options: BackChannelLogoutOptions) {
    if (typeof sessions?.revokeAll !== "function") {
      throw new TypeError(
        "backChannelLogoutHandler: pass the object that createSessions returned first",
      );
    }
    assertMembers("backChannelLogoutHandler", options, optionNames);
    const { clock = systemClock, path = "/backchannel-logout" } = options;
    if (!path.startsWith("/")) {
      throw new TypeError(`path must begin with "/", got ${JSON.stringify(path)}`);
    }
    this.path = path;
    this.#sessions = sessions;
    this.#clock = clock;
    this.#events = new EventLimit(safeListener(options.onEvent), clock);
    this.#rules = readRules(options, clock);
  }

  /** Answers a request; never rejects. */
  async answer(method: string | undefined, read: () => Promise<Form>): Promise<Response> {
    // 1. Only a form that is sent by POST.
    if (method !== "POST") {
      return new Response(null, { status: 405, headers: { allow: "POST", ...noStore } });
    }
    try {
      const form = await read();
      if (typeof form === "string") {
        return this.#refuse(form);
      }
      const [token, ...more] = form.getAll("logout_token");
      if (token === undefined || more.length > 0) {
        return this.#refuse("The form must have exactly one logout_token.");
      }

      // 2. The token must be a logout token of the provider, for this service and of this time.
      const verified = await verifyLogoutToken(token, this.#rules, this.#clock.now());
      if ("refused" in verified) {
        return this.#refuse(verified.refused);
      }

      // 3. Each token ends sessions once: a copy must not end those of a later sign-in.
      const { jti, sid, sub } = verified.logout;
      if (!this.#remember(jti)) {
        return this.#refuse("The logout token was used before.");
      }

      // 4. End the sessions, on every server. In an outage the token may be used again.
      await this.#end(jti, { issuer: this.#rules.issuer, sid, sub });
      return new Response(null, { status: 200, headers: noStore });
    } catch (error) {
      return this.#fail(error);
    }
  }

  async #end(jti: string, externalId: ExternalId): Promise<void> {
    try {
      await this.#sessions.revokeAll({ externalId });
    } catch (error) {
      this.#used.delete(jti);
      throw error;
    }
  }

  /** Returns false if the token is remembered already. */
  #remember(jti: string): boolean {
    const now = this.#clock.now();
    const until = this.#used.get(jti);
    if (until !== undefined && until > now) {
      return false;
    }
    for (const [oldest, end] of this.#used) {
      if (end > now && this.#used.size < maxRemembered) {
        break;
      }
      this.#used.delete(oldest);
    }
    this.#used.set(jti, now + (this.#rules.clockSkew + maxAge) * 1000);
    return true;
  }

  #refuse(why: string): Response {
    this.#events.emit({ type: "logoutRefused", why });
    return problem(400, { error: "invalid_request", error_description: why });
  }

  #fail(cause: unknown): Response {
    const error =
      cause instanceof SessionError
        ? cause
        : unavailable("the sessions of a logout token could not be ended; try again", cause);
    this.#events.emit({ type: "failed", procedure: undefined, error });
    const seconds = Math.ceil((error.retryAfter ?? 1000) / 1000);
    return problem(
      503,
      {
        error: "temporarily_unavailable",
        error_description: "The logout could not be carried out. Try again later.",
      },
      { "retry-after": String(seconds) },
    );
  }
}

const optionNames: Readonly<Record<keyof BackChannelLogoutOptions, 0>> = {
  ...{ issuer: 0, clientId: 0, jwks: 0, path: 0, algorithms: 0, allow: 0, clockSkew: 0 },
  ...{ fetch: 0, onEvent: 0, clock: 0 },
};

const noStore = { "cache-control": "no-store" } as const;

function problem(
  status: number,
  body: Readonly<Record<string, string>>,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: { "content-type": "application/json", ...noStore, ...headers },
  });
}

/** @throws TypeError if an option is wrong */
function readRules(options: BackChannelLogoutOptions, clock: Clock): LogoutTokenRules {
  const { issuer, clientId, algorithms = signingAlgorithmNames, allow = [] } = options;
  assertId("issuer", issuer);
  if (/\s/.test(issuer)) {
    throw new TypeError("issuer must not contain spaces");
  }
  const clientIds = typeof clientId === "string" ? [clientId] : clientId;
  if (!Array.isArray(clientIds) || clientIds.length === 0) {
    throw new TypeError(
      "clientId must be the id of this service at the provider, or a list of ids",
    );
  }
  for (const id of clientIds) {
    assertId("clientId", id);
  }
  if (
    !Array.isArray(algorithms) ||
    !algorithms.every(isSigningAlgorithm) ||
    algorithms.length === 0
  ) {
    throw new TypeError(`algorithms must be a list of ${signingAlgorithmNames.join(", ")}`);
  }
  if (!Array.isArray(allow) || !allow.every((one) => leniencies.includes(one))) {
    throw new TypeError(`allow must be a list of ${leniencies.join(", ")}`);
  }
  const clockSkew = readClockSkew(options.clockSkew ?? "60s");
  const { jwks, fetch } = options;
  return {
    issuer,
    clientIds,
    algorithms,
    keys: keysOfIssuer({ jwks, fetch, clock, clockSkew }),
    clockSkew: clockSkew / 1000,
    maxAge,
    untyped: allow.includes("untyped"),
    withoutExpiry: allow.includes("withoutExpiry"),
  };
}

const leniencies: readonly Leniency[] = ["untyped", "withoutExpiry"];

const notAForm = "The body must be a form: application/x-www-form-urlencoded.";
const tooLong = `The form must have at most ${maxForm} bytes.`;

function isForm(contentType: string | null | undefined): boolean {
  return /^application\/x-www-form-urlencoded\s*(;|$)/i.test(contentType ?? "");
}

/** Reads the form of a request. */
async function readForm(request: Request): Promise<Form> {
  if (!isForm(request.headers.get("content-type"))) {
    return notAForm;
  }
  const reader = (request.body as ReadableStream<Uint8Array> | null)?.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done = true, value } = (await reader?.read()) ?? {};
    if (done || value === undefined) {
      return toForm(chunks);
    }
    length += value.length;
    if (length > maxForm) {
      await reader?.cancel();
      return tooLong;
    }
    chunks.push(value);
  }
}

/** Reads the form of a request of Node.js, or what a body parser has read before. */
async function readNodeForm(request: NodeRequest): Promise<Form> {
  if (!isForm(request.headers["content-type"])) {
    return notAForm;
  }
  const { body } = request as { readonly body?: unknown };
  if (typeof body === "object" && body !== null && !(body instanceof Uint8Array)) {
    const { logout_token: token } = body as { readonly logout_token?: unknown };
    return new URLSearchParams(
      [token].flat().map((one) => ["logout_token", typeof one === "string" ? one : ""]),
    );
  }
  if (typeof body === "string") {
    return body.length > maxForm ? tooLong : new URLSearchParams(body);
  }
  if (body instanceof Uint8Array) {
    return body.length > maxForm ? tooLong : toForm([body]);
  }
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let length = 0;
    request.on("data", (chunk: Uint8Array) => {
      length += chunk.length;
      if (length > maxForm) {
        // The rest is discarded.
        resolve(tooLong);
      } else {
        chunks.push(chunk);
      }
    });
    request.once("end", () => resolve(toForm(chunks)));
    request.once("error", reject);
    request.once("close", () => resolve("The request ended too early."));
  });
}

function toForm(chunks: readonly Uint8Array[]): Form {
  const decoder = new TextDecoder();
  const text = chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("");
  return new URLSearchParams(text + decoder.decode());
}
