import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, type JWK } from "jose";
import { isKeyId } from "./strict-parse.ts";

/** The algorithms that tokens are signed with (RFC 7518 §3.1). Always a property of the key. */
export type SigningAlgorithm = "ES256";

/** What an algorithm asks of its keys and signatures. */
export interface SigningAlgorithmFacts {
  readonly kty: string;
  readonly crv: string;
  /** The one length of a signature, in bytes. */
  readonly signatureBytes: number;
}

/** Every supported algorithm (RFC 7518 §3.4). */
export const signingAlgorithms: Readonly<Record<SigningAlgorithm, SigningAlgorithmFacts>> = {
  ES256: { kty: "EC", crv: "P-256", signatureBytes: 64 },
};

/** A key that signs. */
export interface SigningKey {
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** Private, not extractable. */
  readonly key: CryptoKey;
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

/** Whether a token's `alg` is one that is supported; compared exactly. */
export function isSigningAlgorithm(alg: string): alg is SigningAlgorithm {
  return Object.hasOwn(signingAlgorithms, alg);
}

/** Makes a new pair of keys. */
export async function generateSigningKey(alg: SigningAlgorithm): Promise<GeneratedKey> {
  const pair = await generateKeyPair(alg, { extractable: true });
  const privateJwk = await exportJWK(pair.privateKey);
  const publicJwk = await exportJWK(pair.publicKey);
  const kid = await calculateJwkThumbprint(publicJwk);
  const facts = { kid, alg, use: "sig" };
  return {
    kid,
    alg,
    publicJwk: { ...publicJwk, ...facts },
    privateJwk: { ...privateJwk, ...facts },
  };
}

/**
 * Reads a private key from a JWK. Without a `kid` it is named by its RFC 7638 thumbprint.
 * @throws TypeError when it is no private key of a supported algorithm, or not meant for signing
 */
export async function importSigningKey(jwk: JWK): Promise<SigningKey> {
  const alg = checkJwk(jwk, "sign");
  if (typeof jwk.d !== "string") {
    throw new TypeError('JWK: a public key cannot sign; give the private key, with its member "d"');
  }
  return { kid: await kidOf(jwk), alg, key: await importKey(jwk, alg) };
}

/**
 * Reads a public key from a JWK. Without a `kid` it is named by its RFC 7638 thumbprint.
 * @throws TypeError when it is no public key of a supported algorithm, or not meant for verifying
 */
export async function importVerificationKey(jwk: JWK): Promise<VerificationKey> {
  const alg = checkJwk(jwk, "verify");
  if (jwk.d !== undefined) {
    throw new TypeError('JWK: a private key must not be published; remove the member "d"');
  }
  return { kid: await kidOf(jwk), alg, key: await importKey(jwk, alg) };
}

/** Tells the algorithm of a key, from the key itself, and that it is meant for `operation` (RFC 7517 §4). */
function checkJwk(jwk: JWK, operation: "sign" | "verify"): SigningAlgorithm {
  const alg = (Object.keys(signingAlgorithms) as SigningAlgorithm[]).find((name) => {
    const { kty, crv } = signingAlgorithms[name];
    return jwk.kty === kty && jwk.crv === crv;
  });
  if (alg === undefined) {
    throw new TypeError(
      'JWK: the type of key is not supported; use "kty": "EC" with "crv": "P-256"',
    );
  }
  if (jwk.alg !== undefined && jwk.alg !== alg) {
    throw new TypeError(`JWK: "alg" must be "${alg}" for this type of key, or absent`);
  }
  if (jwk.use !== undefined && jwk.use !== "sig") {
    throw new TypeError('JWK: "use" must be "sig", or absent');
  }
  const ops: unknown = jwk.key_ops;
  if (ops !== undefined && !(Array.isArray(ops) && ops.includes(operation))) {
    throw new TypeError(`JWK: "key_ops" must include "${operation}", or be absent`);
  }
  return alg;
}

async function kidOf(jwk: JWK): Promise<string> {
  const kid: unknown = jwk.kid ?? (await asTypeError(() => calculateJwkThumbprint(jwk)));
  if (!isKeyId(kid)) {
    throw new TypeError('JWK: "kid" must be 1 to 64 of the characters A-Z a-z 0-9 _ -');
  }
  return kid;
}

/** Imports the key's own members only, so that nothing else in the JWK has a say. */
async function importKey(jwk: JWK, alg: SigningAlgorithm): Promise<CryptoKey> {
  const { kty, crv, x, y, d } = jwk;
  const own = { kty, crv, x, y, ...(d === undefined ? {} : { d }) } as JWK;
  const key = await asTypeError(() => importJWK(own, alg, { extractable: d === undefined }));
  return key as CryptoKey;
}

async function asTypeError<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new TypeError("JWK: the key could not be read; check its members", { cause });
  }
}
