import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, type JWK } from "jose";
import { publicHalf } from "../../jwt/jwk.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  type SigningAlgorithm,
} from "../../jwt/keys.ts";
import type { SecretRing } from "../../base/secrets.ts";
import type { LoadedKey } from "./key-rules.ts";
import type { StoredSigningKey } from "../store.ts";

/** Makes a key for a slot, its private half encrypted under the current secret. */
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

/** Opens the keys of a store as they are read again and again: one that stays is the same object. */
export function createKeyOpener(
  secrets: SecretRing,
): (stored: readonly StoredSigningKey[]) => Promise<readonly LoadedKey[]> {
  let known: ReadonlyMap<string, LoadedKey> = new Map();
  return async (stored) => {
    const opened = await Promise.all(
      stored.map(async (key) => {
        const text = JSON.stringify(key);
        return [text, known.get(text) ?? (await openStoredKey(key, secrets))] as const;
      }),
    );
    known = new Map(opened);
    return opened.map(([, key]) => key);
  };
}

/** Opens a key as far as this server's secrets go. Rejects when it is not as it was stored. */
async function openStoredKey(stored: StoredSigningKey, secrets: SecretRing): Promise<LoadedKey> {
  const { slot, createdAt } = stored;
  const jwk = JSON.parse(stored.publicJwk) as JWK;
  const verification = await importVerificationKey(jwk);
  const secretId = String(decodeProtectedHeader(stored.privateJwk).kid);
  const publicJwk = publicHalf(jwk, verification);
  const facts = { slot, createdAt, verification, secretId, publicJwk };
  const secret = secrets.get(secretId);
  if (secret === undefined) {
    return { ...facts, signing: undefined };
  }
  const { plaintext } = await compactDecrypt(stored.privateJwk, secret.encryption, {
    keyManagementAlgorithms: ["dir"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  const privateJwk = JSON.parse(new TextDecoder().decode(plaintext)) as JWK;
  return { ...facts, signing: await importSigningKey(privateJwk) };
}
