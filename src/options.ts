import type { DescMethod, DescService } from "@bufbuild/protobuf";
import {
  assertMembers,
  type Duration,
  isAnyOf,
  readAudience,
  readChoice,
  readClockSkew,
  readIssuer,
  readOlderIssuers,
} from "./base/checks.ts";
import { type Clock, systemClock } from "./base/clock.ts";
import {
  assertWebCrypto,
  equalBytes,
  readDeadSecrets,
  readSecretOption,
  type SecretOption,
} from "./base/crypto.ts";
import { EventLimit } from "./base/event-limit.ts";
import {
  logEvents,
  type SessionEventListener,
  type SessionLogger,
  safeListener,
} from "./base/events.ts";
import type { AnyClaims, ClaimsOf, ClaimsSchema } from "./base/json.ts";
import { readTelemetry, type SessionTelemetry } from "./base/telemetry.ts";
import type { AuditLogOptions } from "./engine/audit/log.ts";
import { ClaimsRule, type ClientClaims } from "./engine/claims.ts";
import type { EngineOptions } from "./engine/engine.ts";
import { type KeysOptions, readKeyPlan } from "./engine/keys/plan.ts";
import { type LifetimeOptions, type RefreshOptions, readLifetimes } from "./engine/lifetimes.ts";
import { observedStore } from "./engine/reach.ts";
import type { OnMismatch } from "./engine/refresh/refresh.ts";
import {
  type RevocationCheck,
  readMaxStaleness,
  readMaxStreamStaleness,
  revocationChecks,
} from "./engine/revocation/check.ts";
import type { SessionLimit, SessionStore } from "./engine/store.ts";
import { type HostOptions, type ReadHost, readHosts } from "./host-options.ts";
import type { SigningAlgorithm } from "./jwt/jwk.ts";
import { readCacheLimits, type VerifiedCacheOptions } from "./jwt/verified-cache.ts";
import type { CookieOptions } from "./request/cookie-options.ts";
import { SessionCookies } from "./request/cookies.ts";
import { readPageOrigins } from "./request/origins.ts";
import { DbscBinding } from "./server/authenticate/dbsc.ts";
import { type BindMode, Proofs, readBindMode } from "./server/authenticate/proofs.ts";
import { Operations } from "./server/call/operations.ts";
import type { ClientIp, Core, RefusalMessage } from "./server/core.ts";
import type { HostOf } from "./server/hosts.ts";
import { compilerOf } from "./server/policy/conditions.ts";
import { type AuthorizeOptions, Decisions } from "./server/policy/decisions.ts";
import {
  type ConditionLanguage,
  type MethodPolicyOptions,
  Policies,
} from "./server/policy/policy.ts";
import { type ClaimSource, readClaimSources } from "./server/policy/source-options.ts";

