import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, type JWK } from "jose";
import type { Clock } from "../../base/clock.ts";
import type { SecretRing } from "../../base/crypto.ts";
import { type SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { publicHalf, type SigningAlgorithm } from "../../jwt/jwk.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  type RemoteSigningKey,
  type SigningKey,
  type VerificationKey,
} from "../../jwt/keys.ts";
import { storeFailed } from "../reach.ts";
import type { SessionStore, StoredSigningKey } from "../store.ts";

/** The keys that sign and verify access tokens. */
export interface SigningKeys {
  /** Loads the keys. After a rejection it may be called again. */
  open(): Promise<void>;
  /**
   * The key to sign with now. If the next key is due, creates it in the background.
   * @throws SessionError `unavailable` if there is no usable key at the moment
   */
  signer(): Promise<SigningKey | RemoteSigningKey>;
  /**
   * The key that verifies a token. An unknown key is looked up in the store. It is reported as unknown
   * if the keys were read after the token was issued, or within the cool-down of 5 s. A key that signs
   * has been published for longer, so a token under an unknown one is not an outage.
   *
   * @param issuedAt `iat` of the token in seconds, not verified yet
   * @throws SessionError `unavailable` if the keys could not be read
   */
  find(
    kid: string,
    issuedAt: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
  /**
   * The public keys, including those that will sign next and those that no longer sign. At most a
   * minute old, except in an outage.
   */
  published(): Promise<readonly JWK[]>;
  /** Removes keys that no living token was signed with. Rejects if the store cannot be reached. */
  removeDead(): Promise<void>;
  /** Waits for background work. */
  settled(): Promise<void>;
}

/** How keys follow each other. All durations are milliseconds. */
interface RotationRules {
  /** How long one key signs. */
  readonly rotation: number;
  /** How long a token may live, including the clock skew that verifiers allow. */
  readonly retention: number;
}

/** All durations are milliseconds. */
interface StoredSigningKeysOptions extends RotationRules {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly clock: Clock;
  readonly algorithm: SigningAlgorithm;
  /** Receives `unknownSecret` for keys under unknown secrets, each time they are read. */
  readonly emit: SessionEventListener;
}

/**
 * How long a key is published before it signs, so that every verifier has it by then. It is also how
 * long a server may take to notice that the next key has begun to sign.
 */
export const publishAhead: number = 10 * 60_000;
/** Minimum time between two reads because of unknown keys, measured from the start of a read. */
const readCooldown = 5_000;
/** Maximum age of the keys that `published` returns; older in an outage. */
const publishedMaxAge = 60_000;
/** Age at which signing reads the keys again, in the background. */
const signingMaxAge = publishAhead / 2;
/** How far `iat` may lie ahead of the store's clock. */
const issuedAheadMax = 60_000;
/** How often `open` tries to find or create a key that this server can sign with. */
const openAttempts = 3;

/** Generated keys in a store, shared and rotated by all servers. */
export class StoredSigningKeys implements SigningKeys {
  readonly #options: StoredSigningKeysOptions;
  #keys: readonly LoadedKey[] = [];
  #byKid: ReadonlyMap<string, VerificationKey> = new Map();
  /** Loaded keys by their stored form, so that a key that stays is the same object. */
  #loaded: ReadonlyMap<string, LoadedKey> = new Map();
  /** Store time minus monotonic time; this machine's wall clock plays no part. */
  #storeAhead = 0;
  /** Monotonic start of the last read. */
  #attemptedAt = Number.NEGATIVE_INFINITY;
  /** Monotonic start of the last successful read. */
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  #rotating: Promise<void> | undefined;
  /** Monotonic. No rotation is tried before this time, because one has just failed. */
  #rotateFrom = Number.NEGATIVE_INFINITY;

  constructor(options: StoredSigningKeysOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await this.#readOnce();
    // Repeated, because a server with another secret may be the first to take the slot.
    for (let i = 0; i < openAttempts && this.#current() === undefined; i++) {
      await this.#addNext();
    }
    await this.signer();
  }

  async signer(): Promise<SigningKey> {
    const { clock, rotation, algorithm, secrets } = this.#options;

    // 1. Read the keys again if they are old. A server that rarely signs must not use a key that the
    // others have removed since.
    let now = clock.monotonic();
    const age = now - this.#readAt;
    if (age >= publishAhead) {
      await this.#readOnce(now).catch(storeFailed);
      now = clock.monotonic();
    } else if (age >= signingMaxAge && now >= this.#attemptedAt + readCooldown) {
      this.#readOnce().catch(() => {
        // Tried again after the cool-down; a call waits for it before the keys are too old.
      });
    }
    if (this.#keys.length === 0) {
      // The store has lost all keys; tokens that they signed are refused from now on.
      await this.open().catch(storeFailed);
      now = clock.monotonic();
    }

