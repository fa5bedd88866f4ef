import type { SigningAlgorithm } from "../../jwt/jwk.ts";
import type { SigningKey, VerificationKey } from "../../jwt/keys.ts";

/** A key from the store, ready for use. */
export interface LoadedKey {
  readonly slot: number;
  /** By the store's clock. */
  readonly createdAt: number;
  readonly verification: VerificationKey;
  /** Undefined if it is encrypted under a secret that this server was not given. */
  readonly signing: SigningKey | undefined;
  /** The id of the secret under which it is encrypted. */
  readonly secretId: string;
  /** The public JWK, ready for a JWK set. */
  readonly publicJwk: Readonly<Record<string, unknown>>;
}

/** How keys follow each other. All durations are milliseconds. */
export interface RotationRules {
  /** How long one key signs. */
  readonly rotation: number;
  /** How long a token may live, including the clock skew that verifiers allow. */
  readonly retention: number;
}

/** The options with which a new key would be created now. */
interface CurrentOptions {
  readonly algorithm: SigningAlgorithm;
  readonly secretId: string;
}

/**
 * How long a key is published before it signs, so that every verifier has it by then. It is also how
 * long a server may take to notice that the next key has begun to sign.
 */
export const publishAhead: number = 10 * 60_000;
/** Minimum age of a key before it is replaced because of a changed secret or algorithm. */
const replaceAfter = 86_400_000;

/** Returns the key that signs now, and whether the next key must be created now. */
export function planKeys(
  keys: readonly LoadedKey[],
  now: number,
  rules: RotationRules & CurrentOptions,
): { readonly signer: LoadedKey | undefined; readonly isNextDue: boolean } {
  return { signer: currentSigner(keys, now), isNextDue: isNextDue(keys, now, rules) };
}

/** The newest key that has been published long enough. The very first key signs immediately. */
export function currentSigner(keys: readonly LoadedKey[], now: number): LoadedKey | undefined {
  const usable = keys.filter((key) => key.signing !== undefined);
  return usable.findLast((key) => key.createdAt + publishAhead <= now) ?? usable[0];
}

/**
 * Whether the next key must be created now.
 *
 * Only keys that this server can sign with count; keys of servers with other secrets do not. A key
 * with an outdated secret or algorithm is replaced early, but not immediately: during a roll-out
 * servers disagree about the current options, and would keep replacing each other's keys.
 */
function isNextDue(
  keys: readonly LoadedKey[],
  now: number,
  { rotation, secretId, algorithm }: RotationRules & CurrentOptions,
): boolean {
  const newest = keys.findLast((key) => key.signing !== undefined);
  if (newest === undefined) {
    return true;
  }
  const isCurrent = newest.secretId === secretId && newest.verification.alg === algorithm;
  const life = isCurrent ? rotation : Math.min(rotation, replaceAfter);
  return now - newest.createdAt >= life - publishAhead;
}

/**
 * The lowest slot to keep. No key below it can have signed a token that is still alive.
 *
 * A key is removed once two conditions hold. A later key has signed for so long that every server
 * has noticed. And the key is so old that a server without access to the later key has created one
 * of its own.
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