/** The options of {@link createSessions}. Only `issuer` and `store` are required. */
export interface SessionsOptions<Schema extends ClaimsSchema = AnyClaims> {
  /**
   * The URL of this service as its clients see it, such as "https://api.example.com": http or https,
   * without a query, fragment or user name. It becomes the `iss` claim of access tokens (RFC 7519)
   * and, by default, their `aud`.
   */
  readonly issuer: string;
  /**
   * Other issuers whose tokens are accepted as if they were this service's, so that sessions survive a
   * change of `issuer`: access tokens, refresh tokens, anti-CSRF tokens and stored signing keys. New
   * tokens name `issuer`. At most 8. Default: none.
   *
   * To change the issuer: 1. list the new one here on every server; 2. make it `issuer` on every
   * server, and list the former one here; 3. remove that after `lifetimes.absolute`.
   */
  readonly olderIssuers?: readonly string[];
  /**
   * The `aud` claim of access tokens (RFC 7519). Default: the issuer; a token of an older issuer then
   * names that one.
   */
  readonly audience?: string;
  /**
   * The hosts under which this service answers, each with an issuer, cookies and origins of its own, for
   * example shops under names of their own. At most 1000. A request for any other host is refused, and
   * tokens of one host are not accepted at another. All hosts share the store, the signing keys and the
   * policies. The option `issuer` stays the name of the service: its keys are stored under it. Default:
   * one host, whatever requests call it.
   *
   * @example
   * hosts: [
   *   { issuer: "https://shop-a.example", cookies: { domain: "shop-a.example" } },
   *   { issuer: "https://shop-b.example", origins: ["https://www.shop-b.example"] },
   * ]
   */
  readonly hosts?: readonly HostOptions[];
  /**
   * Returns the host that a request is for, such as "shop-a.example"; undefined refuses the request. It
   * only selects one of `hosts`. Clients choose what `Host` and `X-Forwarded-Host` say, so read the host
   * from where only your proxy can write. Default: `Host` or `:authority`; forwarded headers do not count.
   *
   * @example `hostOf: ({ requestHeader }) => requestHeader.get("x-shop-host") ?? undefined`
   */
  readonly hostOf?: HostOf;
  /** Where sessions are stored: for example `sqliteStore("sessions.db")`, or `memoryStore()` in tests. */
  readonly store: SessionStore;
  /**
   * A secret of at least 32 random bytes, or a list of secrets. The first one creates new tokens;
   * all of them are accepted. Must be the same on every server. Default: the secret that an embedded
   * store (SQLite, memory) keeps next to its sessions. Other stores require this option.
   *
   * To rotate it: append the new secret on every server, then move it to the front on every server,
   * and remove the old one once no session uses it.
   */
  readonly secret?: SecretOption;
  /**
   * Secrets that have leaked: their ids, as `rpc-session secrets list` shows them, or the secrets. No
   * server accepts what was made under them: refresh tokens are refused, with the hint to sign in, and
   * stored signing keys that they encrypt are retired. The store remembers it as well; this option
   * holds also if an older state of the store is restored. At most 64. Default: none.
   */
  readonly deadSecrets?: readonly (string | Uint8Array)[];
  /**
   * The signature algorithm of access tokens, the same on every server. If you provide your own
   * signing key, it must have this algorithm. Default "ES256". Choose "RS256" or "EdDSA" only if
   * another verifier requires it.
   */
  readonly algorithm?: SigningAlgorithm;
  /** The keys that sign access tokens. Default: generated, kept in the store, and rotated. */
  readonly keys?: KeysOptions;
  /** Methods and services that do not need a session. Default: none, so every method needs one. */
  readonly public?: readonly (DescMethod | DescService)[];
  /**
   * Policies by procedure, such as `{ "notes.v1.NotesService/ListNotes": { auth: "optional" } }`, by
   * service ("notes.v1.NotesService/*"), by package ("notes.v1.*") or for everything but
   * SessionService ("*"). The narrower name counts. Of the same width, code counts before the options in
   * the schema.
   */
  readonly methods?: Readonly<Record<string, MethodPolicyOptions<ClaimsOf<Schema>>>>;
  /**
   * Reads the conditions `allow` of policies: `cel()` of `rpc-session/cel`. Default: none, and a policy with
   * a condition is refused at the start.
   */
  readonly conditions?: ConditionLanguage;
  /**
   * A decision point elsewhere, asked about every call that has a session, but those of SessionService. See
   * {@link AuthorizeOptions}. Default: none; policies decide alone.
   */
  readonly authorize?: AuthorizeOptions<ClaimsOf<Schema>>;
  /**
   * A schema for the claims of a session, from zod, valibot, arktype or any other Standard Schema
   * library. It types `session.claims`. Claims that do not match are refused when a session is
   * created and when a token is read. Default: any JSON object.
   */
  readonly claims?: Schema;
  /**
   * Selects the claims that the client may read as `session.claims`. They travel in a response header
   * that every script of the page can read. They may take 3,072 bytes of that header, after form
   * encoding: a quote takes three bytes, and a letter such as "ä" six. A sign-in with larger claims
   * fails.
   * Default: none.
   *
   * @example `clientClaims: ({ role }) => ({ role })`
   */
  readonly clientClaims?: ClientClaims<ClaimsOf<Schema>>;
  /**
   * Sources of claims, by claim: where a policy demands one that is older than its `maxAge`, the source
   * fetches it first. See {@link ClaimSource}. Default: none; claims change by `updateClaims` alone.
   *
   * @example
   * `claimSources: { role: { maxAge: "5m", fetch: ({ userId }, { signal }) => roleOf(userId, signal) } }`
   */
  readonly claimSources?: Readonly<Record<string, ClaimSource<ClaimsOf<Schema>>>>;
  /** How many sessions a user may have within a tenant. Default: unlimited. */
  readonly sessionsPerUser?: SessionsPerUserOptions;
  /**
   * Returns the IP address of a client, for `info().device.ip`. Read it from a header that only your
   * proxy can set, or from the socket, which you can pass in through the adapter's `contextValues`.
   * Default: no address is stored.
   *
   * @example `clientIp: (ctx) => ctx.requestHeader.get("x-real-ip") ?? undefined`
   */
  readonly clientIp?: ClientIp;
  /**
   * Replaces the message of a refused call, for example in the language of the user. The code, the hint,
   * all other details and the headers stay as they are, because clients act on them. It is called once for
   * each refusal, and must answer at once. If it fails, the message in English is sent and the event
   * `failed` says so. Internal errors are not refusals. Default: the message in English.
   *
   * @example
   * refusalMessage: ({ reason, requestHeader }) =>
   *   requestHeader.get("accept-language")?.startsWith("de") ? german[reason] : undefined
   */
  readonly refusalMessage?: RefusalMessage;
  /** How long access tokens and sessions live. */
  readonly lifetimes?: LifetimeOptions;
  /** How refresh tokens rotate. */
  readonly refresh?: RefreshOptions;
  /**
   * How a call finds out that its session was revoked; see {@link RevocationCheck}. Can be set for
   * single methods in `methods` or in the schema. Default "feed": in memory.
   */
  readonly revocation?: RevocationCheck;
  /**
   * How old this process's knowledge of revocations may be; normally it is milliseconds old. If the
   * store's change log cannot be read for this long, calls wait for it and are then refused with
   * `Unavailable`. The log is read every half of this time. Default "5s"; from "200ms" to "60s".
   */
  readonly maxStaleness?: Duration;
  /**
   * How far `iat` and `nbf` of an access token may lie in the future, in whole seconds. Does not
   * extend `exp`. Default "60s", which is also the maximum.
   */
  readonly clockSkew?: Duration;
  /** How many verified access tokens are cached, so that each signature is verified once. */
  readonly verifiedCache?: VerifiedCacheOptions;
  /**
   * How long open streams continue while the store's change log cannot be read. After that they end
   * with `Unavailable`, because a revocation could go unnoticed. Default "60s"; from "5s" to "10m",
   * and at least `maxStaleness`.
   */
  readonly maxStreamStaleness?: Duration;
  /**
   * Whether sessions are bound to a key of the client, so that a copied refresh token is useless. Default:
   * those of clients that sign in with a proof (DPoP, RFC 9449).
   */
  readonly bind?: BindOptions;
  /** The names and attributes of the session cookies. */
  readonly cookies?: CookieOptions;
  /**
   * The origins of the pages that may use cookies, exactly as browsers send them, such as
   * "https://app.example.com", "capacitor://localhost" or "chrome-extension://<id>". Default: the
   * issuer's origin.
   */
  readonly origins?: readonly string[];
  /** Whether requests with cookies must come from `origins`. Default "checked". */
  readonly crossSite?: "checked" | "unchecked";
  /**
   * With "token", cookie sessions must also send the anti-CSRF token that was issued with the cookies.
   * `Refresh`, which returns the token, and `SignOut` do not require it: `crossSite` protects them.
   * With "off", the method policy `doAntiCsrfCheck: true` has no effect. Default "off".
   */
  readonly antiCsrf?: "off" | "token";
  /**
   * Whether browsers may receive their tokens in headers, where scripts can read them. Default false.
   */
  readonly browserHeaderTransport?: boolean;
  /**
   * Receives an event for every change of a session, for every refused call and for every outage. Of
   * those that requests can cause, at most 10 of one cause in a second. Its errors are ignored.
   */
  readonly onEvent?: SessionEventListener;
  /** Writes a line for every event: pino, `console`, or any object with `info`, `warn` and `error`. */
  readonly logger?: SessionLogger;
  /**
   * Receives spans and metrics: `openTelemetry()` of `rpc-session/otel`, or an object of your own.
   * Default: nothing is observed, at no cost.
   */
  readonly telemetry?: SessionTelemetry;
  /**
   * Keeps an audit log in the store: who signed in and from what, which sessions were refreshed, which claims
   * were changed, who ended a session and why. It has no secrets and no values of claims. Read it with
   * `sessions.auditLog.list`. `{}` keeps entries for 90 days. Default: none.
   */
  readonly auditLog?: AuditLogOptions;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
}

