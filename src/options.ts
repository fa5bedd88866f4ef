import type { DescMethod, DescService } from "@bufbuild/protobuf";
import {
  assertMembers,
  type Duration,
  readAudience,
  readChoice,
  readClockSkew,
  readIssuer,
} from "./base/checks.ts";
import { type Clock, systemClock } from "./base/clock.ts";
import { readSecretOption, type SecretOption } from "./base/crypto.ts";
import {
  logEvents,
  type SessionEventListener,
  type SessionLogger,
  safeListener,
} from "./base/events.ts";
import type { AnyClaims, ClaimsOf, ClaimsSchema } from "./base/json.ts";
import { type ClientClaims, createClaimsRule } from "./engine/claims.ts";
import type { EngineOptions } from "./engine/engine.ts";
import { type KeysOptions, readKeyPlan } from "./engine/keys/plan.ts";
import { type LifetimeOptions, type RefreshOptions, readLifetimes } from "./engine/lifetimes.ts";
import {
  type RevocationCheck,
  readMaxStaleness,
  readMaxStreamStaleness,
  revocationChecks,
} from "./engine/revocation/check.ts";
import type { SessionLimit, SessionStore } from "./engine/store.ts";
import type { SigningAlgorithm } from "./jwt/jwk.ts";
import { readCacheLimits, type VerifiedCacheOptions } from "./jwt/verified-cache.ts";
import type { CookieOptions } from "./request/cookie-options.ts";
import { SessionCookies } from "./request/cookies.ts";
import { readPageOrigins } from "./request/origins.ts";
import type { ClientIp, Core } from "./server/core.ts";
import { type MethodPolicyOptions, Policies } from "./server/policy/policy.ts";

/** The options of {@link createSessions}. */
export interface SessionsOptions<Schema extends ClaimsSchema = AnyClaims> {
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
  /**
   * What the claims of a session look like, by a schema of zod, valibot, arktype or another library
   * of the Standard Schema: it types `session.claims`, and refuses claims that do not fit when they
   * are issued and when a token is read. Default: any JSON object.
   */
  readonly claims?: Schema;
  /**
   * What of the claims the client may read, as `session.claims` of its session: at most 3 KB of
   * JSON, in a header that any script of the page can read. Default: nothing.
   */
  readonly clientClaims?: ClientClaims<ClaimsOf<Schema>>;
  /** How many sessions a user may have, in all tenants together. Default: any number. */
  readonly sessionsPerUser?: SessionsPerUserOptions;
  /**
   * Tells the IP address of a client, for `info().device.ip`: from a header that only your proxy can
   * write, `(ctx) => ctx.requestHeader.get("x-real-ip") ?? undefined`, or from the socket, which the
   * adapter's option `contextValues` can hand over. Default: none is kept.
   */
  readonly clientIp?: ClientIp;
  /** How long access tokens and sessions live. */
  readonly lifetimes?: LifetimeOptions;
  /** How refresh tokens rotate. */
  readonly refresh?: RefreshOptions;
  /**
   * How calls find out that their session was ended; by method in `methods` or the schema. Default
   * "feed": in memory.
   */
  readonly revocation?: RevocationCheck;
  /**
   * How old what a process knows of revocations may be. Usually it is milliseconds old. When the
   * change log of the store cannot be read for this long, calls wait for it and are refused with
   * `Unavailable`. Default "5s"; "200ms" to "60s". The log is read every half of it.
   */
  readonly maxStaleness?: Duration;
  /** How far `iat` and `nbf` may lie in the future; `exp` has no such grace. Default "60s"; at most "60s". */
  readonly clockSkew?: Duration;
  /** How many verified access tokens are remembered, so that their signatures are computed once. */
  readonly verifiedCache?: VerifiedCacheOptions;
  /**
   * How long open streams go on while the change log of the store cannot be read, so that nothing
   * is known of revocations; then they end with `Unavailable`. Default "60s"; "5s" to "10m", and
   * not less than `maxStaleness`.
   */
  readonly maxStreamStaleness?: Duration;
  /** How session cookies are written. */
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
  /** Told of everything that happens to a session, and of every outage: send it to your logs. */
  readonly onEvent?: SessionEventListener;
  /** Gets a line for every event: pino, `console`, or what has their `info`, `warn` and `error`. */
  readonly logger?: SessionLogger;
  /** Where time comes from. Default: the machine. */
  readonly clock?: Clock;
}

/** A limit of sessions per user. */
export interface SessionsPerUserOptions {
  /** At least 1. A session that the new one replaces does not count. */
  readonly max: number;
  /**
   * What happens to the one too many: "evictOldest" ends the oldest, "reject" refuses the new one
   * with `PermissionDenied`. Default "evictOldest".
   */
  readonly overflow?: "evictOldest" | "reject";
}

