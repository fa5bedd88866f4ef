import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { assertMembers, type Duration, durationMs } from "../base/checks.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import type { JsonObject, StandardSchemaV1 } from "../base/json.ts";
import type { SessionClientEvent } from "./events.ts";
import { cookieTokens, memoryTokens, type TokenStore } from "./state/tokens.ts";

/**
 * A transport that says why calls are refused where none of them has gone through our interceptors:
 * whoever sets interceptors beside `...parts` replaces them, and no call ever carries a token.
 *
 * @param isUsed whether a call has gone through them
 */
export function usesInterceptors(made: Transport, isUsed: () => boolean): Transport {
  const explain = (error: unknown): never => {
    const refused = error instanceof ConnectError && error.code === Code.Unauthenticated;
    if (refused && !isUsed()) {
      throw new TypeError(
        "transport: the function replaced the interceptors of the parts; write interceptors: [...parts.interceptors, yours]",
        { cause: error },
      );
    }
    throw error;
  };
  const run = <T>(call: () => Promise<T>): Promise<T> =>
    isUsed() ? call() : call().catch(explain);
  return {
    unary: (...call) => run(() => made.unary(...call)),
    stream: (...call) => run(() => made.stream(...call)),
  };
}

/** What the transport factory must hand to the transport it makes: `{ baseUrl, ...parts }`. */
export interface TransportParts {
  /**
   * Attach tokens and retry. Append your own after them:
   * `{ baseUrl, ...parts, interceptors: [...parts.interceptors, yours] }`.
   */
  readonly interceptors: Interceptor[];
  /**
   * Refuses redirects, and sends cookies in cookie mode. Transports for Node.js ignore it; they
   * follow no redirect. Absent where there is no global `fetch`.
   */
  readonly fetch?: typeof globalThis.fetch;
}

/** Options of {@link createSessionClient}. */
export interface SessionClientOptions<Claims extends object = JsonObject> {
  /**
   * Makes a transport to the service: `(parts) => createConnectTransport({ baseUrl, ...parts })`.
   * Called twice: for calls, and without interceptors for refresh and sign-out. Both must have the
   * same origin; tokens go nowhere else.
   */
  readonly transport: (parts: TransportParts) => Transport;
  /** Where tokens are kept. Default: cookies where there is a `document`, else memory. */
  readonly tokens?: TokenStore;
  /**
   * The issuer whose sessions these are. Default: that of the first session it is given. Set it
   * where one page talks to several services, so that tabs tell them apart.
   */
  readonly realm?: string;
  /**
   * What the service's `clientClaims` look like, by a schema of zod, valibot, arktype or another
   * library of the Standard Schema that answers at once: types `session.claims`, which is undefined
   * where they do not fit. Default: any JSON object.
   */
  readonly claims?: StandardSchemaV1<unknown, Claims>;
  /** How long one refresh may take; 100 ms to 60 s. Default `"10s"`. */
  readonly refreshTimeout?: Duration;
  /**
   * The share of the access token's life after which it is refreshed ahead of its end; above 0, at
   * most 1. Default 0.8.
   */
  readonly earlyRefresh?: number;
  /** Where time comes from. Default: the clock of the machine. */
  readonly clock?: Clock;
  /** Receives what happens to the session. What it throws is ignored. */
  readonly onEvent?: (event: SessionClientEvent) => void;
}

/** {@link SessionClientOptions} with every default applied. */
export interface ResolvedOptions {
  readonly transport: (parts: TransportParts) => Transport;
  readonly tokens: TokenStore;
  readonly realm: string | undefined;
  readonly refreshTimeoutMs: number;
  readonly earlyRefresh: number;
  readonly clock: Clock;
  readonly onEvent: (event: SessionClientEvent) => void;
}

const members: Readonly<Record<keyof SessionClientOptions, 0>> = {
  ...{ transport: 0, tokens: 0, realm: 0, claims: 0 },
  ...{ refreshTimeout: 0, earlyRefresh: 0, clock: 0, onEvent: 0 },
};

/** @throws TypeError for an option that cannot work */
export function resolveOptions(options: Omit<SessionClientOptions, "claims">): ResolvedOptions {
  if (typeof options?.transport !== "function") {
    throw new TypeError(
      "transport: give a function, (parts) => createConnectTransport({ baseUrl, ...parts })",
    );
  }
  assertMembers("createSessionClient", options, members);
  const early = options.earlyRefresh ?? 0.8;
  if (!(early > 0 && early <= 1)) {
    throw new TypeError(`earlyRefresh: ${early} is no share; above 0, at most 1`);
  }
  const { realm, onEvent } = options;
  if (realm !== undefined && (typeof realm !== "string" || realm === "")) {
    throw new TypeError("realm: must be the issuer; give it or leave it out");
  }
  if (onEvent !== undefined && typeof onEvent !== "function") {
    throw new TypeError("onEvent: must be a function");
  }
  return {
    transport: options.transport,
    tokens: checkedStore(options.tokens ?? defaultTokens()),
    realm,
    refreshTimeoutMs: durationMs("refreshTimeout", options.refreshTimeout ?? "10s", {
      min: 100,
      max: 60_000,
    }),
    earlyRefresh: early,
    clock: options.clock ?? systemClock,
    onEvent: onEvent ?? (() => {}),
  };
}

/**
 * Makes a transport, and checks that the factory took what it was given: without the interceptors
 * no call would ever carry a token, and nothing would say why.
 *
 * @throws TypeError when it did not. Whether they were replaced, only a refused call can tell
 */
export function makeTransport(options: ResolvedOptions, interceptors: Interceptor[]): Transport {
  let taken = false;
  let used = false;
  const noted = interceptors.map(
    (intercept): Interceptor =>
      (next) => {
        used = true;
        return intercept(next);
      },
  );
  const fetch = sessionFetch(options.tokens);
  const made = options.transport({
    get interceptors() {
      taken = true;
      return noted;
    },
    ...(fetch && { fetch }),
  });
  if (typeof made?.unary !== "function" || typeof made.stream !== "function") {
    throw new TypeError("transport: the function returned no transport of Connect");
  }
  if (!taken) {
    throw new TypeError("transport: the function dropped the parts; write { baseUrl, ...parts }");
  }
  return interceptors.length === 0 ? made : usesInterceptors(made, () => used);
}

function sessionFetch(tokens: TokenStore): typeof globalThis.fetch | undefined {
  if (typeof globalThis.fetch !== "function") {
    return undefined;
  }
  const cookies = tokens.transport === "cookie" ? ({ credentials: "include" } as const) : {};
  // A redirect could carry the Authorization header to where the service does not live.
  return (input, init) => globalThis.fetch(input, { ...init, ...cookies, redirect: "error" });
}

function defaultTokens(): TokenStore {
  return typeof document === "undefined" ? memoryTokens() : cookieTokens();
}

function checkedStore(store: TokenStore): TokenStore {
  const known = store?.transport === "cookie" || store?.transport === "header";
  if (!known || typeof store.load !== "function" || typeof store.save !== "function") {
    throw new TypeError(
      'tokens: is no token store; give cookieTokens(), memoryTokens() or { transport: "header", load, save }',
    );
  }
  return store;
}