/** How sessions are bound to a key; see {@link SessionsOptions.bind}. */
export interface BindOptions {
  /**
   * Which sign-ins bind their session to a key; each can decide for itself. Default "preferred".
   *
   * - `preferred`: those whose request has a proof, with tokens in headers; and those of browsers that
   *   register a key, with tokens in cookies, if you serve `dbscHandler` of `rpc-session/http`.
   * - `required`: all of them. A sign-in without a proof is refused. With tokens in cookies, the browser
   *   must prove its key within 5 minutes, or its session is not refreshed; without `dbscHandler` such
   *   sign-ins are refused.
   * - `off`: none.
   */
  readonly mode?: BindMode;
  /**
   * What a refresh without a proof by the key of its session causes. It is always refused, and the event
   * `proofRefused` is emitted. Default "refuse".
   *
   * - `refuse`: nothing else. The session goes on for the client that has the key.
   * - `revoke`: the session ends, with those that were forked from it.
   */
  readonly onMismatch?: OnMismatch;
  /**
   * The URL of this service as its clients see it: proofs must name the procedure under it. Set it if that
   * is not the issuer. Default: the issuer.
   */
  readonly url?: string;
}

/**
 * A limit on the sessions of one user within one tenant. The same user id in another tenant is another
 * user. Sessions without a tenant count by themselves.
 */
