import { base64url, compactVerify, errors, type JWTPayload, SignJWT } from "jose";
import type { JsonObject } from "../json.ts";
import { type AccessClaims, assertUserClaims, fromPayload, isCount, toPayload } from "./claims.ts";
import {
  algorithmNamed,
  type RemoteSigningKey,
  type SigningKey,
  signingAlgorithms,
  type VerificationKey,
} from "./keys.ts";
import { maxTokenLength, type ParsedJwt, parseCompact } from "./strict-parse.ts";

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

/** What a verifier accepts, and where it finds keys. */
export interface AccessTokenVerifierOptions {
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
   * yet: it may only decide whether to look again. Undefined when there is no such key; rejects when
   * that could not be found out.
   */
  findKey(
    kid: string,
    iat: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
}

/**
 * Verifies an access token. Rejects only when `findKey` does, or its key cannot be used.
 * @param now milliseconds since 1970 UTC
 */
export type AccessTokenVerifier = (token: string, now: number) => Promise<VerifiedToken>;

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
  const header = { alg: key.alg, kid: key.kid, typ: "at+jwt" };
  const token =
    "sign" in key
      ? await signRemotely(header, payload, key)
      : await new SignJWT(payload as JWTPayload).setProtectedHeader(header).sign(key.key);
  if (token.length > maxTokenLength) {
    throw new TypeError(
      `claims: the token has ${token.length} characters, and ${maxTokenLength} are the most; put less into it`,
    );
  }
  return token;
}

/** JWS Compact Serialization (RFC 7515 §5.1), signed where the key is. */
async function signRemotely(
  header: JsonObject,
  payload: JsonObject,
  key: RemoteSigningKey,
): Promise<string> {
  const signed = [header, payload].map((part) => base64url.encode(JSON.stringify(part))).join(".");
  const signature = await key.sign(new TextEncoder().encode(signed));
  return `${signed}.${base64url.encode(signature)}`;
}

/**
 * Makes a verifier of access tokens (RFC 9068 §4, RFC 8725 §3).
 * @throws TypeError when an option is out of bounds
 */
export function createAccessTokenVerifier(
  options: AccessTokenVerifierOptions,
): AccessTokenVerifier {
  const rules = checkOptions(options);
  return async (token, now) => {
    const parsed = parseCompact(token);
    if (parsed === undefined || !isCount(parsed.payload.iat)) {
      return { status: "malformed" };
    }
    if (!isCandidate(parsed)) {
      return { status: "invalid" };
    }
    const key = await rules.findKey(parsed.header.kid, parsed.payload.iat);
    if (key === undefined || !(await isSigned(token, parsed, key))) {
      return { status: "invalid" };
    }
    const claims = fromPayload(parsed.payload);
    if (claims === undefined) {
      return { status: "malformed" };
    }
    if (!isForUs(claims, rules) || !hasBegun(parsed, rules.clockSkew, now)) {
      return { status: "invalid" };
    }
    return { status: claims.exp * 1000 > now ? "valid" : "expired", claims };
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
  return { issuer, audience, maxLife, clockSkew, findKey: options.findKey.bind(options) };
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

async function isSigned(token: string, parsed: ParsedJwt, key: VerificationKey): Promise<boolean> {
  const { alg } = parsed.header;
  if (algorithmNamed(alg) !== key.alg) {
    return false;
  }
  try {
    await compactVerify(token, key.key, { algorithms: [alg] });
    return true;
  } catch (error) {
    if (error instanceof errors.JOSEError) {
      return false;
    }
    throw error;
  }
}

function isForUs({ iss, aud, iat, exp }: AccessClaims, rules: AccessTokenVerifierOptions): boolean {
  return iss === rules.issuer && aud === rules.audience && exp > iat && exp - iat <= rules.maxLife;
}

/** Written so that a `now` that is no number passes nothing. */
function hasBegun({ payload }: ParsedJwt, skew: number, now: number): boolean {
  const { iat, nbf = 0 } = payload;
  return [iat, nbf].every((time) => isCount(time) && (time - skew) * 1000 <= now);
}
