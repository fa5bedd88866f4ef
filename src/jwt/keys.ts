import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, type JWK } from "jose";
import type { SigningAlgorithm } from "./algorithms.ts";
import { checkJwk, ownMembers, publicHalf } from "./jwk.ts";
import { signAtOnce } from "./signature.ts";
import { isKeyId } from "./strict-parse.ts";

export {
  algorithmNamed,
  isSigningAlgorithm,
  type SigningAlgorithm,
  type SigningAlgorithmFacts,
  signingAlgorithms,
} from "./algorithms.ts";

/** A key that signs. */
export interface SigningKey {
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** Private, not extractable. */
  readonly key: CryptoKey;
}

/** A key that signs somewhere else, such as in a KMS. */
export interface RemoteSigningKey {
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** The signature of `data` as a token carries it (RFC 7518 §3, RFC 8037 §3.1). */
  sign(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array>;
}

/** A key that verifies, and can do nothing else. */
export interface VerificationKey {
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  readonly key: CryptoKey;
}

/** A new pair of keys, as it is stored and published. */
export interface GeneratedKey {
  /** The RFC 7638 thumbprint, SHA-256. */
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** With `kid`, `alg` and `use`: ready for a JWK set (RFC 7517 §5). */
  readonly publicJwk: JWK;
  readonly privateJwk: JWK;
}

/** Makes a new pair of keys; RSA ones of 2048 bits. */
export async function generateSigningKey(alg: SigningAlgorithm): Promise<GeneratedKey> {
  const pair = await generateKeyPair(alg, { extractable: true });
  const privateJwk = await exportJWK(pair.privateKey);
  const kid = await calculateJwkThumbprint(await exportJWK(pair.publicKey));
  const facts = { kid, alg };
  return {
    ...facts,
    publicJwk: publicHalf(privateJwk, facts),
    privateJwk: { ...ownMembers(privateJwk, alg), ...facts, use: "sig" } as JWK,
  };
}

/**
 * Reads a private key from a JWK. Without a `kid` it is named by its RFC 7638 thumbprint.
 * @throws TypeError when it is no private key of a supported algorithm, too weak, or not meant for signing
 */
export async function importSigningKey(jwk: JWK): Promise<SigningKey> {
  const alg = checkJwk(jwk, "sign");
  const key = await importKey(jwk, alg);
  signAtOnce({ alg, key }, ownMembers(jwk, alg));
  return { kid: await kidOf(jwk), alg, key };
}

/**
 * Reads a public key from a JWK. Without a `kid` it is named by its RFC 7638 thumbprint.
 * @throws TypeError when it is no public key of a supported algorithm, too weak, or not meant for verifying
 */
export async function importVerificationKey(jwk: JWK): Promise<VerificationKey> {
  const alg = checkJwk(jwk, "verify");
  return { kid: await kidOf(jwk), alg, key: await importKey(jwk, alg) };
}

async function kidOf(jwk: JWK): Promise<string> {
  const kid: unknown = jwk.kid ?? (await asTypeError(() => calculateJwkThumbprint(jwk)));
  if (!isKeyId(kid)) {
    throw new TypeError('JWK: "kid" must be 1 to 64 of the characters A-Z a-z 0-9 _ -');
  }
  return kid;
}

async function importKey(jwk: JWK, alg: SigningAlgorithm): Promise<CryptoKey> {
  const own = ownMembers(jwk, alg);
  const extractable = jwk.d === undefined;
  const key = await asTypeError(() => importJWK(own, alg, { extractable }));
  return key as CryptoKey;
}

async function asTypeError<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new TypeError("JWK: the key could not be read; check its members", { cause });
  }
}