export interface SessionsPerUserOptions {
  /** An integer, at least 1. A session that the new one replaces does not count. */
  readonly max: number;
  /**
   * What happens at the limit: "evictOldest" ends the oldest session that counts, "reject" refuses the new
   * one with `PermissionDenied`. Default "evictOldest".
   */
  readonly overflow?: "evictOldest" | "reject";
}

/** The checked options, with every default applied. */
export interface ResolvedOptions {
  readonly engine: EngineOptions;
  readonly events: EventLimit;
  readonly policies: Policies;
  readonly core: Omit<Core, "engine" | "revocations" | "sessionOn">;
  /** Undefined if the service has one host, whatever requests call it. */
  readonly hosts: readonly ReadHost[] | undefined;
  readonly hostOf: HostOf | undefined;
}

/** @throws TypeError that names the wrong option and how to correct it */
export function readOptions(options: SessionsOptions): ResolvedOptions {
  assertWebCrypto();
  checkShape(options);
  const issuer = readIssuer(options.issuer);
  const { clock = systemClock } = options;
  const events = new EventLimit(safeListener(options.onEvent, readLogger(options.logger)), clock);
  const telemetry = readTelemetry(options.telemetry);
  const claimSources = readClaimSources(options.claimSources);
  const sourced = [...claimSources.keys()];
  const claims = new ClaimsRule(options.claims, options.clientClaims, sourced);
  const hosts = readHostOptions(options);
  const engine = readEngineOptions(options, {
    hosts: hosts?.map(({ accepted }) => accepted) ?? [],
    clock,
    emit: emitting(telemetry, events),
    telemetry,
    shownLength: claims.shownLength,
  });
  const cookies = new SessionCookies(issuer, options.cookies);
  const site = { issuer, sameSite: options.cookies?.sameSite };
  const origins = readPageOrigins(options.origins, site);
  const url = options.bind?.url ?? options.issuer;
  return {
    ...{ engine, events, hosts, hostOf: options.hostOf },
    policies: new Policies({
      public: options.public ?? [],
      methods: options.methods ?? {},
      check: readChoice("revocation", options.revocation, revocationChecks),
      sourced: new Set(sourced),
      compile: compilerOf(options.conditions, options.claims),
    }),
    core: {
      issuer: options.issuer,
      olderIssuers: options.olderIssuers ?? [],
      isOwnIssuer: isAnyOf([options.issuer, ...(options.olderIssuers ?? [])]),
      cookies,
      origins,
      crossSite: readChoice("crossSite", options.crossSite, ["checked", "unchecked"]),
      proofs: new Proofs({ mode: readBindMode("bind.mode", options.bind?.mode), url }),
      dbsc: new DbscBinding({
        base: readIssuer(url, "bind.url"),
        cookies: cookies.plan,
        origins,
      }),
      antiCsrf: readChoice("antiCsrf", options.antiCsrf, ["off", "token"]),
      browserHeaderTransport: options.browserHeaderTransport ?? false,
      ...{ claims, claimSources, sources: undefined },
      decisions: options.authorize && new Decisions(options.authorize, clock),
      clientIp: options.clientIp,
      refusalMessage: options.refusalMessage,
      lifetimes: engine.lifetimes,
      emit: engine.emit,
      clock: engine.clock,
      telemetry,
      operations: new Operations(),
      tellsClients: true,
      maxStreamStaleness: readMaxStreamStaleness(
        options.maxStreamStaleness,
        readMaxStaleness(options.maxStaleness),
      ),
    },
  };
}

