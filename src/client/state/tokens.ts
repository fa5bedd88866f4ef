import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { SessionClientEvent } from "../events.ts";

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

/**
 * Speaks to the {@link TokenStore}: checks what it loads, saves one at a time with the newest last,
 * and turns every failure into an event. Nothing here rejects.
 */
export class TokenKeeper {
  readonly #store: TokenStore;
  readonly #emit: (event: SessionClientEvent) => void;
  #saving: Promise<void> | undefined;
  #next: { readonly tokens: ClientTokens | undefined } | undefined;

  constructor(store: TokenStore, emit: (event: SessionClientEvent) => void) {
    this.#store = store;
    this.#emit = emit;
  }

  /** Gives `then` what the store holds, at once where the store answers at once. */
  load(then: (loaded: Loaded) => void): void | Promise<void> {
    try {
      const value = this.#store.load();
      if (!isPromise(value)) {
        then(this.#checked(value));
        return;
      }
      return value.then(
        (tokens) => then(this.#checked(tokens)),
        (error: unknown) => then(this.#failed(error)),
      );
    } catch (error) {
      then(this.#failed(error));
    }
  }

  /** Saves `tokens` after the save that runs now. Of several that wait only the newest is done. */
  save(tokens: ClientTokens | undefined): void {
    this.#next = { tokens };
    this.#saving ??= this.#drain();
  }

  /** Resolves when nothing is left to save. */
  async idle(): Promise<void> {
    await this.#saving;
  }

  async #drain(): Promise<void> {
    while (this.#next !== undefined) {
      const { tokens } = this.#next;
      this.#next = undefined;
      try {
        await this.#store.save(tokens);
      } catch (error) {
        this.#emit({ type: "storeFailed", operation: "save", error: nameOf(error) });
      }
    }
    this.#saving = undefined;
  }

  #checked(value: unknown): Loaded {
    if (value === undefined || value === null) {
      return { tokens: undefined };
    }
    return isClientTokens(value)
      ? { tokens: value }
      : this.#failed(new TypeError("what the store holds are no tokens"));
  }

  #failed(error: unknown): Loaded {
    this.#emit({ type: "storeFailed", operation: "load", error: nameOf(error) });
    return "failed";
  }
}

/** What a load found; `failed` is not the same as nothing. */
export type Loaded = { readonly tokens: ClientTokens | undefined } | "failed";

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined)?.then === "function";
}

/** Only the name: the message of a store's error might hold what it failed to save. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}
