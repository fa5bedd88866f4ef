import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, type JWK } from "jose";
import type { SecretRing } from "../../base/crypto.ts";
import { publicHalf, type SigningAlgorithm } from "../../jwt/jwk.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  type SigningKey,
  type VerificationKey,
} from "../../jwt/keys.ts";
import type { StoredSigningKey } from "../store.ts";
import type { KeyFacts } from "./rotation.ts";

/** Creates a key for a slot; its private half is encrypted under the current secret. */
export async function makeStoredKey(
  slot: number,
  algorithm: SigningAlgorithm,
  secrets: SecretRing,
): Promise<Omit<StoredSigningKey, "createdAt">> {
  const { kid, alg, publicJwk, privateJwk } = await generateSigningKey(algorithm);
  const { id, encryption } = secrets.current;
  const sealed = await new CompactEncrypt(new TextEncoder().encode(JSON.stringify(privateJwk)))
    .setProtectedHeader({ alg: "dir", enc: "A256GCM", kid: id })
    .encrypt(encryption);
  return { slot, kid, alg, publicJwk: JSON.stringify(publicJwk), privateJwk: sealed };
}

/**
 * Loads a stored key; without its secret, the public half only.
 * @throws Error if the stored key is damaged
 */
export async function loadKey(stored: StoredSigningKey, secrets: SecretRing): Promise<LoadedKey> {
  const { slot, createdAt } = stored;
  const jwk = JSON.parse(stored.publicJwk) as JWK;
  const verification = await importVerificationKey(jwk);
  const secretId = secretIdOf(stored);
  const publicJwk = publicHalf(jwk, verification);
  const { kid, alg } = verification;
  const facts = { slot, kid, alg, createdAt, secretId, verification, publicJwk };
  const secret = secrets.byId.get(secretId);
  if (secret === undefined) {
    return { ...facts, canSign: false, signing: undefined };
  }
  const { plaintext } = await compactDecrypt(stored.privateJwk, secret.encryption, {
    keyManagementAlgorithms: ["dir"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  const privateJwk = JSON.parse(new TextDecoder().decode(plaintext)) as JWK;
  return { ...facts, canSign: true, signing: await importSigningKey(privateJwk) };
}

/** The id of the secret under which a stored key is encrypted. */
export function secretIdOf({ privateJwk }: Pick<StoredSigningKey, "privateJwk">): string {
  return String(decodeProtectedHeader(privateJwk).kid);
}

/** A key from the store, ready for use. */
export interface LoadedKey extends KeyFacts {
  readonly verification: VerificationKey;
  /** Undefined if it is encrypted under a secret that this server was not given. */
  readonly signing: SigningKey | undefined;
  /** The public JWK, ready for a JWK set. */
  readonly publicJwk: Readonly<Record<string, unknown>>;
}
