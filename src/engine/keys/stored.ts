import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, type JWK } from "jose";
import type { Clock } from "../../base/clock.ts";
import type { SecretRing } from "../../base/crypto.ts";
import { unavailable } from "../../base/errors.ts";
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
import { reach } from "../reach.ts";
import type { SessionStore, StoredSigningKey } from "../store.ts";
import {
  currentSigner,
  isRotationDue,
  type LoadedKey,
  leastUsefulSlot,
  publishAhead,
  type RotationRules,
} from "./rules.ts";

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

/** The keys that sign and verify access tokens. */
export interface SigningKeys {
  /** Makes them ready; rejects with what stood in the way, and may be tried again. */
  open(): Promise<void>;
  /**
   * The key to sign with now. Makes the next one in the background when it is due.
   * @throws SessionError `unavailable` when this cannot be told
   */
  signer(): Promise<SigningKey | RemoteSigningKey>;
  /**
   * The key of a token. An unknown key is looked for in the store once, and only told to be unknown
   * when the keys were read after the token was issued.
   *
   * @param issuedAt `iat` of the token, seconds, not proven
   * @throws SessionError `unavailable` when the keys could not be read since, or were just read
   */
  find(
    kid: string,
    issuedAt: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
  /** The public keys, those that will sign and those that have signed included. At most a minute old. */
  published(): Promise<readonly JWK[]>;
  /** Removes the keys that no living token was signed with; rejects when the store cannot. */
  removeDead(): Promise<void>;
  /** Waits for what goes on in the background. */
  settled(): Promise<void>;
}

/** What the signing keys are made of. All spans are milliseconds. */
export interface SigningKeysOptions extends RotationRules {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly clock: Clock;
  readonly algorithm: SigningAlgorithm;
  /** Told of keys under unknown secrets, each time they are read. */
  readonly emit: SessionEventListener;
}

/** The least time between two reads for the sake of unknown keys, counted from the attempt. */
const readCooldown = 5_000;
/** How old the keys are at most that `published` returns; with an outage, older. */
const publishedMaxAge = 60_000;
/** How old the keys may be before signing reads them again, in the background. */
const signingMaxAge = publishAhead / 2;
/** How far `iat` may lie ahead of the store's clock. */
const issuedAheadMax = 60_000;
/** How often opening tries to find or make a key that this server can sign with. */
const openAttempts = 3;

/** Makes the signing keys of a store, shared by all servers; nothing is read before `open`. */
export function createSigningKeys(options: SigningKeysOptions): SigningKeys {
  return new KeysInStore(options);
}

class KeysInStore implements SigningKeys {
  readonly #options: SigningKeysOptions;
  readonly #openKeys: ReturnType<typeof createKeyOpener>;
  #keys: readonly LoadedKey[] = [];
  #byKid: ReadonlyMap<string, VerificationKey> = new Map();
  /** The store's clock less the monotonic one, so that this machine's wall clock decides nothing. */
  #storeAhead = 0;
  /** Monotonic: when the last read was begun, and when the last one that succeeded was. */
  #attemptedAt = Number.NEGATIVE_INFINITY;
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  #rotating: Promise<void> | undefined;
  /** Monotonic: before then no rotation is tried, as one has just failed. */
  #rotateFrom = Number.NEGATIVE_INFINITY;

  constructor(options: SigningKeysOptions) {
    this.#options = options;
    this.#openKeys = createKeyOpener(options.secrets);
  }

  async open(): Promise<void> {
    await this.#readOnce();
    // More than once, should a server with another secret be first to take the slot.
    for (let i = 0; i < openAttempts && this.#current() === undefined; i++) {
      await this.#addNext();
    }
    await this.signer();
  }

  async signer(): Promise<SigningKey> {
    const age = this.#options.clock.monotonic() - this.#readAt;
    // A server that signs seldom must not sign with a key that the others have forgotten since.
    if (age >= publishAhead) {
      await reach(this.#readOnce());
    } else if (age >= signingMaxAge && this.#untilNextRead() === 0) {
      this.#readOnce().catch(() => {
        // Tried again after the cool-down, and waited for before it is too late.
      });
    }
    if (this.#keys.length === 0) {
      // The store has lost all of them; what they signed is refused from now on.
      await reach(this.open());
    }
    this.#rotateWhenDue();
    const signing = this.#current()?.signing;
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
    if (this.#readSince(issuedAt)) {
      return undefined;
    }
    if (this.#reading === undefined && this.#untilNextRead() > 0) {
      throw unavailable(
        "the key that signed the access token is not known yet; try again",
        undefined,
        this.#untilNextRead(),
      );
    }
    return this.#findInStore(kid, issuedAt);
  }

  async published(): Promise<readonly JWK[]> {
    const { clock } = this.#options;
    if (clock.monotonic() - this.#attemptedAt >= publishedMaxAge) {
      // In an outage the keys that are known are better than none: what they signed is good.
      await this.#readOnce().catch(() => {});
    }
    return this.#keys.map(({ publicJwk }) => publicJwk as JWK);
  }

  async removeDead(): Promise<void> {
    // By what is known: a server that has not heard of the newest keys keeps too many, not too few.
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
    await reach(this.#readOnce());
    const found = this.#byKid.get(kid);
    if (found === undefined && !this.#readSince(issuedAt)) {
      throw unavailable(
        "the key that signed the access token is not known yet; try again",
        undefined,
        this.#untilNextRead(),
      );
    }
    return found;
  }

  #readOnce(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<void> {
    const { store, clock } = this.#options;
    const begun = clock.monotonic();
    this.#attemptedAt = begun;
    const { keys, now } = await store.signingKeys();
    const storeAhead = now - begun;
    this.#keys = await this.#openKeys(keys);
    this.#byKid = new Map(this.#keys.map(({ verification }) => [verification.kid, verification]));
    this.#storeAhead = storeAhead;
    this.#readAt = begun;
    this.#alarm();
  }

  #alarm(): void {
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
    // Whoever came first: the slot has one key now.
    await this.#reading?.catch(() => {});
    await this.#readOnce();
  }

  #rotateWhenDue(): void {
    const { rotation, retention, clock } = this.#options;
    const rules = { rotation, retention, isCurrent: (key: LoadedKey) => this.#isCurrent(key) };
    const mayTry = this.#rotating === undefined && clock.monotonic() >= this.#rotateFrom;
    if (!mayTry || !isRotationDue(this.#keys, this.#storeNow(), rules)) {
      return;
    }
    this.#rotating = this.#rotate()
      .catch(() => {
        // Signing goes on with the present key, and a later call tries again.
        this.#rotateFrom = clock.monotonic() + readCooldown;
      })
      .finally(() => {
        this.#rotating = undefined;
      });
  }

  async #rotate(): Promise<void> {
    await this.#addNext();
    await this.removeDead();
  }

  #isCurrent({ secretId, verification }: LoadedKey): boolean {
    const { secrets, algorithm } = this.#options;
    return secretId === secrets.current.id && verification.alg === algorithm;
  }

  #current(): LoadedKey | undefined {
    return currentSigner(this.#keys, this.#storeNow());
  }

  // `iat` is cut to the second, so a read within that second may have come before the token.
  #readSince(issuedAt: number): boolean {
    return this.#readAt + this.#storeAhead >= (issuedAt + 1) * 1000;
  }

  /** Milliseconds. */
  #untilNextRead(): number {
    return Math.max(0, this.#attemptedAt + readCooldown - this.#options.clock.monotonic());
  }

  #storeNow(): number {
    return this.#options.clock.monotonic() + this.#storeAhead;
  }
}
