import type { JWK } from "jose";
import { type NodeCrypto, nodeCrypto } from "../base/secrets.ts";
import type { SigningAlgorithm } from "./algorithms.ts";

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
