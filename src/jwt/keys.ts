import {
  calculateJwkThumbprint,
  exportJWK,
  generateKeyPair,
  importJWK,
  importPKCS8,
  importSPKI,
  type JWK,
} from "jose";
import { type NodeCrypto, nodeCrypto } from "../base/crypto.ts";
import {
  checkJwk,
  ownMembers,
  publicHalf,
  type SigningAlgorithm,
  signingAlgorithmNames,
} from "./jwk.ts";
import { isKeyId } from "./strict-parse.ts";

const schemes: Readonly<
  Record<SigningAlgorithm, { readonly name: string; readonly hash?: string }>
> = {
  ES256: { name: "ECDSA", hash: "SHA-256" },
  RS256: { name: "RSASSA-PKCS1-v1_5" },
  EdDSA: { name: "Ed25519" },
};

/** A key that this process has, of either half of a pair. */
interface LocalKey {
  readonly alg: SigningAlgorithm;
  readonly key: CryptoKey;
}

/** Whether `signature`, in the form that tokens carry, is that key's over `data`. */
export async function isSignature(
  key: LocalKey,
  data: Uint8Array<ArrayBuffer>,
  signature: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  if (nodeCrypto === undefined) {
    return crypto.subtle.verify(schemes[key.alg], key.key, signature, data);
  }
  return nodeCrypto.verify(nodeHashes[key.alg], data, nodeKeyOf(key, nodeCrypto), signature);
}

/**
 * The signature of a private key over `data`, in the form that tokens carry. Rejects for a key that is
 * not for signing with its algorithm.
 */
export async function signWith(
  { alg, key }: LocalKey,
  data: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const nodeKey = nodeSigningKeys.get(key);
  if (nodeCrypto === undefined || nodeKey === undefined) {
    return new Uint8Array(await crypto.subtle.sign(schemes[alg], key, data));
  }
  const signature = nodeCrypto.sign(nodeHashes[alg], data, nodeKey);
  return alg === "ES256" ? es256FromDer(signature) : signature;
}

/**
 * Lets {@link signWith} answer for a key without another thread, where there is Node. From the JWK,
 * as Node makes no key of its own out of one that is not extractable.
 */
export function signAtOnce({ alg, key }: LocalKey, jwk: JWK): void {
  // A signature of RSA takes long: it is better made by another thread, while this one goes on.
  if (nodeCrypto !== undefined && alg !== "RS256") {
    try {
      // By itself, without the form of its signatures: what stands beside a key costs Node as much
      // time as half a signature.
      nodeSigningKeys.set(key, nodeCrypto.createPrivateKey({ key: { ...jwk }, format: "jwk" }));
    } catch {
      // Web Crypto has read the same key: what has the name of Node's module does not have all of it.
    }
  }
}

/**
 * An ES256 signature in the form that tokens carry: r and s of 32 bytes each (RFC 7518 §3.4). Most
 * KMS answer the DER form (RFC 3279 §2.2.3) instead, which is converted; anything else is returned as it is.
 */
export function es256FromDer(signature: Uint8Array): Uint8Array<ArrayBuffer> {
  const r = readInteger(signature, 2);
  const s = r === undefined ? undefined : readInteger(signature, r.end);
  const isDer =
    signature[0] === 0x30 && signature[1] === signature.length - 2 && s?.end === signature.length;
  if (r === undefined || s === undefined || !isDer) {
    return Uint8Array.from(signature);
  }
  const raw = new Uint8Array(64);
  raw.set(r.value, 32 - r.value.length);
  raw.set(s.value, 64 - s.value.length);
  return raw;
}

/** A positive INTEGER of at most 256 bits, without the zeros before it. */
function readInteger(
  der: Uint8Array,
  at: number,
): { readonly value: Uint8Array; readonly end: number } | undefined {
  const length = der[at + 1] ?? 0;
  const end = at + 2 + length;
  if (der[at] !== 0x02 || length === 0 || end > der.length) {
    return undefined;
  }
  const bytes = der.subarray(at + 2, end);
  const value = bytes.subarray(bytes.findIndex((byte) => byte !== 0));
  return value.length > 32 ? undefined : { value, end };
}

/** The hash that Node is told; Ed25519 has its own. */
const nodeHashes = { ES256: "sha256", RS256: "sha256", EdDSA: null } as const;

type NodeKey = Parameters<NodeCrypto["verify"]>[2];
const nodeKeys = new WeakMap<CryptoKey, NodeKey>();
const nodeSigningKeys = new WeakMap<CryptoKey, ReturnType<NodeCrypto["createPrivateKey"]>>();

/** @throws TypeError for a key that is not for verifying, which Node would verify with all the same */
function nodeKeyOf({ alg, key }: LocalKey, { KeyObject }: NodeCrypto): NodeKey {
  const known = nodeKeys.get(key);
  if (known !== undefined) {
    return known;
  }
  if (!key.usages.includes("verify")) {
    throw new TypeError("the key is not for verifying");
  }
  const object = KeyObject.from(key);
  // By itself where that will do: options beside a key cost Node several microseconds each time.
  const nodeKey = alg === "ES256" ? ({ key: object, dsaEncoding: "ieee-p1363" } as const) : object;
  nodeKeys.set(key, nodeKey);
  return nodeKey;
}

export {
  algorithmNamed,
  isSigningAlgorithm,
  type SigningAlgorithm,
  type SigningAlgorithmFacts,
  signingAlgorithms,
} from "./jwk.ts";

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

/** What a PEM text must be to hold a key for the operation (RFC 7468 §10, §13). */
const labels = { sign: "PRIVATE KEY", verify: "PUBLIC KEY" } as const;

/** @throws TypeError when the text is no PEM of the one form that is read, with how to make it */
export function assertPem(pem: string, operation: "sign" | "verify"): void {
  const label = labels[operation];
  if (pem.includes(`-----BEGIN ${label}-----`) && pem.includes(`-----END ${label}-----`)) {
    return;
  }
  const how = operation === "sign" ? "openssl pkcs8 -topk8 -nocrypt" : "openssl pkey -pubout";
  throw new TypeError(
    `PEM: the text holds no "BEGIN ${label}"; convert the key, for example with "${how}"`,
  );
}

/**
 * Reads a key from PEM (PKCS #8 to sign, SPKI to verify). Its algorithm follows from the key.
 * @throws TypeError when it is no key of a supported algorithm
 */
export async function readPem(pem: string, operation: "sign" | "verify"): Promise<JWK> {
  assertPem(pem, operation);
  const read = operation === "sign" ? importPKCS8 : importSPKI;
  const failures: unknown[] = [];
  for (const alg of signingAlgorithmNames) {
    try {
      return await exportJWK(await read(pem, alg, { extractable: true }));
    } catch (error) {
      failures.push(error);
    }
  }
  throw new TypeError(
    "PEM: the key is of no supported type; use one on curve P-256, Ed25519, or RSA",
    { cause: new AggregateError(failures) },
  );
}
