import type { AcceptedIssuer } from "../base/checks.ts";
import type { JsonValue } from "../base/json.ts";
import { isPromise, whenKnown } from "../base/promises.ts";
import { fromPayload, isCount, type TokenClaims } from "./claims.ts";
import { algorithmNamed, type SigningAlgorithm, signingAlgorithms } from "./jwk.ts";
import { isSignature, type VerificationKey } from "./keys.ts";
import {
  headerPartOf,
  isAccessTokenType,
  outlineOf,
  type ParsedJwt,
  parseCompact,
} from "./strict-parse.ts";
import type { ProvenToken, VerifiedCache } from "./verified-cache.ts";

/** The rules that a token must meet at any time, and the source of keys. */
interface ProvingRules {
  /** The accepted `iss`; compared exactly. */
  readonly issuer: string;
  /** The accepted `aud`; compared exactly. */
  readonly audience: string;
  /** Further pairs of `iss` and `aud` that are accepted. Default: none. */
  readonly older?: readonly AcceptedIssuer[];
  /** The longest accepted lifetime, `exp` − `iat`; whole seconds, at least 1. */
  readonly maxLife: number;
  /**
   * A token expires at the latest this long after `iat`, whatever its `exp`; whole seconds, at least 1.
   * Default: `maxLife`.
   */
  readonly acceptedFor?: number;
  /** How far `iat` and `nbf` may lie in the future; whole seconds, 0 or more. Not applied to `exp`. */
  readonly clockSkew: number;
  readonly keys: KeyFinder;
}

