import type { JWK } from "jose";
import { sha256 } from "../base/crypto.ts";
import type { JsonObject, JsonValue } from "../base/json.ts";
import { isCount } from "./claims.ts";
import { algorithmNamed, checkJwk, ownMembers, signingAlgorithms } from "./jwk.ts";
import { importVerificationKey, isSignature, type VerificationKey } from "./keys.ts";
import { headerPartOf, type ParsedJws, parseJws } from "./strict-parse.ts";

/** The request that a proof must be made for. */
export interface ProvenRequest {
  /** The HTTP method, such as "POST". */
  readonly method: string;
  /** The public URLs of the request, without query and fragment. One of them must be named. */
  readonly urls: readonly string[];
  /** The access token that comes with it; undefined if there is none. */
  readonly accessToken: string | undefined;
}

/** A valid proof. Whether it is fresh, and was not used before, is for the caller to decide. */
export interface Proof {
  /** The thumbprint of the key (RFC 7638, SHA-256, base64url). */
  readonly thumbprint: string;
  readonly jti: string;
  /** Seconds since 1970, by the client's clock. */
  readonly iat: number;
  readonly nonce: string | undefined;
}

export type VerifiedProof =
  | { readonly proof: Proof }
  /** The rule that the proof breaks, as a whole sentence without values of the proof. */
  | { readonly refused: string };

/** Characters of a proof. One with an RSA key of 4096 bits has about 2,000. */
const maxLength = 4_096;
/** Characters of `jti`. */
const maxJti = 128;

/**
 * Verifies the signature and the content of a DPoP proof (RFC 9449 section 4.3).
 * @param text the value of the header `DPoP`; several headers, joined by commas, are refused
 */
export async function verifyProof(text: string, request: ProvenRequest): Promise<VerifiedProof> {
  // 1. One well-formed JWT.
  const parsed = text.length <= maxLength ? parseJws(text) : undefined;
  if (parsed === undefined) {
    return refused("The header DPoP must be one JWT.");
  }

  // 2. Its header: the type, and the public key that signs.
  const key = await keyOf(text, parsed);
  if ("refused" in key) {
    return key;
  }

  // 3. The signature.
  const { min, max } = signingAlgorithms[key.alg].signatureBytes;
  const { length } = parsed.signature;
  if (length < min || length > max || !(await isSignature(key, parsed.signed, parsed.signature))) {
    return refused("The key of the proof has not signed it.");
  }

  // 4. The claims: they name the request, and the access token that comes with it.
  const { jti, htm, htu, iat, nonce } = parsed.payload;
  if (!isText(jti) || jti.length > maxJti) {
    return refused(`The jti of the proof must be a string of 1 to ${maxJti} characters.`);
  }
  if (htm !== request.method) {
    return refused("The htm of the proof must be the HTTP method of the request.");
  }
  if (!isText(htu) || !request.urls.some((url) => isSameUrl(htu, url))) {
    return refused("The htu of the proof must be the public URL of the request.");
  }
  if (!isCount(iat)) {
    return refused("The iat of the proof must be a time in whole seconds.");
  }
  if (nonce !== undefined && !isText(nonce)) {
    return refused("The nonce of the proof must be a string.");
  }
  if (
    request.accessToken !== undefined &&
    parsed.payload.ath !== (await sha256(request.accessToken))
  ) {
    return refused("The ath of the proof must be the hash of the access token.");
  }
  return { proof: { thumbprint: key.kid, jti, iat, nonce } };
}

function refused(why: string): { readonly refused: string } {
  return { refused: why };
}

function isText(value: JsonValue | undefined): value is string {
  return typeof value === "string" && value !== "";
}

/**
 * The keys of proofs, by the encoded header, which is the same in all proofs of a client. Only those of
 * valid headers are kept.
 */
const keys = new Map<string, VerificationKey>();
const keysMax = 1_000;

/** Reads the header. The id of the key is its thumbprint. */
async function keyOf(
  text: string,
  { header }: ParsedJws,
): Promise<VerificationKey | { readonly refused: string }> {
  const part = headerPartOf(text);
  const known = keys.get(part);
  if (known !== undefined) {
    return known;
  }
  const { typ, alg, jwk } = header;
  if (typ !== "dpop+jwt") {
    return refused("The typ of the proof must be dpop+jwt.");
  }
  if ("crit" in header || "b64" in header) {
    return refused("The proof needs an extension that is not supported.");
  }
  const named = algorithmNamed(alg);
  if (named === undefined) {
    return refused("The alg of the proof must be ES256, EdDSA or RS256.");
  }
  const key = await readProofKey(jwk);
  if (key?.alg !== named) {
    return refused(
      "The jwk of the proof must be a public key for its alg, strong enough and without private members.",
    );
  }
  if (keys.size >= keysMax) {
    keys.clear();
  }
  keys.set(part, key);
  return key;
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Reads a public key, whose id is its thumbprint; undefined for a private, symmetric, weak or unsupported
 * one.
 */
export async function readProofKey(
  jwk: JsonValue | undefined,
): Promise<VerificationKey | undefined> {
  if (!isObject(jwk)) {
    return undefined;
  }
  try {
    const given = { ...jwk } as JWK;
    return await importVerificationKey(ownMembers(given, checkJwk(given, "verify")));
  } catch (error) {
    if (error instanceof TypeError) {
      return undefined;
    }
    throw error;
  }
}

/** Compares after normalisation of scheme, host, port and path; query and fragment of `given` do not count. */
function isSameUrl(given: string, url: string): boolean {
  return URL.canParse(given) && withoutQuery(new URL(given)) === withoutQuery(new URL(url));
}

function withoutQuery({ protocol, username, host, pathname }: URL): string {
  return `${protocol}//${username}@${host}${pathname}`;
}
