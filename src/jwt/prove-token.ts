import type { JsonValue } from "../base/json.ts";
import { algorithmNamed, signingAlgorithms } from "./algorithms.ts";
import { type AccessClaims, fromPayload, isCount } from "./claims.ts";
import type { VerificationKey } from "./keys.ts";
import { isSignature } from "./signature.ts";
import { type ParsedJwt, parseCompact } from "./strict-parse.ts";
import type { ProvenToken } from "./verified-cache.ts";

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

function isForUs({ iss, aud, iat, exp }: AccessClaims, rules: ProvingRules): boolean {
  return iss === rules.issuer && aud === rules.audience && exp > iat && exp - iat <= rules.maxLife;
}

/** `iat` and `nbf` are whole seconds by now. */
function beginOf({ payload }: ParsedJwt, skew: number): number {
  const { iat, nbf = 0 } = payload;
  return (Math.max(Number(iat), Number(nbf)) - skew) * 1000;
}

/** With the strings that all tokens have, instead of copies of its own: many claims are kept. */
function sharing(claims: AccessClaims, { issuer, audience }: ProvingRules): AccessClaims {
  const clientId = claims.client_id === audience ? audience : claims.client_id;
  return { ...claims, iss: issuer, aud: audience, client_id: clientId };
}

/** Down to the last member: claims outlive the call that they are handed to. */
function freeze<T extends AccessClaims | JsonValue>(value: T): T {
  if (typeof value === "object" && value !== null) {
    Object.values(value).forEach(freeze);
    Object.freeze(value);
  }
  return value;
}