    // 2. Create the next key in the background if it is due, and choose the one that signs now.
    const storeNow = now + this.#storeAhead;
    const mayRotate = this.#rotating === undefined && now >= this.#rotateFrom;
    const wanted = { rotation, algorithm, secretId: secrets.current.id };
    if (mayRotate && isNextDue(this.#keys, storeNow, wanted)) {
      this.#rotateInBackground();
    }
    const signing = currentSigner(this.#keys, storeNow)?.signing;
    if (signing === undefined) {
      throw unavailable("there is no usable signing key yet; try again");
    }
    return signing;
  }

  find(kid: string, issuedAt: number): ReturnType<SigningKeys["find"]> {
    const known = this.#byKid.get(kid);
    if (known !== undefined || issuedAt * 1000 > this.#storeNow() + issuedAheadMax) {
      return known;
    }
    if (this.#hasCurrent(issuedAt)) {
      return undefined;
    }
    if (this.#reading === undefined && this.#untilNextRead() > 0) {
      throw this.#unread();
    }
    return this.#findInStore(kid, issuedAt);
  }

  async published(): Promise<readonly JWK[]> {
    const { clock } = this.#options;
    if (clock.monotonic() - this.#attemptedAt >= publishedMaxAge) {
      // In an outage the known keys are better than none: tokens that they signed are valid.
      await this.#readOnce().catch(() => {});
    }
    return this.#keys.map(({ publicJwk }) => publicJwk as JWK);
  }

  async removeDead(): Promise<void> {
    // Uses the known keys: a server that lacks the newest ones removes too few, never too many.
    const least = leastUsefulSlot(this.#keys, this.#storeNow(), this.#options);
    if (this.#keys.some(({ slot }) => slot < least)) {
      await this.#options.store.removeSigningKeysBelow(least);
      await this.#readOnce();
    }
  }

  async settled(): Promise<void> {
    await this.#reading?.catch(() => {});
    await this.#rotating;
  }

  async #findInStore(kid: string, issuedAt: number): Promise<VerificationKey | undefined> {
    await this.#readOnce().catch(storeFailed);
    const found = this.#byKid.get(kid);
    // The read may have begun long ago, in a store that stalled.
    if (found === undefined && !this.#hasCurrent(issuedAt)) {
      throw this.#unread();
    }
    return found;
  }

  /** @param begun monotonic time, as of now */
  #readOnce(begun: number = this.#options.clock.monotonic()): Promise<void> {
    this.#reading ??= this.#read(begun).finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(begun: number): Promise<void> {
    const { store } = this.#options;
    this.#attemptedAt = begun;
    const { keys, now } = await store.signingKeys();
    const storeAhead = now - begun;
    this.#keys = await this.#load(keys);
    this.#byKid = new Map(this.#keys.map(({ verification }) => [verification.kid, verification]));
    this.#storeAhead = storeAhead;
    this.#readAt = begun;
    this.#reportUnknownSecrets();
  }

  async #load(stored: readonly StoredSigningKey[]): Promise<readonly LoadedKey[]> {
    const loaded = await Promise.all(
      stored.map(async (key): Promise<[string, LoadedKey]> => {
        const text = JSON.stringify(key);
        return [text, this.#loaded.get(text) ?? (await loadKey(key, this.#options.secrets))];
      }),
    );
    this.#loaded = new Map(loaded);
    return loaded.map(([, key]) => key);
  }

  #reportUnknownSecrets(): void {
    for (const { secretId, signing } of this.#keys) {
      if (signing === undefined) {
        this.#options.emit({ type: "unknownSecret", secretId });
      }
    }
  }

  async #addNext(): Promise<void> {
    const { store, algorithm, secrets } = this.#options;
    const slot = (this.#keys.at(-1)?.slot ?? -1) + 1;
    await store.addSigningKey(await makeStoredKey(slot, algorithm, secrets));
    // Whether this server or another one was first, the slot has a key now.
    await this.#reading?.catch(() => {});
    await this.#readOnce();
  }

  #rotateInBackground(): void {
    this.#rotating = this.#rotate()
      .catch(() => {
        // Signing continues with the present key, and a later call tries again.
        this.#rotateFrom = this.#options.clock.monotonic() + readCooldown;
      })
      .finally(() => {
        this.#rotating = undefined;
      });
  }

  async #rotate(): Promise<void> {
    await this.#addNext();
    await this.removeDead();
  }

  #current(): LoadedKey | undefined {
    return currentSigner(this.#keys, this.#storeNow());
  }

  /** Whether the known keys contain any that may have signed a token of this time. */
  #hasCurrent(issuedAt: number): boolean {
    const isRecent = this.#options.clock.monotonic() - this.#readAt < readCooldown;
    // `iat` is truncated to the second, so a read within that second may precede the token.
    return isRecent || this.#readAt + this.#storeAhead >= (issuedAt + 1) * 1000;
  }

  #unread(): SessionError {
    return unavailable(
      "the signing keys could not be read; try again",
      undefined,
      Math.max(1_000, this.#untilNextRead()),
    );
  }

  /** Milliseconds. */
  #untilNextRead(): number {
    return Math.max(0, this.#attemptedAt + readCooldown - this.#options.clock.monotonic());
  }

  #storeNow(): number {
    return this.#options.clock.monotonic() + this.#storeAhead;
  }
}

/** Creates a key for a slot; its private half is encrypted under the current secret. */
async function makeStoredKey(
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
async function loadKey(stored: StoredSigningKey, secrets: SecretRing): Promise<LoadedKey> {
  const { slot, createdAt } = stored;
  const jwk = JSON.parse(stored.publicJwk) as JWK;
  const verification = await importVerificationKey(jwk);
  const secretId = String(decodeProtectedHeader(stored.privateJwk).kid);
  const publicJwk = publicHalf(jwk, verification);
  const facts = { slot, createdAt, verification, secretId, publicJwk };
  const secret = secrets.byId.get(secretId);
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

// The rules of rotation.

/** A key from the store, ready for use. */
interface LoadedKey {
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

/** The options with which a new key would be created now. */
interface WantedKey {
  readonly rotation: number;
  readonly algorithm: SigningAlgorithm;
  readonly secretId: string;
}

/** Minimum age of a key before it is replaced because of a changed secret or algorithm. */
const replaceAfter = 86_400_000;

/** The newest key that has been published long enough. The very first key signs immediately. */
function currentSigner(keys: readonly LoadedKey[], now: number): LoadedKey | undefined {
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
  { rotation, secretId, algorithm }: WantedKey,
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
function leastUsefulSlot(
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
