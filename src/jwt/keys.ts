import {
  calculateJwkThumbprint,
  exportJWK,
  generateKeyPair,
  importJWK,
  importPKCS8,
  importSPKI,
  type JWK,
} from "jose";
import { asciiBytes, encodeBase64url, type NodeCrypto, nodeCrypto } from "../base/crypto.ts";
import type { JsonObject } from "../base/json.ts";
import { maxTokenLength } from "../base/wire.ts";
import { checkedPayload, type TokenClaims } from "./claims.ts";
import {
  assertKeyId,
  checkJwk,
  ownMembers,
  publicHalf,
  type SigningAlgorithm,
  signingAlgorithmNames,
} from "./jwk.ts";

/** A private or public key that this process holds. */
interface LocalKey {
  readonly alg: SigningAlgorithm;
  readonly key: CryptoKey;
}

/** A private key that signs. */
export interface SigningKey extends LocalKey {
  readonly kid: string;
  /** Not extractable. */
  readonly key: CryptoKey;
}

/** A key that signs elsewhere, such as in a KMS. */
export interface RemoteSigningKey {
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** Signs `data`; the result has the form of a JWS signature (RFC 7518 §3, RFC 8037 §3.1). */
  sign(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array>;
}

/** A public key, which can only verify. */
export interface VerificationKey extends LocalKey {
  readonly kid: string;
}

/** A new pair of keys, ready to be stored and published. */
export interface GeneratedKey {
  /** The RFC 7638 thumbprint, SHA-256. */
  readonly kid: string;
  readonly alg: SigningAlgorithm;
  /** Has `kid`, `alg` and `use`, as a JWK set needs them (RFC 7517 §5). */
  readonly publicJwk: JWK;
  readonly privateJwk: JWK;
}

/** Generates a pair of keys; RSA keys have 2048 bits. */
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
 * Reads a private key from a JWK. Without a `kid`, its RFC 7638 thumbprint becomes its id.
 * @throws TypeError when it is not a private key of a supported algorithm, is too weak, or is not
 *   meant for signing
 */
export async function importSigningKey(jwk: JWK): Promise<SigningKey> {
  const alg = checkJwk(jwk, "sign");
  const key = await importKey(jwk, alg);
  signOnThisThread({ alg, key }, ownMembers(jwk, alg));
  return { kid: await kidOf(jwk), alg, key };
}

/**
 * Reads a public key from a JWK. Without a `kid`, its RFC 7638 thumbprint becomes its id.
 * @throws TypeError when it is not a public key of a supported algorithm, is too weak, or is not
 *   meant for verifying
 */
export async function importVerificationKey(jwk: JWK): Promise<VerificationKey> {
  const alg = checkJwk(jwk, "verify");
  return { kid: await kidOf(jwk), alg, key: await importKey(jwk, alg) };
}

async function kidOf(jwk: JWK): Promise<string> {
  const kid: unknown = jwk.kid ?? (await asTypeError(() => calculateJwkThumbprint(jwk)));
  assertKeyId(kid);
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

/**
 * Reads a key from PEM: PKCS #8 to sign, SPKI to verify. The key determines its algorithm.
 * @throws TypeError when it is not a key of a supported algorithm
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
    "PEM: the type of the key is not supported; use a key on curve P-256, Ed25519, or RSA",
    { cause: new AggregateError(failures) },
  );
}

/** The label of a PEM text with a key for an operation (RFC 7468 §10, §13). */
const labels = { sign: "PRIVATE KEY", verify: "PUBLIC KEY" } as const;

/** @throws TypeError when the text is not PEM in the supported form; the message explains the conversion */
export function assertPem(pem: string, operation: "sign" | "verify"): void {
  const label = labels[operation];
  if (pem.includes(`-----BEGIN ${label}-----`) && pem.includes(`-----END ${label}-----`)) {
    return;
  }
  const how = operation === "sign" ? "openssl pkcs8 -topk8 -nocrypt" : "openssl pkey -pubout";
  throw new TypeError(
    `PEM: the text has no "BEGIN ${label}"; convert the key, for example with "${how}"`,
  );
}

// Signatures.

/**
 * Signs an access token (RFC 9068 §2).
 * @throws TypeError when the verifier would not accept it: a claim has the wrong type, the user's
 *   claims are not plain JSON, or the token is longer than {@link maxTokenLength}
 */
export async function signAccessToken(
  claims: TokenClaims,
  key: SigningKey | RemoteSigningKey,
): Promise<string> {
  const token = await signCompact(checkedPayload(claims), key);
  if (token.length > maxTokenLength) {
    throw new TypeError(
      `claims: the access token has ${token.length} characters, and the limit is ${maxTokenLength}; put fewer or shorter claims into it`,
    );
  }
  return token;
}

/** JWS Compact Serialization (RFC 7515 §5.1). A remote key signs where it is kept. */
async function signCompact(
  payload: JsonObject,
  key: SigningKey | RemoteSigningKey,
): Promise<string> {
  const signed = `${headerOf(key)}.${encodeBase64url(JSON.stringify(payload))}`;
  const data = asciiBytes(signed);
  const signature = await ("sign" in key ? key.sign(data) : signWith(key, data));
  return `${signed}.${encodeBase64url(signature)}`;
}

/** The header of every token that a key signs, encoded. */
function headerOf(key: SigningKey | RemoteSigningKey): string {
  const known = headers.get(key);
  if (known !== undefined) {
    return known;
  }
  const { alg, kid } = key;
  const header = encodeBase64url(JSON.stringify({ alg, kid, typ: "at+jwt" }));
  headers.set(key, header);
  return header;
}

const headers = new WeakMap<SigningKey | RemoteSigningKey, string>();

// Web Crypto hands each signature to another thread and back, which costs more than the signature
// itself; node:crypto, where it exists, computes on this thread. With a callback it would not: that frees
// this thread of 20 µs a signature, but a refresh then costs half as much CPU again in all.

/**
 * Verifies a signature over `data`; it has the form of a JWS signature. Synchronous where node:crypto
 * exists. Throws or rejects if the key cannot be used.
 */
export function isSignature(
  key: LocalKey,
  data: Uint8Array<ArrayBuffer>,
  signature: Uint8Array<ArrayBuffer>,
): boolean | Promise<boolean> {
  if (nodeCrypto === undefined) {
    return crypto.subtle.verify(webCryptoParameters[key.alg], key.key, signature, data);
  }
  return nodeCrypto.verify(nodeHashes[key.alg], data, nodeKeyOf(key, nodeCrypto), signature);
}

/**
 * Signs `data`; the result has the form of a JWS signature. Rejects if the key is not meant for
 * signing with its algorithm.
 */
export async function signWith(
  { alg, key }: LocalKey,
  data: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const nodeKey = nodeSigningKeys.get(key);
  if (nodeCrypto === undefined || nodeKey === undefined) {
    return new Uint8Array(await crypto.subtle.sign(webCryptoParameters[alg], key, data));
  }
  const signature = nodeCrypto.sign(nodeHashes[alg], data, nodeKey);
  return alg === "ES256" ? es256FromDer(signature) : signature;
}

/**
 * Converts an ES256 signature to the form of a JWS: r and s of 32 bytes each (RFC 7518 §3.4). Most
 * KMS return DER (RFC 3279 §2.2.3) instead. Returns any other input unchanged.
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

/** Reads a positive INTEGER of at most 256 bits, without its leading zeros. */
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

const webCryptoParameters: Readonly<
  Record<SigningAlgorithm, { readonly name: string; readonly hash?: string }>
> = {
  ES256: { name: "ECDSA", hash: "SHA-256" },
  RS256: { name: "RSASSA-PKCS1-v1_5" },
  EdDSA: { name: "Ed25519" },
};

/** The hash to pass to Node; null for Ed25519, which has a fixed one. */
const nodeHashes = { ES256: "sha256", RS256: "sha256", EdDSA: null } as const;

type NodeKey = Parameters<NodeCrypto["verify"]>[2];
const nodeKeys = new WeakMap<CryptoKey, NodeKey>();
const nodeSigningKeys = new WeakMap<CryptoKey, ReturnType<NodeCrypto["createPrivateKey"]>>();

/** @throws TypeError for a key that is not meant for verifying, because Node would use it anyway */
function nodeKeyOf({ alg, key }: LocalKey, { KeyObject }: NodeCrypto): NodeKey {
  const known = nodeKeys.get(key);
  if (known !== undefined) {
    return known;
  }
  if (!key.usages.includes("verify")) {
    throw new TypeError("the key is not meant for verifying; use a public key");
  }
  const object = KeyObject.from(key);
  // Options next to a key cost Node several microseconds on each use, so only ES256 has them.
  const nodeKey = alg === "ES256" ? ({ key: object, dsaEncoding: "ieee-p1363" } as const) : object;
  nodeKeys.set(key, nodeKey);
  return nodeKey;
}

/**
 * Makes {@link signWith} use node:crypto for a key. Node needs its JWK, because it cannot convert a
 * CryptoKey that is not extractable.
 */
function signOnThisThread({ alg, key }: LocalKey, jwk: JWK): void {
  // RSA signatures are slow, so Web Crypto computes them on another thread.
  if (nodeCrypto === undefined || alg === "RS256") {
    return;
  }
  try {
    // Without `dsaEncoding`: options next to a key cost Node as much as half a signature.
    nodeSigningKeys.set(key, nodeCrypto.createPrivateKey({ key: { ...jwk }, format: "jwk" }));
  } catch {
    // Some runtimes implement node:crypto only partly. Web Crypto has read the same key.
  }
}