/** The keys that may have signed a token. */
export interface KeyFinder {
  /**
   * Finds a key by its exact id, 1 to 64 characters of the base64url alphabet. `iat` is not proven
   * yet: use it only to decide whether to look again. Returns undefined if the key does not exist.
   * Throws or rejects if that cannot be determined. Returns the same object for as long as the key
   * is the same.
   */
  find(
    kid: string,
    iat: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
}

/** Options of {@link createAccessTokenVerifier}. */
export interface AccessTokenVerifierOptions extends ProvingRules {
  /** Caches proven tokens. Saves the computation of signatures, and never changes a result. Default: none. */
  readonly cache?: VerifiedCache | undefined;
  /** Counts the tokens that were verified. Default: nobody counts. */
  readonly counts?: VerificationCounts;
}

/** How many verifications used the cache (`warm`), and how many computed a signature (`cold`). */
export interface VerificationCounts {
  warm: number;
  cold: number;
}

/** A token that is invalid, whatever the time. */
type RefusedToken =
  /** Names another issuer. Nothing else about it was checked, and no key was looked up. */
  | { readonly status: "foreign" }
  /** Has the form of a token, but its signature, issuer, audience or lifetime is not valid. */
  | { readonly status: "invalid" }
  /** Does not have the form of an access token. */
  | { readonly status: "malformed" };

/** The result of a verification. */
export type VerifiedToken =
  /** The signature, the issuer, the audience and the time are valid. */
  | { readonly status: "valid"; readonly claims: TokenClaims }
  /** The signature, the issuer and the audience are valid, but the token has expired. */
  | { readonly status: "expired"; readonly claims: TokenClaims }
  | RefusedToken;

/**
 * Verifies an access token. Synchronous if the token is in the cache. Throws or rejects only if
 * a key cannot be looked up or cannot be used.
 * @param now milliseconds since 1970 UTC
 */
export type AccessTokenVerifier = (
  token: string,
  now: number,
) => VerifiedToken | Promise<VerifiedToken>;

/**
 * Creates a verifier of access tokens (RFC 9068 §4, RFC 8725 §3).
 * @throws TypeError when an option is out of bounds
 */
export function createAccessTokenVerifier(
  options: AccessTokenVerifierOptions,
): AccessTokenVerifier {
  const { cache, counts = { warm: 0, cold: 0 }, ...given } = checkOptions(options);
  const accepted = [given, ...(given.older ?? [])];
  const rules: Prover = { ...given, accepted, headers: new Map() };
  if (cache === undefined) {
    return async (token, now) => {
      counts.cold += 1;
      const proven = proveToken(token, rules);
      return judge(isPromise(proven) ? await proven : proven, now);
    };
  }

  const proving = new Map<string, Promise<ProvenToken | RefusedToken>>();
  const proveAnew = async (token: string, now: number): Promise<VerifiedToken> => {
    counts.cold += 1;
    // Concurrent calls with the same token share one proof; each judges it at its own time.
    let proof = proving.get(token);
    if (proof === undefined) {
      proof = Promise.resolve(proveToken(token, rules)).finally(() => proving.delete(token));
      proving.set(token, proof);
    }
    const proven = await proof;
    const verified = judge(proven, now);
    if ("key" in proven && verified.status === "valid") {
      cache.add(token, proven);
    }
    return verified;
  };

  return (token, now) => {
    const known = cache.get(token);
    if (known === undefined) {
      return proveAnew(token, now);
    }
    // The key is looked up on every use, because it may have been removed since.
    const key = rules.keys.find(known.key.kid, known.claims.iat);
    if (key === known.key) {
      // The only synchronous path: a promise here would cost more than 1 % of a warm call.
      counts.warm += 1;
      return judge(known, now);
    }
    const judgeByKey = async (): Promise<VerifiedToken> => {
      if ((await key) === known.key) {
        counts.warm += 1;
        return judge(known, now);
      }
      cache.evict(token);
      return proveAnew(token, now);
    };
    return judgeByKey();
  };
}

function checkOptions(options: AccessTokenVerifierOptions): AccessTokenVerifierOptions {
  const { issuer, audience, maxLife, clockSkew } = options;
  if (issuer === "" || audience === "") {
    throw new TypeError("issuer and audience must not be empty");
  }
  if (!isCount(maxLife) || maxLife === 0) {
    throw new TypeError(`maxLife must be a whole number of seconds, at least 1, got ${maxLife}`);
  }
  if (!isCount(clockSkew)) {
    throw new TypeError(
      `clockSkew must be a whole number of seconds, 0 or more, got ${String(clockSkew)}`,
    );
  }
  return { ...options };
}

/** Applies the time to a proof. Written so that a `now` that is not a number never passes. */
function judge(found: ProvenToken | RefusedToken, now: number): VerifiedToken {
  if ("status" in found) {
    return found;
  }
  const { claims, beginsAt } = found;
  if (!(beginsAt <= now)) {
    return { status: "invalid" };
  }
  return { status: claims.exp * 1000 > now ? "valid" : "expired", claims };
}

const foreign = { status: "foreign" } as const;
const invalid = { status: "invalid" } as const;
const malformed = { status: "malformed" } as const;

/** The rules, and the headers that tokens of known keys had. */
interface Prover extends ProvingRules {
  /** The issuer, and the older ones. */
  readonly accepted: readonly AcceptedIssuer[];
  readonly headers: Map<string, ParsedJwt["header"]>;
}

/** Headers that are kept, at most: one for each key, and few of them sign at the same time. */
const headersMax = 64;

/** Remembers the header of a token whose signature was valid, so that it is parsed once per key. */
function remember({ headers }: Prover, token: string, { header }: ParsedJwt): void {
  // Only headers that are remembered are frozen.
  if (Object.isFrozen(header)) {
    return;
  }
  if (headers.size >= headersMax) {
    headers.clear();
  }
  headers.set(headerPartOf(token), Object.freeze(header));
}

/**
 * Checks everything but the time. Synchronous if the key is at hand and node:crypto exists. Throws or
 * rejects only if a key cannot be looked up or cannot be used.
 */
function proveToken(
  token: string,
  rules: Prover,
): ProvenToken | RefusedToken | Promise<ProvenToken | RefusedToken> {
  // 1. A token of another issuer is not ours, so its key is not looked up.
  const parsed = parseCompact(token, rules.headers);
  const named = parsed === undefined ? outlineOf(token).issuer : parsed.payload.iss;
  if (typeof named === "string" && !rules.accepted.some(({ issuer }) => issuer === named)) {
    return foreign;
  }

  // 2. The form.
  if (parsed === undefined || !isCount(parsed.payload.iat)) {
    return malformed;
  }

  // 3. The header: reject tokens that cannot have been issued here.
  const alg = algorithmOf(parsed);
  if (alg === undefined) {
    return invalid;
  }

  // 4. The signature. The algorithm is a property of the key; a token cannot choose it (RFC 8725 §3.1).
  const found = rules.keys.find(parsed.header.kid, parsed.payload.iat);
  return whenKnown(found, (key) => {
    if (alg !== key?.alg) {
      return invalid;
    }
    // No promise for a result that is at hand: it would cost as much as reading the claims.
    return whenKnown(isSignature(key, parsed.signed, parsed.signature), (signed) => {
      // Nothing but `true` is a valid signature.
      if (signed !== true) {
        return invalid;
      }
      remember(rules, token, parsed);

      // 5. The claims: their types, then issuer, audience and lifetime.
      return proveClaims(parsed, key, rules);
    });
  });
}

/** Checks the claims of a token whose signature is valid. */
function proveClaims(
  parsed: ParsedJwt,
  key: VerificationKey,
  rules: Prover,
): ProvenToken | RefusedToken {
  const claims: Writable<TokenClaims> | undefined = fromPayload(parsed.payload);
  if (claims === undefined) {
    return malformed;
  }
  const { maxLife } = rules;
  const issuer = issuerOf(claims, rules);
  if (issuer === undefined || !(claims.exp > claims.iat && claims.exp - claims.iat <= maxLife)) {
    return invalid;
  }
  // Strings that all tokens have in common are shared ones, because many claims are cached.
  claims.iss = issuer.issuer;
  claims.aud = issuer.audience;
  claims.client_id = claims.client_id === claims.aud ? claims.aud : claims.client_id;
  claims.exp = Math.min(claims.exp, claims.iat + (rules.acceptedFor ?? maxLife));
  freeze(claims.claims);
  return { claims: Object.freeze(claims), key, beginsAt: beginOf(parsed, rules.clockSkew) };
}

type Writable<T> = { -readonly [Name in keyof T]: T[Name] };

/**
 * Checks the header alone, to avoid needless key lookups and signature checks. Returns the algorithm;
 * undefined if the token cannot be valid.
 */
function algorithmOf({ header, signature }: ParsedJwt): SigningAlgorithm | undefined {
  const alg = algorithmNamed(header.alg);
  if (alg === undefined) {
    return undefined;
  }
  const { min, max } = signingAlgorithms[alg].signatureBytes;
  if (signature.length < min || signature.length > max) {
    return undefined;
  }
  // Nearly all tokens have the first spelling, which needs no regular expression.
  return header.typ === "at+jwt" || isAccessTokenType(header.typ) ? alg : undefined;
}

/** Returns the accepted pair of issuer and audience that a token names. */
function issuerOf({ iss, aud }: TokenClaims, { accepted }: Prover): AcceptedIssuer | undefined {
  return accepted.find(({ issuer, audience }) => iss === issuer && aud === audience);
}

/** Returns the time from which a token is valid. `fromPayload` has checked that both claims are times. */
function beginOf({ payload }: ParsedJwt, skew: number): number {
  const { iat, nbf = 0 } = payload;
  return (Math.max(Number(iat), Number(nbf)) - skew) * 1000;
}

/** Freezes deeply, because claims outlive the call that they are passed to. */
function freeze(value: JsonValue): void {
  if (typeof value === "object" && value !== null) {
    for (const inner of Object.values(value)) {
      freeze(inner);
    }
    Object.freeze(value);
  }
}
