import { base64url } from "jose";
import type { JsonObject, JsonValue } from "../base/json.ts";
import { assertUserClaims, fromPayload, isCount, type TokenClaims, toPayload } from "./claims.ts";
import { algorithmNamed, signingAlgorithms } from "./jwk.ts";
import {
  isSignature,
  type RemoteSigningKey,
  type SigningKey,
  signWith,
  type VerificationKey,
} from "./keys.ts";
import { maxTokenLength, type ParsedJwt, parseCompact } from "./strict-parse.ts";
import type { ProvenToken, VerifiedCache } from "./verified-cache.ts";

/** What a token must be, whatever the time, and where keys are found. */
export interface ProvingRules {
  /** The one `iss` accepted; compared exactly. */
  readonly issuer: string;
  /** The one `aud` accepted; compared exactly. */
  readonly audience: string;
  /** The longest life, `exp` − `iat`, accepted; whole seconds, at least 1. */
  readonly maxLife: number;
  /** How far `iat` and `nbf` may lie in the future; whole seconds, 0 or more. `exp` gets nothing. */
  readonly clockSkew: number;
  /**
   * Finds a key by its exact id, 1 to 64 characters of the base64url alphabet. `iat` is not proven
   * yet: it may only decide whether to look again. Undefined when there is no such key; throws or
   * rejects when that could not be found out. The same object as long as the key is the same.
   */
  findKey(
    kid: string,
    iat: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
}

/** A token that no time makes good. */
export type RefusedToken =
  /** In the form of a token, but not proven, or proven to be none for us. */
  | { readonly status: "invalid" }
  /** No access token at all. */
  | { readonly status: "malformed" };

const invalid = { status: "invalid" } as const;
const malformed = { status: "malformed" } as const;

/** Checks everything of a token but its time. Rejects only when `findKey` does, or its key cannot be used. */
export async function proveToken(
  token: string,
  rules: ProvingRules,
): Promise<ProvenToken | RefusedToken> {
  const parsed = parseCompact(token);
  if (parsed === undefined || !isCount(parsed.payload.iat)) {
    return malformed;
  }
  if (!isCandidate(parsed)) {
    return invalid;
  }
  const key = await rules.findKey(parsed.header.kid, parsed.payload.iat);
  if (key === undefined || !(await isSigned(token, parsed, key))) {
    return invalid;
  }
  const claims = fromPayload(parsed.payload);
  if (claims === undefined) {
    return malformed;
  }
  if (!isForUs(claims, rules)) {
    return invalid;
  }
  const beginsAt = beginOf(parsed, rules.clockSkew);
  return { claims: freeze(sharing(claims, rules)), key, beginsAt };
}

/** What the header alone tells: no key is looked for, and no curve computed, in vain. */
function isCandidate({ header, signature }: ParsedJwt): boolean {
  const alg = algorithmNamed(header.alg);
  if (alg === undefined) {
    return false;
  }
  const { min, max } = signingAlgorithms[alg].signatureBytes;
  if (signature.length < min || signature.length > max) {
    return false;
  }
  // A media type, whose "application/" may be left out and whose case does not count (RFC 7515 §4.1.9).
  const typ = header.typ.toLowerCase();
  return typ === "at+jwt" || typ === "application/at+jwt";
}

async function isSigned(
  token: string,
  { header, signature }: ParsedJwt,
  key: VerificationKey,
): Promise<boolean> {
  if (algorithmNamed(header.alg) !== key.alg) {
    return false;
  }
  const signed = encoder.encode(token.slice(0, token.lastIndexOf(".")));
  return isSignature(key, signed, signature);
}

const encoder = new TextEncoder();

function isForUs({ iss, aud, iat, exp }: TokenClaims, rules: ProvingRules): boolean {
  return iss === rules.issuer && aud === rules.audience && exp > iat && exp - iat <= rules.maxLife;
}

/** `iat` and `nbf` are whole seconds by now. */
function beginOf({ payload }: ParsedJwt, skew: number): number {
  const { iat, nbf = 0 } = payload;
  return (Math.max(Number(iat), Number(nbf)) - skew) * 1000;
}

/** With the strings that all tokens have, instead of copies of its own: many claims are kept. */
function sharing(claims: TokenClaims, { issuer, audience }: ProvingRules): TokenClaims {
  const clientId = claims.client_id === audience ? audience : claims.client_id;
  return { ...claims, iss: issuer, aud: audience, client_id: clientId };
}

/** Down to the last member: claims outlive the call that they are handed to. */
function freeze<T extends TokenClaims | JsonValue>(value: T): T {
  if (typeof value === "object" && value !== null) {
    Object.values(value).forEach(freeze);
    Object.freeze(value);
  }
  return value;
}

/** What a verifier found. */
export type VerifiedToken =
  /** Signed, for us, and in time. */
  | { readonly status: "valid"; readonly claims: TokenClaims }
  /** Signed and for us, but its time is over. */
  | { readonly status: "expired"; readonly claims: TokenClaims }
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
  claims: TokenClaims,
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
