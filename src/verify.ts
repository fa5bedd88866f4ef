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
import { type SessionEventListener, safeListener } from "./base/events.ts";
import type { AnyClaims, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import { Opener } from "./base/promises.ts";
import { ClaimsRule } from "./engine/claims.ts";
import { maxAccessLife } from "./engine/lifetimes.ts";
import { NoRevocations } from "./engine/revocation/none.ts";
import { type VerifiedSession, verifiedSessionOf } from "./engine/session.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { type KeySet, keysOf, readKeySet } from "./jwt/jwk-set.ts";
import { type Fetch, RemoteKeys } from "./jwt/remote-keys.ts";
import {
  createVerifiedCache,
  readCacheLimits,
  type VerifiedCacheOptions,
} from "./jwt/verified-cache.ts";
import { type AccessTokenVerifierOptions, createAccessTokenVerifier } from "./jwt/verifier.ts";
import type { CookieOptions } from "./request/cookie-options.ts";
import { createSessionCookies } from "./request/cookies.ts";
import { readPageOrigins } from "./request/origins.ts";
import { createCallKey } from "./server/call/call.ts";
import type { Authenticator, VerifyingCore } from "./server/core.ts";
import { createPolicies, type MethodPolicyOptions } from "./server/policy/policy.ts";
import { createVerifyingSessions, type VerifyingSessions } from "./server/reading.ts";

export type { VerifiedSession } from "./engine/session.ts";
export type { JsonWebKey, JsonWebKeySet } from "./jwt/jwk.ts";
export type { Fetch } from "./jwt/remote-keys.ts";
export type { VerifiedCacheOptions } from "./jwt/verified-cache.ts";
export type { VerifyingSessions } from "./server/reading.ts";

/** The options of {@link verifySessions}. */
export interface VerifySessionsOptions<Schema extends ClaimsSchema = AnyClaims> {
  /** The `issuer` of the service that makes the sessions, exactly. */
  readonly issuer: string;
  /** The `aud` of the access tokens, exactly. Default: the issuer. */
  readonly audience?: string;
  /**
   * Where the issuer publishes its keys, such as "https://api.example.com/.well-known/jwks.json":
   * https, or http on this machine. Or the keys themselves, which then never change.
   */
  readonly jwks: string | URL | JsonWebKeySet;
  /** Methods and services that need no session. Default none: everything needs one. */
  readonly public?: readonly (DescMethod | DescService)[];
  /** Policies by procedure, such as `"notes.v1.NotesService/ListNotes": { auth: "optional" }`. */
  readonly methods?: Readonly<Record<string, MethodPolicyOptions>>;
  /**
   * What the claims of a session look like; see `SessionsOptions.claims`. It types `session.claims`,
   * and calls whose claims do not fit are refused. Default: any JSON object.
   */
  readonly claims?: Schema;
  /** How far `iat` and `nbf` may lie in the future; `exp` has no such grace. Default "60s"; at most "60s". */
  readonly clockSkew?: Duration;
  /** As the issuer has them; they name the cookies that are read. */
  readonly cookies?: CookieOptions;
  /**
   * The origins of the pages that may use cookies, exactly as browsers send them, such as
   * "https://app.example.com". Default: the issuer's.
   */
  readonly origins?: readonly string[];
  /** Whether requests with cookies are checked for coming from `origins`. Default "checked". */
  readonly crossSite?: "checked" | "unchecked";
  /** How many verified access tokens are remembered, so that their signatures are computed once. */
  readonly verifiedCache?: VerifiedCacheOptions;
  /** Fetches the keys. Default: the global `fetch`. Must not follow redirects when told "manual". */
  readonly fetch?: Fetch;
  /** Told of every outage: send it to your logs. */
  readonly onEvent?: SessionEventListener;
  /** Where time comes from. Default: the machine. */
  readonly clock?: Clock;
}

/** Verified sessions for a service that makes none. */
export interface VerifySessions<Claims extends object = JsonObject>
  extends VerifyingSessions<VerifiedSession<Claims>> {
  /**
   * Fetches the keys now instead of on first use.
   * @throws SessionError `unavailable`, with what stood in the way as its cause
   */
  ready(): Promise<void>;
}

/**
 * Verifies the sessions that another service makes, by its published keys: no store, no secret, and
 * no call to the issuer but for its keys, at most one in 30 s. Fetches nothing yet.
 *
 * A session that ends is known here when its access token expires: by default after 15 minutes, at
 * most an hour. Anti-CSRF tokens are not checked, for that needs the issuer's secret; whether a
 * request with cookies comes from another site is, as everywhere. Clients refresh at the issuer.
 *
 * When keys cannot be fetched, those that are known serve on for 24 h; without any, calls fail with
 * `Unavailable` and nobody is signed out.
 *
 * @throws TypeError with what to change, when an option is wrong
 */
export function verifySessions<Schema extends ClaimsSchema = AnyClaims>(
  options: VerifySessionsOptions<Schema>,
): VerifySessions<ClaimsOf<Schema>>;
// Inside, claims are JSON; the schema vouches for their type.
export function verifySessions(options: VerifySessionsOptions): VerifySessions {
  if (typeof options !== "object" || options === null) {
    throw new TypeError("verifySessions: give it options, at least { issuer, jwks }");
  }
  assertMembers("verifySessions", options, members);
  const { clock = systemClock } = options;
  const issuer = readIssuer(options.issuer);
  const keys = createKeys(options, clock);
  const policies = createPolicies({
    public: options.public ?? [],
    methods: options.methods ?? {},
    check: "none",
    hasStore: false,
  });
  const authenticator = createAuthenticator({ ...options, clock }, keys);
  const core: VerifyingCore = {
    issuer: options.issuer,
    cookies: createSessionCookies(issuer, options.cookies),
    origins: readPageOrigins(options.origins, { issuer, sameSite: options.cookies?.sameSite }),
    crossSite: readChoice("crossSite", options.crossSite, ["checked", "unchecked"]),
    antiCsrf: "off",
    emit: safeListener(options.onEvent),
    clock,
    maxStreamStaleness: Number.POSITIVE_INFINITY,
    claims: new ClaimsRule(options.claims, undefined),
    revocations: authenticator.revocations,
    sessionOn: (_core, { claims, read }) => ({
      ...verifiedSessionOf(claims, read),
      // For those who write without types: why it is not there.
      revoke: () => Promise.reject(noStore()),
    }),
    engine: () => authenticator,
  };
  const parts = { key: createCallKey(), policies, service: undefined };
  return { ...createVerifyingSessions(core, parts), ready: () => keys.ready() };
}

const members: Readonly<Record<keyof VerifySessionsOptions, 0>> = {
  ...{ issuer: 0, audience: 0, jwks: 0, public: 0, methods: 0, claims: 0, clockSkew: 0 },
  ...{ cookies: 0, origins: 0, crossSite: 0, verifiedCache: 0, fetch: 0, onEvent: 0, clock: 0 },
};

interface Keys {
  ready(): Promise<void>;
  readonly find: AccessTokenVerifierOptions["findKey"];
}

function createKeys({ jwks, ...options }: VerifySessionsOptions, clock: Clock): Keys {
  if (typeof jwks === "string" || jwks instanceof URL) {
    return new RemoteKeys({
      url: readJwksUrl(jwks),
      // Not taken before it is used, so that a test or an agent may still replace it.
      fetch: options.fetch ?? ((url, init) => fetch(url, init)),
      clock,
      clockSkew: readClockSkew(options.clockSkew ?? "60s"),
    });
  }
  keysOf(jwks);
  const opener = new Opener<KeySet>(() => readKeySet(jwks));
  return {
    async ready() {
      await opener.get();
    },
    find: (kid) => opener.value?.get(kid) ?? opener.get().then((set) => set.get(kid)),
  };
}

function createAuthenticator(
  options: Omit<VerifySessionsOptions, "jwks" | "clock"> & { readonly clock: Clock },
  keys: Keys,
): Authenticator {
  return {
    verify: createAccessTokenVerifier({
      issuer: options.issuer,
      audience: readAudience(options.audience ?? options.issuer),
      maxLife: maxAccessLife / 1000,
      clockSkew: readClockSkew(options.clockSkew ?? "60s") / 1000,
      findKey: (kid, issuedAt) => keys.find(kid, issuedAt),
      cache: createVerifiedCache(readCacheLimits(options.verifiedCache), options.clock),
    }),
    revocations: new NoRevocations(options.clock),
    antiCsrf: { verify: async () => false },
    used() {},
    load: () => Promise.reject(noStore()),
    loadUnsure: () => Promise.reject(noStore()),
    reissue: async () => undefined,
    reissueFrom: async () => undefined,
    revoke: () => Promise.reject(noStore()),
  };
}

/** Hosts of this machine (RFC 6761 §6.3). */
const localHosts: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);

function readJwksUrl(jwks: string | URL): string {
  const url = URL.canParse(String(jwks)) ? new URL(jwks) : undefined;
  const isSafe =
    url?.protocol === "https:" || (url?.protocol === "http:" && localHosts.has(url.hostname));
  if (url === undefined || !isSafe || url.username !== "" || url.password !== "") {
    throw new TypeError(
      'jwks: must be an https URL without credentials (http on localhost only), such as "https://api.example.com/.well-known/jwks.json", or a JWK set',
    );
  }
  return url.href;
}

function noStore(): TypeError {
  return new TypeError(
    "verifySessions only verifies: sessions end where they are made, for example by the client's session.signOut()",
  );
}
