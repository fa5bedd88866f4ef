import { type Clock, inTime } from "../../base/clock.ts";
import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { SessionClientEvent } from "../events.ts";

/**
 * The tokens of a header session, with the facts needed to order and time them. Can be stored as
 * JSON.
 */
export interface ClientTokens {
  /** The id of the session. */
  readonly session: string;
  /** The id of the user; absent if an older version has stored the tokens. */
  readonly user?: string | undefined;
  /** The issuer. */
  readonly realm: string;
  readonly accessToken: string;
  /** Absent if the server sent none; the session then cannot be refreshed. */
  readonly refreshToken?: string | undefined;
  /** The refresh generation of the access token. */
  readonly generation: number;
  /** The version of the claims in the access token. */
  readonly claimsVersion: number;
  /** `exp` of the access token: seconds since 1970 by the server's clock. Use it only for comparisons. */
  readonly expiresAt: number;
  /** The remaining lifetime of the access token when it was received, in milliseconds. */
  readonly expiresIn: number;
  /** The claims that the service shows to the client; absent if it shows none. */
  readonly claims?: JsonObject | undefined;
  /** When the access token was received: milliseconds since 1970 by the client's own clock. */
  readonly receivedAt: number;
}

/**
 * Where a client keeps its tokens between calls.
 *
 * The client holds a copy in memory. It loads the tokens at the start and again before every
 * refresh, because other clients may share the store. It saves one value at a time, the newest last.
 * A failure of the store is reported as the event `storeFailed` and never ends the session. A store
 * that does not answer within `refreshTimeout` has failed too: calls go on without tokens until it
 * answers, and calls that need a session fail with Unavailable.
 *
 * Store the value as one. If your storage keeps the two tokens apart, write the refresh token first: the
 * server takes the use of the access token as a sign that the refresh token has been stored.
 *
 * ```ts
 * const tokens: TokenStore = {
 *   transport: "header",
 *   load: async () => JSON.parse((await storage.get("tokens")) ?? "null") ?? undefined,
 *   save: (value) => storage.set("tokens", JSON.stringify(value ?? null)),
 * };
 * ```
 */
export interface TokenStore {
  /** How the tokens of the sessions that this client creates are transported. */
  readonly transport: TokenTransport;
  /** Whether no other tab has these tokens, although they are cookies. Default false. */
  readonly isAlone?: boolean;
  /** Returns the tokens, or undefined if there are none. The client rejects other values. */
  load(): ClientTokens | undefined | Promise<ClientTokens | undefined>;
  /** Replaces the tokens; undefined removes them. */
  save(tokens: ClientTokens | undefined): void | Promise<void>;
}

/**
 * Keeps tokens in HttpOnly cookies, which the browser manages and scripts cannot read. The default
 * in pages and workers of a browser.
 */
export function cookieTokens(): TokenStore {
  return { transport: "cookie", load: () => undefined, save: () => {} };
}

/**
 * Keeps tokens in the memory of this process and sends them as headers. They are lost when the
 * process ends. The default outside of browsers.
 *
 * @param initial tokens to start with
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

/** The result of a load. A failed load is not the same as an empty store. */
export type Loaded = { readonly tokens: ClientTokens | undefined } | "failed";

/** The collaborators of a {@link TokenKeeper}. */
interface TokenKeeperParts {
  readonly clock: Clock;
  /** How long a load may take, in milliseconds. */
  readonly ms: number;
  readonly emit: (event: SessionClientEvent) => void;
}

/**
 * Accesses the {@link TokenStore} for the client: validates loaded tokens, saves one value at a time
 * with the newest last, and turns every failure into an event. Never throws or rejects.
 */
export class TokenKeeper {
  readonly #store: TokenStore;
  readonly #parts: TokenKeeperParts;
  /** Whether a load has taken too long and is still running. Nothing waits for the store meanwhile. */
  #isHanging = false;
  #saving: Promise<void> | undefined;
  #next: { readonly tokens: ClientTokens | undefined } | undefined;

  constructor(store: TokenStore, parts: TokenKeeperParts) {
    this.#store = store;
    this.#parts = parts;
  }

  /**
   * Loads the tokens, within the time limit. A store that answers synchronously is read synchronously,
   * so that the state of a new client is known at once.
   */
  load(): Loaded | Promise<Loaded> {
    if (this.#isHanging) {
      return "failed";
    }
    try {
      const value = this.#store.load();
      return isPromise(value) ? this.#loadInTime(Promise.resolve(value)) : this.#checked(value);
    } catch (error) {
      return this.#failed(nameOf(error));
    }
  }

  async #loadInTime(loading: Promise<unknown>): Promise<Loaded> {
    const late = (): Error => {
      this.#isHanging = true;
      const answered = (): void => {
        this.#isHanging = false;
      };
      loading.then(answered, answered);
      return new DOMException("the token store did not answer in time", "TimeoutError");
    };
    try {
      return this.#checked(await inTime(loading, { ...this.#parts, keepAlive: true, late }));
    } catch (error) {
      return this.#failed(nameOf(error));
    }
  }

  /** Saves `tokens` after the running save. Of several waiting values only the newest is saved. */
  save(tokens: ClientTokens | undefined): void {
    this.#next = { tokens };
    this.#saving ??= this.#saveAll();
  }

  /** Resolves when nothing is left to save. */
  async idle(): Promise<void> {
    await this.#saving;
  }

  async #saveAll(): Promise<void> {
    while (this.#next !== undefined) {
      const { tokens } = this.#next;
      this.#next = undefined;
      const { clock, ms } = this.#parts;
      // Later saves wait for this one even if it takes too long. If it overwrote them afterwards, the
      // store would hold an old refresh token, whose use looks like theft.
      const cancel = clock.after(ms, () => this.#report("save", "TimeoutError"));
      try {
        await this.#store.save(tokens);
      } catch (error) {
        this.#report("save", nameOf(error));
      } finally {
        cancel();
      }
    }
    this.#saving = undefined;
  }

  #checked(value: unknown): Loaded {
    if (value === undefined || value === null) {
      return { tokens: undefined };
    }
    return isClientTokens(value) ? { tokens: value } : this.#failed("TypeError");
  }

  #failed(error: string): Loaded {
    this.#report("load", error);
    return "failed";
  }

  #report(operation: "load" | "save", error: string): void {
    this.#parts.emit({ type: "storeFailed", operation, error });
  }
}

/** Whether a value from outside has the shape of {@link ClientTokens}. */
function isClientTokens(value: unknown): value is ClientTokens {
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

/** Stores may return any thenable. */
function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined)?.then === "function";
}

/** Returns only the name, because the message of a store's error may contain the tokens. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}
