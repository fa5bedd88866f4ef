// The rules of rotation: pure functions of the stored keys and the store's time.

/** The facts about a stored key that the rules depend on. */
export interface KeyFacts {
  readonly slot: number;
  readonly kid: string;
  readonly alg: string;
  /** By the store's clock. */
  readonly createdAt: number;
  /** The id of the secret under which the private half is encrypted. */
  readonly secretId: string;
  /** Whether this server has that secret. */
  readonly canSign: boolean;
}

/** How keys follow each other. All durations are milliseconds. */
export interface RotationRules {
  /** How long one key signs. */
  readonly rotation: number;
  /** How long a token may live, including the clock skew that verifiers allow. */
  readonly retention: number;
}

/** The options with which a new key would be created now. */
export interface WantedKey {
  readonly rotation: number;
  readonly algorithm: string;
  readonly secretId: string;
}

/**
 * How long a key is published before it signs, so that every verifier has it by then. It is also how
 * long a server may take to notice that the next key has begun to sign.
 */
export const publishAhead: number = 10 * 60_000;

/** Minimum age of a key before it is replaced because of a changed secret or algorithm. */
const replaceAfter = 86_400_000;

/** The newest key that has been published long enough. The very first key signs immediately. */
export function currentSigner<K extends KeyFacts>(keys: readonly K[], now: number): K | undefined {
  const usable = keys.filter((key) => key.canSign);
  return usable.findLast((key) => key.createdAt + publishAhead <= now) ?? usable[0];
}

/**
 * Whether the next key must be created now.
 *
 * Only keys that this server can sign with count; keys of servers with other secrets do not. A key
 * with an outdated secret or algorithm is replaced early, but not immediately: during a roll-out
 * servers disagree about the current options, and would keep replacing each other's keys.
 */
export function isNextDue(
  keys: readonly KeyFacts[],
  now: number,
  { rotation, secretId, algorithm }: WantedKey,
): boolean {
  const newest = keys.findLast((key) => key.canSign);
  if (newest === undefined) {
    return true;
  }
  const isCurrent = newest.secretId === secretId && newest.alg === algorithm;
  const life = isCurrent ? rotation : Math.min(rotation, replaceAfter);
  return now - newest.createdAt >= life - publishAhead;
}

/** A later key supersedes the earlier ones this long after it was created. */
function supersedesAfter({ retention }: RotationRules): number {
  return publishAhead + publishAhead + retention;
}

/**
 * The lowest slot to keep. No key below it can have signed a token that is still alive.
 *
 * A key is removed once two conditions hold. A later key has signed for so long that every server
 * has noticed. And the key is so old that a server without access to the later key has created one
 * of its own.
 */
export function leastUsefulSlot(
  keys: readonly KeyFacts[],
  now: number,
  rules: RotationRules,
): number {
  const deadAfter = supersedesAfter(rules);
  const superseding = keys.findLast((key) => key.createdAt + deadAfter <= now)?.slot ?? 0;
  const kept = keys.find(
    (key) => key.slot >= superseding || key.createdAt + rules.rotation + deadAfter > now,
  );
  return kept?.slot ?? 0;
}

/** The role of a key now, and until when tokens under it are accepted. */
export interface KeyState<K extends KeyFacts> {
  readonly key: K;
  /**
   * - `next`: it is published and will sign
   * - `signing`: it signs now
   * - `former`: it signs no more; tokens that it has signed are accepted
   */
  readonly state: "next" | "signing" | "former";
  /** When it begins to sign, unless it has to replace the signing key before. Only for `next`. */
  readonly signsFrom?: number;
  /**
   * When the key is removed, after which no token under it is accepted; absent while no later key has
   * been created.
   */
  readonly trustedUntil?: number;
}

/** The state of every key, by slot. */
export function keyStates<K extends KeyFacts>(
  keys: readonly K[],
  now: number,
  rules: RotationRules,
): readonly KeyState<K>[] {
  const signer = currentSigner(keys, now);
  const deadAfter = supersedesAfter(rules);
  return keys.map((key, i) => {
    const later = keys[i + 1];
    const until =
      later === undefined
        ? {}
        : { trustedUntil: Math.max(later.createdAt, key.createdAt + rules.rotation) + deadAfter };
    if (key === signer) {
      return { key, state: "signing", ...until };
    }
    return signer !== undefined && key.slot > signer.slot && key.canSign
      ? { key, state: "next", signsFrom: key.createdAt + publishAhead, ...until }
      : { key, state: "former", ...until };
  });
}
