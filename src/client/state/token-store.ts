import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/transport.ts";

/** The tokens of a header session with what is needed to order and time them. JSON-safe. */
export interface ClientTokens {
  /** The id of the session. */
  readonly session: string;
  /** The issuer. */
  readonly realm: string;
  readonly accessToken: string;
  /** Absent where the server gave none; then nothing can be refreshed. */
  readonly refreshToken?: string | undefined;
  /** The refresh generation of the access token. */
  readonly generation: number;
  /** The version of the claims in the access token. */
  readonly claimsVersion: number;
  /** `exp` of the access token, in seconds since 1970 by the server's clock. Only for comparing. */
  readonly expiresAt: number;
  /** How much longer the access token was good when it was received, in milliseconds. */
  readonly expiresIn: number;
  /** What the service lets the client read of the claims; absent where it tells none. */
  readonly claims?: JsonObject | undefined;
  /** When the access token was received: milliseconds since 1970 by the client's own clock. */
  readonly receivedAt: number;
}

/**
 * Where a client keeps its tokens between calls.
 *
 * The client keeps its own copy in memory, loads at start and again before every refresh (tabs may
 * share a store), and saves one at a time, the newest last. A store that fails is reported as the
 * event `storeFailed` and never signs anybody out.
 */
export interface TokenStore {
  /** How the tokens of sessions that this client creates travel. */
  readonly transport: TokenTransport;
  /** The tokens, or undefined when there are none. What is not {@link ClientTokens} is refused. */
  load(): ClientTokens | undefined | Promise<ClientTokens | undefined>;
  /** Replaces the tokens; undefined removes them. */
  save(tokens: ClientTokens | undefined): void | Promise<void>;
}

/**
 * Tokens in HttpOnly cookies, which the browser keeps and scripts cannot read. The default where
 * there is a `document`.
 */
export function cookieTokens(): TokenStore {
  return { transport: "cookie", load: () => undefined, save: () => {} };
}

/**
 * Tokens in this process's memory, sent as headers; gone when it ends. The default where there is
 * no `document`.
 *
 * @param initial tokens to begin with
 */
export function memoryTokens(initial?: ClientTokens): TokenStore {
  let kept = initial;
  return {
    transport: "header",
    load: () => kept,
    save: (tokens) => {
      kept = tokens;
    },
  };
}

/** Whether a value from outside has the shape of {@link ClientTokens}. */
export function isClientTokens(value: unknown): value is ClientTokens {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const { refreshToken, ...rest } = value as Record<string, unknown>;
  const texts = [rest.session, rest.realm, rest.accessToken, refreshToken ?? "-"];
  const numbers = ["generation", "claimsVersion", "expiresAt", "expiresIn", "receivedAt"];
  return (
    texts.every((text) => typeof text === "string" && text !== "") &&
    numbers.every((name) => Number.isFinite(rest[name]))
  );
}
