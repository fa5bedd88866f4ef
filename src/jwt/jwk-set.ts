import type { JsonWebKey } from "./jwk.ts";
import { importVerificationKey, type VerificationKey } from "./keys.ts";

/** Verification keys by their ids. */
export type KeySet = ReadonlyMap<string, VerificationKey>;

/** The maximum number of keys in a set, and therefore of keys that a service publishes. */
export const maxKeys = 64;

/**
 * Reads a JWK set (RFC 7517 §5). Skips keys that cannot be used, as the RFC requires: other types,
 * other uses, weak keys, and keys that anyone can sign with (shared secrets and published private
 * keys).
 *
 * @throws TypeError when the value is not a JWK set, has more than {@link maxKeys} keys, has no
 *   usable key, or has two keys with the same id
 */
export async function readKeySet(
  value: unknown,
  read: (jwk: JsonWebKey) => Promise<VerificationKey | undefined> = usableKey,
): Promise<KeySet> {
  const keys = keysOf(value);
  const names = keys.flatMap(({ kid }) => (kid === undefined ? [] : [kid]));
  if (new Set(names).size < names.length) {
    throw ambiguous();
  }
  const usable = (await Promise.all(keys.map((key) => read(key)))).filter(
    (key) => key !== undefined,
  );
  const byKid = new Map(usable.map((key) => [key.kid, key]));
  if (byKid.size < usable.length) {
    throw ambiguous();
  }
  if (byKid.size === 0) {
    throw new TypeError(
      "JWK set: no key can verify access tokens; add a public key for ES256, EdDSA or RS256",
    );
  }
  return byKid;
}

/**
 * Reads the JWK sets that one issuer publishes over time. A key that stays is the same object in
 * every set.
 */
export class KeySetReader {
  /** The keys of the last set by their JSON; undefined for a key that cannot be used. */
  #known: ReadonlyMap<string, VerificationKey | undefined> = new Map();

  /** See {@link readKeySet}. */
  async read(value: unknown): Promise<KeySet> {
    const read = new Map<string, VerificationKey | undefined>();
    const set = await readKeySet(value, async (jwk) => {
      const text = JSON.stringify(jwk);
      const key = this.#known.get(text) ?? (await usableKey(jwk));
      read.set(text, key);
      return key;
    });
    this.#known = read;
    return set;
  }
}

/**
 * Returns the members of a JWK set that are objects.
 * @throws TypeError when the value is not a JWK set or has too many keys
 */
export function keysOf(value: unknown): readonly JsonWebKey[] {
  const keys: unknown = isObject(value) ? value.keys : undefined;
  if (!Array.isArray(keys)) {
    throw new TypeError('JWK set: the value must be an object with an array "keys"');
  }
  if (keys.length > maxKeys) {
    throw new TypeError(
      `JWK set: a set must have at most ${maxKeys} keys, got ${keys.length} keys`,
    );
  }
  return keys.filter((key: unknown): key is JsonWebKey => isObject(key));
}

async function usableKey(jwk: JsonWebKey): Promise<VerificationKey | undefined> {
  try {
    return await importVerificationKey(jwk);
  } catch (error) {
    if (error instanceof TypeError) {
      return undefined;
    }
    throw error;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function ambiguous(): TypeError {
  return new TypeError('JWK set: two keys have the same "kid"; give each key a unique one');
}