/** The options, checked and resolved. */
export interface ResolvedOptions {
  readonly engine: EngineOptions;
  readonly policies: Policies;
  readonly core: Omit<Core, "engine" | "storeNow" | "sessionOn">;
}

/** @throws TypeError with what to change, when an option is wrong */
export function readOptions(options: SessionsOptions): ResolvedOptions {
  checkShape(options);
  const issuer = readIssuer(options.issuer);
  const engine = readEngineOptions(options);
  return {
    engine,
    policies: new Policies({
      public: options.public ?? [],
      methods: options.methods ?? {},
      check: readChoice("revocation", options.revocation, revocationChecks),
    }),
    core: {
      issuer: options.issuer,
      cookies: new SessionCookies(issuer, options.cookies),
      origins: readPageOrigins(options.origins, { issuer, sameSite: options.cookies?.sameSite }),
      crossSite: readChoice("crossSite", options.crossSite, ["checked", "unchecked"]),
      antiCsrf: readChoice("antiCsrf", options.antiCsrf, ["off", "token"]),
      browserHeaderTransport: options.browserHeaderTransport ?? false,
      claims: createClaimsRule(options.claims, options.clientClaims),
      clientIp: options.clientIp,
      lifetimes: engine.lifetimes,
      emit: engine.emit,
      clock: engine.clock,
      maxStreamStaleness: readMaxStreamStaleness(
        options.maxStreamStaleness,
        readMaxStaleness(options.maxStaleness),
      ),
    },
  };
}

type Shape = "string" | "object" | "array" | "boolean" | "function" | "any";

/** What each option must be, for those who write without types: a slip must not pass unseen. */
const shapes: Readonly<Record<keyof SessionsOptions, Shape>> = {
  issuer: "string",
  audience: "string",
  store: "any",
  secret: "any",
  algorithm: "string",
  keys: "object",
  public: "array",
  methods: "object",
  claims: "any",
  clientClaims: "function",
  sessionsPerUser: "object",
  clientIp: "function",
  lifetimes: "object",
  refresh: "object",
  revocation: "string",
  maxStaleness: "string",
  clockSkew: "string",
  verifiedCache: "object",
  maxStreamStaleness: "string",
  cookies: "object",
  origins: "array",
  crossSite: "string",
  antiCsrf: "string",
  browserHeaderTransport: "boolean",
  onEvent: "function",
  logger: "any",
  clock: "object",
};

function checkShape(options: SessionsOptions): void {
  if (typeof options !== "object" || options === null) {
    throw new TypeError("createSessions: give it options, at least { issuer, store }");
  }
  for (const [name, value] of Object.entries(options)) {
    const shape = Object.hasOwn(shapes, name) ? shapes[name as keyof SessionsOptions] : undefined;
    if (shape === undefined) {
      throw new TypeError(`createSessions: there is no option "${name}"`);
    }
    const is = Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
    if (value !== undefined && shape !== "any" && is !== shape) {
      throw new TypeError(`${name}: must be of type ${shape}, not ${is}`);
    }
  }
}

function readEngineOptions(options: SessionsOptions): EngineOptions {
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
    keys: readKeyPlan(options.keys, options.algorithm),
    lifetimes: readLifetimes(options.lifetimes ?? {}, options.refresh ?? {}),
    clockSkew: readClockSkew(options.clockSkew ?? "60s"),
    maxStaleness: readMaxStaleness(options.maxStaleness),
    verifiedCache: readCacheLimits(options.verifiedCache),
    clock: options.clock ?? systemClock,
    limit: readLimit(options.sessionsPerUser),
    emit: safeListener(options.onEvent, readLogger(options.logger)),
  };
}

function readLimit(option: SessionsPerUserOptions | undefined): SessionLimit | null {
  if (option === undefined) {
    return null;
  }
  assertMembers("sessionsPerUser", option, { max: 0, overflow: 0 });
  const { max } = option;
  if (!Number.isSafeInteger(max) || max < 1) {
    throw new TypeError("sessionsPerUser.max: must be a whole number, at least 1");
  }
  const choices = ["evictOldest", "reject"] as const;
  const overflow = readChoice("sessionsPerUser.overflow", option.overflow, choices);
  return { max, overflow: overflow === "reject" ? "reject" : "evict" };
}

function readLogger(logger: SessionLogger | undefined): SessionEventListener | undefined {
  if (logger === undefined) {
    return undefined;
  }
  const methods = ["info", "warn", "error"] as const;
  const lacks = methods.find((name) => typeof logger?.[name] !== "function");
  if (lacks !== undefined) {
    throw new TypeError(`logger: has no method "${lacks}"; give pino, console or the like`);
  }
  return logEvents(logger);
}
