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
import { assertWebCrypto } from "./base/crypto.ts";
import { EventLimit } from "./base/event-limit.ts";
import { type SessionEventListener, safeListener } from "./base/events.ts";
import type { AnyClaims, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import { readTelemetry, type SessionTelemetry, type TelemetryReadings } from "./base/telemetry.ts";
import { ClaimsRule } from "./engine/claims.ts";
import { maxAccessLife } from "./engine/lifetimes.ts";
import { NoRevocations } from "./engine/revocation/none.ts";
import { type VerifiedSession, verifiedSessionOf } from "./engine/session.ts";
import { type IssuerKeys, keysOfIssuer } from "./jwt/issuer-keys.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import type { Fetch } from "./jwt/remote-keys.ts";
import {
  createVerifiedCache,
  readCacheLimits,
  type VerifiedCache,
  type VerifiedCacheOptions,
} from "./jwt/verified-cache.ts";
import { createAccessTokenVerifier } from "./jwt/verifier.ts";
import type { CookieOptions } from "./request/cookie-options.ts";
import { SessionCookies } from "./request/cookies.ts";
import { readPageOrigins } from "./request/origins.ts";
import { Proofs } from "./server/authenticate/proofs.ts";
import { createCallKey } from "./server/call/call.ts";
import { Operations } from "./server/call/operations.ts";
import type { Authenticator, RefusalMessage, VerifyingCore } from "./server/core.ts";
import { compilerOf } from "./server/policy/conditions.ts";
import { type AuthorizeOptions, Decisions } from "./server/policy/decisions.ts";
import {
  type ConditionLanguage,
  type MethodPolicyOptions,
  Policies,
} from "./server/policy/policy.ts";
import { type VerifyingSessions, verifyingInstance } from "./server/reading.ts";

export type { Duration } from "./base/checks.ts";
export type { Clock } from "./base/clock.ts";
export type {
  PolicyViolation,
  SessionError,
  SessionErrorKind,
  SessionErrorOptions,
  SessionErrorReason,
  StepUp,
} from "./base/errors.ts";
export type { EndedBy, SessionEvent, SessionEventListener } from "./base/events.ts";
export type { AnyClaims, ClaimsOf, ClaimsSchema, JsonObject, JsonValue } from "./base/json.ts";
export type {
  FeedReadings,
  ObservedCall,
  ObservedOperation,
  Operation,
  OperationFacts,
  SessionTelemetry,
  TelemetryReadings,
} from "./base/telemetry.ts";
export type { TokenTransport } from "./base/wire.ts";
export type { RevocationCheck } from "./engine/revocation/check.ts";
export type { VerifiedSession } from "./engine/session.ts";
export type { JsonWebKey, JsonWebKeySet } from "./jwt/jwk.ts";
export type { Fetch } from "./jwt/remote-keys.ts";
export type { VerifiedCacheOptions } from "./jwt/verified-cache.ts";
export type { CookieNames, CookieOptions } from "./request/cookie-options.ts";
export { redactTokens } from "./request/tokens.ts";
export type {
  ClientContext,
  Exchange,
  InterceptedRequest,
  RpcContext,
} from "./server/call/exchange.ts";
export type { RequestGate } from "./server/call/gate.ts";
export type { Refusal, RefusalMessage } from "./server/core.ts";
export type { AuthorizeOptions, Decision } from "./server/policy/decisions.ts";
export type {
  ClaimDemand,
  ClaimReason,
  ClaimRule,
  ClaimRules,
  ClaimValue,
  Condition,
  ConditionFacts,
  ConditionLanguage,
  ForeignBearerPolicy,
  MethodDescription,
  MethodPolicy,
  MethodPolicyOptions,
  ProofPolicy,
  StreamPolicy,
  ValidateClaims,
} from "./server/policy/policy.ts";
export type { ProtectOptions } from "./server/protect.ts";
export type {
  DrainOptions,
  GetSessionOptions,
  RequestContext,
  StepUpDemand,
  VerifyingSessions,
} from "./server/reading.ts";

/** The options of {@link verifySessions}. */
export interface VerifySessionsOptions<Schema extends ClaimsSchema = AnyClaims> {
  /** The `issuer` of the service that creates the sessions, exactly as it is configured there. */
  readonly issuer: string;
  /**
   * Other issuers whose tokens are accepted, exactly as the `olderIssuers` of the service that creates
   * the sessions. Their keys come from the same `jwks`. At most 8. Default: none.
   */
  readonly olderIssuers?: readonly string[];
  /**
   * The `aud` of the access tokens, compared exactly. Default: the issuer; a token of an older issuer
   * must then name that one.
   */
  readonly audience?: string;
  /**
   * The URL where the issuer publishes its keys, such as
   * "https://api.example.com/.well-known/jwks.json". It must be https; http is allowed for localhost.
   * Alternatively the key set itself, which then never changes.
   */
  readonly jwks: string | URL | JsonWebKeySet;
  /** Methods and services that do not require a session. By default every method requires one. */
  readonly public?: readonly (DescMethod | DescService)[];
  /**
   * Policies by procedure, such as `"notes.v1.NotesService/ListNotes": { auth: "optional" }`, by service
   * ("notes.v1.NotesService/*"), by package ("notes.v1.*") or for everything ("*").
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
  /** Replaces the message of a refused call; see `SessionsOptions.refusalMessage`. Default: in English. */
  readonly refusalMessage?: RefusalMessage;
  /**
   * The schema of a session's claims; see `SessionsOptions.claims`. It types `session.claims`, and
   * calls whose claims do not match are refused. Default: any JSON object.
   */
  readonly claims?: Schema;
  /**
   * How far `iat` and `nbf` may lie in the future, in whole seconds. `exp` is not extended.
   * Default and maximum: "60s".
   */
  readonly clockSkew?: Duration;
  /**
   * How proofs of possession are checked (DPoP, RFC 9449). Without it, calls with the scheme `DPoP` are
   * refused. The issuer creates the sessions that are bound to a key.
   */
  readonly bind?: {
    /** The URL of this service as its clients see it: proofs must name the procedure under it. */
    readonly url: string;
  };
  /** The cookie options of the issuer. They determine the names of the cookies to read. */
  readonly cookies?: CookieOptions;
  /**
   * The origins of the pages that may use cookies, exactly as browsers send them, such as
   * "https://app.example.com". Default: the issuer's origin.
   */
  readonly origins?: readonly string[];
  /** Whether a request with cookies must come from a page of `origins`. Default "checked". */
  readonly crossSite?: "checked" | "unchecked";
  /** The cache of verified access tokens. A cached token is not verified cryptographically again. */
  readonly verifiedCache?: VerifiedCacheOptions;
  /** Fetches the keys; must honor `redirect: "manual"`. Default: the global `fetch`. */
  readonly fetch?: Fetch;
  /**
   * Receives an event for every refused call and for every outage, at most 10 of one cause in a second.
   * Send them to your logs.
   */
  readonly onEvent?: SessionEventListener;
  /**
   * Receives spans and metrics: `openTelemetry()` of `rpc-session/otel`, or an object of your own.
   * Default: nothing is observed, at no cost.
   */
  readonly telemetry?: SessionTelemetry;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
}

/** Verified sessions for a service that does not create any itself. */
export interface VerifySessions<Claims extends object = JsonObject>
  extends VerifyingSessions<VerifiedSession<Claims>> {
  /**
   * Fetches the keys now instead of on first use.
   * @throws SessionError `unavailable`, with the underlying error as its cause
   */
  ready(): Promise<void>;
}

/**
 * Verifies the sessions that another service creates, using that service's published keys. It needs
 * neither store nor secret, and contacts the issuer only for its keys, at most once in 30 s. Nothing
 * is fetched until the first call or `ready()`.
 *
 * This service learns that a session has ended when its access token expires: by default after 15
 * minutes, at most after an hour. It cannot check anti-CSRF tokens, which takes the issuer's secret,
 * but it does check that requests with cookies come from `origins`. Clients refresh at the issuer.
 *
 * If the keys cannot be fetched, known keys are used for another 24 h. Without any key, calls fail
 * with `Unavailable`, and nobody is signed out.
 *
 * ```ts
 * const sessions = verifySessions({
 *   issuer: "https://api.example.com",
 *   jwks: "https://api.example.com/.well-known/jwks.json",
 * });
 * ```
 *
 * @throws TypeError if an option is wrong; the message explains what to change
 */
export function verifySessions<Schema extends ClaimsSchema = AnyClaims>(
  options: VerifySessionsOptions<Schema>,
): VerifySessions<ClaimsOf<Schema>>;
// Internally claims are JSON; the schema guarantees their type.
export function verifySessions(options: VerifySessionsOptions): VerifySessions {
  assertWebCrypto();
  if (typeof options !== "object" || options === null) {
    throw new TypeError("verifySessions requires options, at least { issuer, jwks }");
  }
  assertMembers("verifySessions", options, members);
  const { clock = systemClock } = options;
  if (!["function", "undefined"].includes(typeof options.refusalMessage)) {
    throw new TypeError(
      `verifySessions: refusalMessage must be a function, got ${typeof options.refusalMessage}`,
    );
  }
  const telemetry = readTelemetry(options.telemetry);
  const issuer = readIssuer(options.issuer);
  const keys = keysOfIssuer({
    ...options,
    clock,
    clockSkew: readClockSkew(options.clockSkew ?? "60s"),
  });
  const policies = new Policies({
    public: options.public ?? [],
    methods: options.methods ?? {},
    check: "none",
    hasStore: false,
    compile: compilerOf(options.conditions, options.claims),
  });
  const authenticator = new VerifyingAuthenticator({ ...options, clock }, keys);
  const events = new EventLimit(safeListener(options.onEvent), clock);
  const core: VerifyingCore = {
    refusalMessage: options.refusalMessage,
    issuer: options.issuer,
    olderIssuers: options.olderIssuers ?? [],
    isOwnIssuer: isAnyOf([options.issuer, ...(options.olderIssuers ?? [])]),
    cookies: new SessionCookies(issuer, options.cookies),
    origins: readPageOrigins(options.origins, { issuer, sameSite: options.cookies?.sameSite }),
    crossSite: readChoice("crossSite", options.crossSite, ["checked", "unchecked"]),
    proofs: new Proofs({ mode: "off", url: options.bind?.url }),
    antiCsrf: "off",
    emit: (event) => {
      telemetry?.event(event);
      events.emit(event);
    },
    clock,
    telemetry,
    operations: new Operations(),
    tellsClients: false,
    maxStreamStaleness: Number.POSITIVE_INFINITY,
    claims: new ClaimsRule(options.claims, undefined),
    sources: undefined,
    decisions: options.authorize && new Decisions(options.authorize, clock),
    revocations: authenticator.revocations,
    sessionOn: (_core, { claims, read }) => ({
      ...verifiedSessionOf(claims, read),
      // The type has no `revoke`. Callers without types get an explanation.
      revoke: () => Promise.reject(noStore()),
    }),
    engine: () => authenticator,
  };
  telemetry?.start(() => authenticator.readings);
  const parts = { key: createCallKey(), policies, service: undefined };
  return { ...verifyingInstance(core, parts).sessions, ready: () => keys.ready() };
}

const members: Readonly<Record<keyof VerifySessionsOptions, 0>> = {
  ...{
    issuer: 0,
    olderIssuers: 0,
    audience: 0,
    jwks: 0,
    public: 0,
    methods: 0,
    ...{ conditions: 0, authorize: 0, refusalMessage: 0 },
    claims: 0,
    clockSkew: 0,
  },
  ...{
    bind: 0,
    cookies: 0,
    origins: 0,
    crossSite: 0,
    verifiedCache: 0,
    fetch: 0,
    onEvent: 0,
    clock: 0,
  },
  telemetry: 0,
};

/**
 * Authenticates by the keys alone. Its calls are checked with `check: "none"`, so the methods that
 * would read a store are only reached by a stream that looks for a refresh before its token expires.
 */
class VerifyingAuthenticator implements Authenticator {
  readonly verify: Authenticator["verify"];
  readonly revocations: Authenticator["revocations"];
  /** Without the issuer's secret no anti-CSRF token can be verified. */
  readonly antiCsrf: Authenticator["antiCsrf"] = { verify: async () => false };

  readonly #counts = { warm: 0, cold: 0 };
  readonly #verified: VerifiedCache | undefined;

  constructor(
    options: Omit<VerifySessionsOptions, "jwks" | "clock"> & { readonly clock: Clock },
    keys: IssuerKeys,
  ) {
    this.#verified = createVerifiedCache(readCacheLimits(options.verifiedCache), options.clock);
    this.verify = createAccessTokenVerifier({
      issuer: options.issuer,
      audience: readAudience(options.audience ?? options.issuer),
      older: readOlderIssuers(options.olderIssuers, options),
      maxLife: maxAccessLife / 1000,
      clockSkew: readClockSkew(options.clockSkew ?? "60s") / 1000,
      keys,
      cache: this.#verified,
      counts: this.#counts,
    });
    this.revocations = new NoRevocations(options.clock);
  }

  /** Nonces are made under the issuer's secret; here the time of a proof counts. */
  readonly nonces = undefined;
  /** The readings for telemetry. Streams of this service end by the clock, so none waits for an end. */
  get readings(): TelemetryReadings {
    const { warm, cold } = this.#counts;
    const cachedTokens = this.#verified?.size ?? 0;
    return { verifications: { warm, cold }, cachedTokens, feed: undefined, streams: 0 };
  }

  used(): void {}

  async standingOf(): Promise<"unknown"> {
    return "unknown";
  }

  namesOwnSecret(): boolean {
    return false;
  }

  async load(): Promise<never> {
    throw noStore();
  }

  async loadUnsure(): Promise<never> {
    throw noStore();
  }

  async reissue(): Promise<undefined> {
    return undefined;
  }

  async reissueFrom(): Promise<undefined> {
    return undefined;
  }
}

function noStore(): TypeError {
  return new TypeError(
    "verifySessions only verifies sessions; end a session at the service that created it, for example with the client's session.signOut()",
  );
}
