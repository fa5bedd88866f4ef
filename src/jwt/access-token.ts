import { base64url } from "jose";
import type { JsonObject } from "../base/json.ts";
import { type AccessClaims, assertUserClaims, fromPayload, isCount, toPayload } from "./claims.ts";
import type { RemoteSigningKey, SigningKey } from "./keys.ts";
import { type ProvingRules, proveToken, type RefusedToken } from "./prove-token.ts";
import { signWith } from "./signature.ts";
import { maxTokenLength } from "./strict-parse.ts";
import type { ProvenToken, VerifiedCache } from "./verified-cache.ts";

/** What a verifier found. */
export type VerifiedToken =
  /** Signed, for us, and in time. */
  | { readonly status: "valid"; readonly claims: AccessClaims }
  /** Signed and for us, but its time is over. */
  | { readonly status: "expired"; readonly claims: AccessClaims }
  /** In the form of a token, but not proven, or proven to be none for us now. */
  | { readonly status: "invalid" }
  /** No access token at all. */
  | { readonly status: "malformed" };

/** What a verifier accepts, where it finds keys, and where it remembers what it proved. */
export interface AccessTokenVerifierOptions extends ProvingRules {
  /** Changes how often a signature is computed, and no answer. Default: none. */
  readonly cache?: VerifiedCache | undefined;
}

/**
 * Verifies an access token; at once where that was done before. Throws or rejects only when `findKey`
 * does, or its key cannot be used.
 * @param now milliseconds since 1970 UTC
 */
export type AccessTokenVerifier = (
  token: string,
  now: number,
) => VerifiedToken | Promise<VerifiedToken>;

/**
 * Signs an access token (RFC 9068 §2).
 * @throws TypeError when the verifier would not read it back: a claim of the wrong type, user's claims
 *   that are no plain JSON, or more than 8192 characters
 */
export async function signAccessToken(
  claims: AccessClaims,
  key: SigningKey | RemoteSigningKey,
): Promise<string> {
  assertUserClaims(claims.claims);
  const payload = toPayload(claims);
  if (fromPayload(payload) === undefined) {
    throw new TypeError("access token: a claim is absent or of the wrong type");
  }
  const token = await signCompact(payload, key);
  if (token.length > maxTokenLength) {
    throw new TypeError(
      `claims: the token has ${token.length} characters, and ${maxTokenLength} are the most; put less into it`,
    );
  }
  return token;
}

/** JWS Compact Serialization (RFC 7515 §5.1), signed where the key is. */
async function signCompact(
  payload: JsonObject,
  key: SigningKey | RemoteSigningKey,
): Promise<string> {
  const header = { alg: key.alg, kid: key.kid, typ: "at+jwt" };
  const signed = [header, payload].map((part) => base64url.encode(JSON.stringify(part))).join(".");
  const data = encoder.encode(signed);
  const signature = await ("sign" in key ? key.sign(data) : signWith(key, data));
  return `${signed}.${base64url.encode(signature)}`;
}

const encoder = new TextEncoder();

/**
 * Makes a verifier of access tokens (RFC 9068 §4, RFC 8725 §3).
 * @throws TypeError when an option is out of bounds
 */
export function createAccessTokenVerifier(
  options: AccessTokenVerifierOptions,
): AccessTokenVerifier {
  const { cache, ...rules } = checkOptions(options);
  if (cache === undefined) {
    return async (token, now) => judge(await proveToken(token, rules), now);
  }
  const prove = shareWhileUnderWay((token) => proveToken(token, rules));
  const proveAnew = async (token: string, now: number): Promise<VerifiedToken> => {
    const proven = await prove(token);
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
    // Whether a key is trusted is asked on every use: it may have been removed since.
    const key = rules.findKey(known.key.kid, known.claims.iat);
    if (key === known.key) {
      return judge(known, now);
    }
    return confirmKey(key, known).then((same) => {
      if (same) {
        return judge(known, now);
      }
      cache.evict(token);
      return proveAnew(token, now);
    });
  };
}

type FoundKey = ReturnType<ProvingRules["findKey"]>;

async function confirmKey(found: FoundKey, { key }: ProvenToken): Promise<boolean> {
  return (await found) === key;
}

/** Gives those who ask for the same at the same time the same answer. */
function shareWhileUnderWay<T>(work: (token: string) => Promise<T>): typeof work {
  const underWay = new Map<string, Promise<T>>();
  return (token) => {
    const known = underWay.get(token);
    if (known !== undefined) {
      return known;
    }
    const begun = work(token).finally(() => underWay.delete(token));
    underWay.set(token, begun);
    return begun;
  };
}

function checkOptions(options: AccessTokenVerifierOptions): AccessTokenVerifierOptions {
  const { issuer, audience, maxLife, clockSkew } = options;
  if (issuer === "" || audience === "") {
    throw new TypeError("issuer and audience: must not be empty");
  }
  if (!isCount(maxLife) || maxLife === 0) {
    throw new TypeError("maxLife: must be whole seconds, at least 1");
  }
  if (!isCount(clockSkew)) {
    throw new TypeError("clockSkew: must be whole seconds, 0 or more");
  }
  return { ...options, findKey: options.findKey.bind(options) };
}

/** Written so that a `now` that is no number passes nothing. */
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
