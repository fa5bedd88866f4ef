import type { JsonWebKey } from "./jwk.ts";
import { importVerificationKey, type VerificationKey } from "./keys.ts";

/** Verification keys by their ids. */
export type KeySet = ReadonlyMap<string, VerificationKey>;

/** The most keys a set may have. */
export const maxKeys = 64;

/**
 * Reads the JWK sets that one issuer publishes over time: a key that stays is the same object from
 * one to the next. Rules and errors are those of {@link readKeySet}.
 */
export function createKeySetReader(): (value: unknown) => Promise<KeySet> {
  let known: ReadonlyMap<string, VerificationKey | undefined> = new Map();
  return async (value) => {
    const read = new Map<string, VerificationKey | undefined>();
    const set = await readKeySet(value, async (jwk) => {
      const text = JSON.stringify(jwk);
      const key = known.get(text) ?? (await usableKey(jwk));
      read.set(text, key);
      return key;
    });
    known = read;
    return set;
  };
}

/**
 * Reads a JWK set (RFC 7517 §5). Keys that are of no use here are left out, as the RFC asks: other
 * types, other uses, weak ones; and those that everybody could sign with, secret or published.
 *
 * @throws TypeError when it is no JWK set, has more than 64 keys or none of use, or names two keys the same
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
    throw new TypeError("JWK set: it has no key that access tokens can be verified with");
  }
  return byKid;
}

/**
 * The members of a JWK set that are objects.
 * @throws TypeError when it is no JWK set, or too large
 */
export function keysOf(value: unknown): readonly JsonWebKey[] {
  const keys: unknown = isObject(value) ? value.keys : undefined;
  if (!Array.isArray(keys)) {
    throw new TypeError('JWK set: it must be an object with an array "keys"');
  }
  if (keys.length > maxKeys) {
    throw new TypeError(`JWK set: it has ${keys.length} keys, and ${maxKeys} are the most`);
  }
  return keys.filter(isObject) as unknown as readonly JsonWebKey[];
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
  return new TypeError('JWK set: two keys have the same "kid"');
}
