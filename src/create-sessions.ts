import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { type Clock, systemClock } from "./clock.ts";
import { type Duration, durationMs } from "./duration.ts";
import { SessionError, unavailable } from "./errors.ts";
import { type SessionEventListener, safeListener } from "./events.ts";
import type { SigningAlgorithm } from "./jwt/algorithms.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { readAudience, readChoice, readIssuer, readOrigins } from "./options.ts";
import { readSecretOption, type SecretOption } from "./secrets.ts";
import type { Core } from "./server/core.ts";
import { createPolicies, type MethodPolicyOptions } from "./server/policy.ts";
import { createServerSessions, type ServerSessions } from "./server/sessions.ts";
import { type Engine, type EngineOptions, openEngine } from "./session/engine.ts";
import { type KeysOptions, readKeyPlan } from "./session/key-plan.ts";
import { type LifetimeOptions, type RefreshOptions, readLifetimes } from "./session/lifetimes.ts";
import { createOpener, type Opener } from "./session/opener.ts";
import type { SessionStore } from "./session/store.ts";
import { type CookieOptions, createSessionCookies } from "./tokens/cookie.ts";

/** The options of {@link createSessions}. */
export interface SessionsOptions {
  /**
   * The URL of this service as its clients see it, such as "https://api.example.com": `iss` and,
   * unless `audience` says otherwise, `aud` of the access tokens.
   */
  readonly issuer: string;
  /** `aud` of the access tokens. Default: the issuer. */
  readonly audience?: string;
  /** Where sessions live: `sqliteStore("sessions.db")`, or `memoryStore()` for tests. */
  readonly store: SessionStore;
  /**
   * At least 32 random bytes, or several such secrets: the first makes new tokens, all check
   * tokens. Default: the one that an embedded store keeps beside its sessions.
   */
  readonly secret?: SecretOption;
  /**
   * What generated keys sign with, or what `keys.signing` must be; the same on every server.
   * Default "ES256". "RS256" and "EdDSA" are for verifiers that ask for them.
   */
  readonly algorithm?: SigningAlgorithm;
  /** The keys that sign access tokens. Default: generated, kept in the store, and rotated. */
  readonly keys?: KeysOptions;
  /** Methods and services that need no session. Default none: everything needs one. */
  readonly public?: readonly (DescMethod | DescService)[];
  /** Policies by procedure, such as `"notes.v1.NotesService/ListNotes": { auth: "optional" }`. */
  readonly methods?: Readonly<Record<string, MethodPolicyOptions>>;
  readonly lifetimes?: LifetimeOptions;
  readonly refresh?: RefreshOptions;
  /** How far `iat` and `nbf` may lie in the future; `exp` has no such grace. Default "60s"; at most "60s". */
  readonly clockSkew?: Duration;
  readonly cookies?: CookieOptions;
  /**
   * The origins of the pages that may use cookies, exactly as browsers send them, such as
   * "https://app.example.com". Default: the issuer's.
   */
  readonly origins?: readonly string[];
  /** Whether requests with cookies are checked for coming from `origins`. Default "checked". */
  readonly crossSite?: "checked" | "unchecked";
  /**
   * "token": cookie sessions must also send the anti-CSRF token that came with them. Default "off",
   * where `doAntiCsrfCheck: true` counts as false.
   */
  readonly antiCsrf?: "off" | "token";
  /** Whether browsers may have their tokens in headers, where scripts can read them. Default false. */
  readonly browserHeaderTransport?: boolean;
  /** Told of everything that happens to a session. */
  readonly onEvent?: SessionEventListener;
  /** Where time comes from. Default: the machine. */
  readonly clock?: Clock;
}

/** Verified sessions for Connect services. */
export interface Sessions extends ServerSessions {
  /**
   * Opens the store, the secrets and the keys now instead of on first use.
   * @throws SessionError `unavailable`, with what stood in the way as its cause
   */
  ready(): Promise<void>;
  /**
   * The public keys of all access tokens that may be alive, and of those to come: what
   * `jwksHandler` of `rpc-session/http` publishes.
   * @throws SessionError `unavailable`
   */
  jwks(): Promise<JsonWebKeySet>;
  /** Ends timers and the feed, and closes the store. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Makes verified sessions for Connect services. Opens nothing yet.
 * @throws TypeError with what to change, when an option is wrong
 */
export function createSessions(options: SessionsOptions): Sessions {
  const engineOptions = readEngineOptions(options);
  const policies = createPolicies({
    public: options.public ?? [],
    methods: options.methods ?? {},
  });
  const opener = createOpener(() => openEngine(engineOptions));
  const core = createCore(options, opener);
  const close = async (): Promise<void> => {
    const engine = await opener.end();
    await engine?.settled();
    engine?.close();
    await options.store.close();
  };
  return {
    ...createServerSessions(core, policies),
    async jwks() {
      return { keys: [...(await (await core.engine()).publicKeys())] };
    },
    async ready() {
      await core.engine();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

function createCore(options: SessionsOptions, opener: Opener<Engine>): Core {
  const issuer = readIssuer(options.issuer);
  return {
    issuer: options.issuer,
    cookies: createSessionCookies(issuer, options.cookies),
    origins: readOrigins(options.origins ?? [issuer.origin]),
    crossSite: readChoice("crossSite", options.crossSite, ["checked", "unchecked"]),
    antiCsrf: readChoice("antiCsrf", options.antiCsrf, ["off", "token"]),
    browserHeaderTransport: options.browserHeaderTransport ?? false,
    clock: options.clock ?? systemClock,
    async engine() {
      try {
        return await opener.get();
      } catch (cause) {
        throw cause instanceof SessionError ? cause : unavailable("the session store", cause);
      }
    },
  };
}

function readEngineOptions(options: SessionsOptions): EngineOptions {
  readIssuer(options.issuer);
  const { store, secret } = options;
  if (typeof store?.load !== "function") {
    throw new TypeError(
      'store: give a session store, such as sqliteStore("sessions.db") of rpc-session/stores/sqlite',
    );
  }
  if (secret === undefined && store.secret === undefined) {
    throw new TypeError(
      `secret: ${store.name} keeps none of its own; give at least 32 random bytes, the same on every server`,
    );
  }
  if (secret !== undefined) {
    readSecretOption(secret);
  }
  return {
    issuer: options.issuer,
    audience: readAudience(options.audience ?? options.issuer),
    store,
    secret,
    lifetimes: readLifetimes(options.lifetimes ?? {}, options.refresh ?? {}),
    keys: readKeyPlan(options.keys, options.algorithm),
    clockSkew: durationMs("clockSkew", options.clockSkew ?? "60s", { max: 60_000 }),
    clock: options.clock ?? systemClock,
    emit: safeListener(options.onEvent),
  };
}