type Shape = "string" | "object" | "array" | "boolean" | "function" | "any";

/** The type of each option, so that mistakes in plain JavaScript are reported. */
const shapes: Readonly<Record<keyof SessionsOptions, Shape>> = {
  issuer: "string",
  olderIssuers: "array",
  audience: "string",
  hosts: "array",
  hostOf: "function",
  store: "any",
  secret: "any",
  deadSecrets: "array",
  algorithm: "string",
  keys: "object",
  public: "array",
  methods: "object",
  conditions: "object",
  authorize: "object",
  claims: "any",
  clientClaims: "function",
  claimSources: "object",
  sessionsPerUser: "object",
  clientIp: "function",
  refusalMessage: "function",
  lifetimes: "object",
  refresh: "object",
  revocation: "string",
  maxStaleness: "string",
  clockSkew: "string",
  verifiedCache: "object",
  maxStreamStaleness: "string",
  bind: "object",
  cookies: "object",
  origins: "array",
  crossSite: "string",
  antiCsrf: "string",
  browserHeaderTransport: "boolean",
  onEvent: "function",
  logger: "any",
  telemetry: "any",
  auditLog: "object",
  clock: "object",
};

function checkShape(options: SessionsOptions): void {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      "createSessions requires an options object with at least { issuer, store }",
    );
  }
  for (const [name, value] of Object.entries(options)) {
    const shape = Object.hasOwn(shapes, name) ? shapes[name as keyof SessionsOptions] : undefined;
    if (shape === undefined) {
      const names = Object.keys(shapes).join(", ");
      throw new TypeError(`unknown option "${name}" for createSessions; the options are ${names}`);
    }
    const is = Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
    if (value !== undefined && shape !== "any" && is !== shape) {
      throw new TypeError(
        `${name} must be ${article(shape)}, got ${is === "null" ? "null" : article(is)}`,
      );
    }
  }
}

/** "array" becomes "an array". */
function article(type: string): string {
  return /^[aeiou]/.test(type) ? `an ${type}` : `a ${type}`;
}

