import type { SigningKey, VerificationKey } from "../../jwt/keys.ts";

/** A key of the store, ready for use. */
export interface LoadedKey {
  readonly slot: number;
  /** By the store's clock. */
  readonly createdAt: number;
  readonly verification: VerificationKey;
  /** Undefined when it is encrypted under a secret this server was not given. */
  readonly signing: SigningKey | undefined;
  /** The id of the secret it is encrypted under. */
  readonly secretId: string;
  /** The public JWK, ready for a JWK set. */
  readonly publicJwk: Readonly<Record<string, unknown>>;
}

/** How keys follow each other. All spans are milliseconds. */
export interface RotationRules {
  /** How long one key signs. */
  readonly rotation: number;
  /** How long a token may live, with the clock skew that verifiers grant. */
  readonly retention: number;
}

/**
 * How long a key is published before it signs, so that every verifier has it by then; and, after the
 * next one began to sign, how long a server may not have heard of that.
 */
export const publishAhead: number = 10 * 60_000;
/** How old a key is at least before it makes way for one of the right secret or algorithm. */
const replaceAfter = 86_400_000;

/** The key that signs: the newest that was published long enough; the first of all signs at once. */
export function currentSigner(keys: readonly LoadedKey[], now: number): LoadedKey | undefined {
  const usable = keys.filter((key) => key.signing !== undefined);
  return usable.findLast((key) => key.createdAt + publishAhead <= now) ?? usable[0];
}

/**
 * Whether the next key must be made now.
 *
 * Only keys that this server can sign with count: one that a server with another secret made says
 * nothing about ours. A key under a secret or of an algorithm that is not the current one makes way
 * early, but not at once: while a change of options rolls out, servers disagree about what is
 * current, and would outbid each other.
 */
export function isRotationDue(
  keys: readonly LoadedKey[],
  now: number,
  rules: RotationRules & { isCurrent(key: LoadedKey): boolean },
): boolean {
  const newest = keys.findLast((key) => key.signing !== undefined);
  if (newest === undefined) {
    return true;
  }
  const life = rules.isCurrent(newest) ? rules.rotation : Math.min(rules.rotation, replaceAfter);
  return now - newest.createdAt >= life - publishAhead;
}

/**
 * The least slot that is kept: below it no key can have signed a token that is still alive.
 *
 * A key goes when a later one has signed for so long that even the last server has heard of it, and
 * when it is so old that a server which cannot read the later one has made its own.
 */
export function leastUsefulSlot(
  keys: readonly LoadedKey[],
  now: number,
  { rotation, retention }: RotationRules,
): number {
  const deadAfter = publishAhead + publishAhead + retention;
  const superseding = keys.findLast((key) => key.createdAt + deadAfter <= now)?.slot ?? 0;
  const kept = keys.find(
    (key) => key.slot >= superseding || key.createdAt + rotation + deadAfter > now,
  );
  return kept?.slot ?? 0;
}
