import type { Interceptor, Transport } from "@connectrpc/connect";
import { assertMembers, type Duration, durationMs } from "../base/checks.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import type { JsonObject, StandardSchemaV1 } from "../base/json.ts";
import type { SessionClientEventListener, StepUpListener } from "./events.ts";
import { cookieTokens, memoryTokens, type TokenStore } from "./state/tokens.ts";

/** Options of {@link createSessionClient}. */
export interface SessionClientOptions<Claims extends object = JsonObject> {
  /**
   * Creates a transport to the service: `(parts) => createConnectTransport({ baseUrl, ...parts })`.
   * It is called twice: for the calls of the application, and without interceptors for refresh and
   * sign-out. Both transports must have the same origin, because tokens are sent nowhere else.
   */
  readonly transport: (parts: TransportParts) => Transport;
  /**
   * Where tokens are kept. Default: `cookieTokens()` in a page or a worker of a browser, else
   * `memoryTokens()`. A server that signs in with that default prints a warning, because all its visitors
   * would share the session; see `rpc-session/ssr`.
   */
  readonly tokens?: TokenStore;
  /**
   * The issuer of the sessions. Default: the issuer of the first session that the client receives.
   * Set it if one page uses several services, so that its tabs can distinguish their sessions.
   */
  readonly realm?: string;
  /**
   * A schema of the service's `clientClaims`, from zod, valibot, arktype or another library that
   * implements Standard Schema. It types `session.claims`, which is undefined if the claims do not
   * match. The schema must validate synchronously. Default: any JSON object.
   */
  readonly claims?: StandardSchemaV1<unknown, Claims>;
  /** How long one refresh may take, from `"100ms"` to `"60s"`. Default `"10s"`. */
  readonly refreshTimeout?: Duration;
  /**
   * The fraction of the access token's lifetime after which the token is refreshed early; greater
   * than 0 and at most 1. Default 0.8.
   */
  readonly earlyRefresh?: number;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
  /** Receives the events of the session. Errors that it throws are ignored. Default: none. */
  readonly onEvent?: SessionClientEventListener;
  /**
   * Lets the user authenticate again when a call is refused with the hint `STEP_UP`, for example with a
   * passkey: ask the user, and call the method of the service that calls `sessions.reauthenticate`. After
   * that the refused call is sent again, once. It is called once for all calls that were refused until
   * then, and neither for calls that it makes itself, nor for calls that cannot be sent again.
   *
   * The calls fail with their refusal if it resolves to false or the user has changed, and with its
   * error if it rejects. Their timeouts go on meanwhile. Default: none; calls fail with the refusal.
   */
  readonly onStepUp?: StepUpListener;
}

/** The parts to create a transport with: `createConnectTransport({ baseUrl, ...parts })`. */
export interface TransportParts {
  /**
   * The interceptors that attach tokens and resend calls. Add your own after them:
   * `{ baseUrl, ...parts, interceptors: [...parts.interceptors, yours] }`.
   */
  readonly interceptors: Interceptor[];
  /**
   * A `fetch` that follows no redirects, and throws a TypeError for one. It sends and stores cookies
   * in cookie mode only. Transports for Node.js ignore it; they do not follow redirects. Absent if
   * there is no global `fetch`.
   */
  readonly fetch?: typeof globalThis.fetch;
}

/** {@link SessionClientOptions} with every default applied. */
export interface ResolvedOptions {
  readonly transport: (parts: TransportParts) => Transport;
  readonly tokens: TokenStore;
  readonly realm: string | undefined;
  readonly refreshTimeoutMs: number;
  readonly earlyRefresh: number;
  readonly clock: Clock;
  readonly onEvent: SessionClientEventListener | undefined;
  readonly onStepUp: StepUpListener | undefined;
}

const members: Readonly<Record<keyof SessionClientOptions, 0>> = {
  ...{ transport: 0, tokens: 0, realm: 0, claims: 0 },
  ...{ refreshTimeout: 0, earlyRefresh: 0, clock: 0, onEvent: 0, onStepUp: 0 },
};

/** @throws TypeError for an invalid option */
export function resolveOptions(options: Omit<SessionClientOptions, "claims">): ResolvedOptions {
  if (typeof options?.transport !== "function") {
    throw new TypeError(
      `transport must be a function such as (parts) => createConnectTransport({ baseUrl, ...parts }), got ${typeof options?.transport}`,
    );
  }
  assertMembers("createSessionClient", options, members);
  const earlyRefresh = options.earlyRefresh ?? 0.8;
  if (!(earlyRefresh > 0 && earlyRefresh <= 1)) {
    throw new TypeError(`earlyRefresh must be greater than 0 and at most 1, got ${earlyRefresh}`);
  }
  const { realm, onEvent, onStepUp } = options;
  if (realm !== undefined && (typeof realm !== "string" || realm === "")) {
    throw new TypeError(`realm must be the issuer of the sessions, got ${JSON.stringify(realm)}`);
  }
  for (const [name, listener] of Object.entries({ onEvent, onStepUp })) {
    if (listener !== undefined && typeof listener !== "function") {
      throw new TypeError(`${name} must be a function, got ${typeof listener}`);
    }
  }
  return {
    transport: options.transport,
    tokens: checkedStore(options.tokens ?? defaultTokens()),
    realm,
    refreshTimeoutMs: durationMs("refreshTimeout", options.refreshTimeout ?? "10s", {
      min: 100,
      max: 60_000,
    }),
    earlyRefresh,
    clock: options.clock ?? systemClock,
    onEvent,
    onStepUp,
  };
}

function defaultTokens(): TokenStore {
  if (isBrowser()) {
    return cookieTokens();
  }
  const tokens = memoryTokens();
  return {
    ...tokens,
    save(value) {
      // Node.js and Deno tell whether the process accepts connections on a port. Tests do that as well.
      const { process } = globalThis as { readonly process?: ServerProcess };
      if (
        value &&
        !isWarned &&
        activeResources(process).includes("TCPServerWrap") &&
        process?.env.NODE_ENV !== "test"
      ) {
        isWarned = true;
        console.warn(
          "rpc-session: all visitors of this server share this session; use rpc-session/ssr, or pass memoryTokens()",
        );
      }
      return tokens.save(value);
    },
  };
}

/** Workers of Cloudflare have the function, and it throws. */
function activeResources(process: ServerProcess | undefined): readonly string[] {
  try {
    return process?.getActiveResourcesInfo?.() ?? [];
  } catch {
    return [];
  }
}

/** One warning for a process is loud enough. */
let isWarned = false;

interface ServerProcess {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly getActiveResourcesInfo?: () => readonly string[];
}

/**
 * Whether `fetch` sends the cookies of a browser: in a page, and in its workers. Server runtimes have
 * workers too, but these have no location on the web.
 */
function isBrowser(): boolean {
  if (typeof document !== "undefined") {
    return true;
  }
  const { WorkerGlobalScope, location } = globalThis as {
    readonly WorkerGlobalScope?: unknown;
    readonly location?: { readonly origin?: string };
  };
  return typeof WorkerGlobalScope === "function" && /^[a-z-]+:/.test(location?.origin ?? "");
}

function checkedStore(store: TokenStore): TokenStore {
  const hasTransport = store?.transport === "cookie" || store?.transport === "header";
  if (!hasTransport || typeof store.load !== "function" || typeof store.save !== "function") {
    throw new TypeError(
      'tokens must be a token store: cookieTokens(), memoryTokens() or an object { transport: "header", load, save }',
    );
  }
  return store;
}