function readEngineOptions(
  options: SessionsOptions,
  {
    telemetry,
    ...shared
  }: Pick<EngineOptions, "hosts" | "clock" | "emit" | "shownLength"> & {
    readonly telemetry: SessionTelemetry | undefined;
  },
): EngineOptions {
  const { store, secret } = options;
  if (typeof store?.load !== "function") {
    throw new TypeError(
      'store must be a session store, such as sqliteStore("sessions.db") from rpc-session/stores/sqlite',
    );
  }
  if (secret === undefined && store.secret === undefined) {
    throw new TypeError(
      `secret is missing and ${store.name} does not keep one; pass at least 32 random bytes, the same on every server`,
    );
  }
  const dead = readDeadSecrets(options.deadSecrets);
  if (secret !== undefined && readSecretOption(secret).some((one) => isAmong(dead.secrets, one))) {
    throw new TypeError(
      "a secret is listed in both secret and deadSecrets; remove it from one of them",
    );
  }
  const { issuer, audience, bind = {} } = options;
  assertMembers("bind", bind, { mode: 0, onMismatch: 0, url: 0 });
  return {
    onMismatch: readChoice("bind.onMismatch", bind.onMismatch, ["refuse", "revoke"]),
    issuer,
    older: readOlderIssuers(options.olderIssuers, { issuer, audience }),
    dead,
    audience: readAudience(options.audience ?? options.issuer),
    store: telemetry === undefined ? store : observedStore(store, telemetry),
    secret,
    ...(telemetry && { telemetry }),
    keys: readKeyPlan(options.keys, options.algorithm),
    lifetimes: readLifetimes(options.lifetimes ?? {}, options.refresh ?? {}),
    clockSkew: readClockSkew(options.clockSkew ?? "60s"),
    maxStaleness: readMaxStaleness(options.maxStaleness),
    verifiedCache: readCacheLimits(options.verifiedCache),
    limit: readLimit(options.sessionsPerUser),
    auditLog: options.auditLog,
    ...shared,
  };
}

/** Options of a service with one host, which each host has for itself. */
const ofOneHost = ["origins", "audience"] as const;

function readHostOptions(options: SessionsOptions): readonly ReadHost[] | undefined {
  const { issuer, olderIssuers, hosts, cookies, bind } = options;
  if (hosts === undefined) {
    if (options.hostOf !== undefined) {
      throw new TypeError(
        "hostOf selects one of the hosts, but the option hosts is missing; list them there, or leave out hostOf",
      );
    }
    return undefined;
  }
  const given = ofOneHost.find((name) => options[name] !== undefined);
  if (given !== undefined || bind?.url !== undefined) {
    throw new TypeError(
      given === undefined
        ? "bind.url is one URL, but with the option hosts proofs name the issuer of their host; leave it out"
        : `${given} is for a service with one host; with the option hosts, set ${given} of each host instead`,
    );
  }
  const bindMode = readBindMode("bind.mode", bind?.mode);
  return readHosts(hosts, { issuer, olderIssuers, cookies, bindMode });
}

/** Telemetry receives every event; listeners and loggers are spared a flood. */
function emitting(
  telemetry: SessionTelemetry | undefined,
  events: EventLimit,
): SessionEventListener {
  return (event) => {
    telemetry?.event(event);
    events.emit(event);
  };
}

function isAmong(secrets: readonly Uint8Array[], secret: Uint8Array): boolean {
  return secrets.some((one) => equalBytes(one, secret));
}

function readLimit(option: SessionsPerUserOptions | undefined): SessionLimit | null {
  if (option === undefined) {
    return null;
  }
  assertMembers("sessionsPerUser", option, { max: 0, overflow: 0 });
  const { max } = option;
  if (!Number.isSafeInteger(max) || max < 1) {
    throw new TypeError(`sessionsPerUser.max must be an integer of at least 1, got ${String(max)}`);
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
  const missing = methods.find((name) => typeof logger?.[name] !== "function");
  if (missing !== undefined) {
    throw new TypeError(
      `logger has no method "${missing}"; pass pino, console or an object with the same methods`,
    );
  }
  return logEvents(logger);
}
