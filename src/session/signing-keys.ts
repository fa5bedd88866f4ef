import { CompactEncrypt, compactDecrypt, type JWK } from "jose";
import type { Clock } from "../clock.ts";
import { unavailable } from "../errors.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  type SigningAlgorithm,
  type SigningKey,
  type VerificationKey,
} from "../jwt/keys.ts";
import type { SecretRing } from "../secrets.ts";
import type { SessionStore, StoredSigningKey } from "./store.ts";

/** The keys that sign and verify access tokens, shared by all servers through the store. */
export interface SigningKeys {
  /** Reads the keys, and makes the first one where there is none. */
  open(): Promise<void>;
  /** The key to sign with now. Makes the next one in the background when it is due. */
  signer(): SigningKey;
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
}

/** What the signing keys are made of. All spans are milliseconds. */
export interface SigningKeysOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly clock: Clock;
  readonly algorithm: SigningAlgorithm;
  /** How long one key signs. */
  readonly rotation: number;
  /** How long a key verifies after the next one began to sign. */
  readonly retention: number;
}

/** How long a key is published before it signs, so that every verifier has it by then. */
const publishAhead = 10 * 60_000;
/** The least time between two reads for the sake of unknown keys, counted from the attempt. */
const readCooldown = 5_000;
/** How often a server that starts tries to add a key of its own. */
const openTries = 5;
/** How far `iat` may lie ahead of the store's clock. */
const issuedAheadMax = 60_000;

interface LoadedKey {
  readonly slot: number;
  readonly createdAt: number;
  readonly verification: VerificationKey;
  /** Undefined when it is encrypted under a secret this server was not given. */
  readonly signing: SigningKey | undefined;
}

/** Makes the signing keys of a store; nothing is read before `open`. */
export function createSigningKeys(options: SigningKeysOptions): SigningKeys {
  return new KeysInStore(options);
}

class KeysInStore implements SigningKeys {
  readonly #options: SigningKeysOptions;
  #keys: readonly LoadedKey[] = [];
  #byKid: ReadonlyMap<string, VerificationKey> = new Map();
  /** The store's clock less the monotonic one, so that this machine's wall clock decides nothing. */
  #storeAhead = 0;
  /** When the last read began that came back, and the last one that was tried; monotonic. */
  #lastRead = Number.NEGATIVE_INFINITY;
  #lastTried = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  #rotating = false;

  constructor(options: SigningKeysOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await this.#readOnce();
    // Another server may take the slot, under a secret that this one does not have.
    for (let tries = 0; tries < openTries; tries++) {
      if (currentSigner(this.#keys, this.#storeNow()) !== undefined) {
        return;
      }
      await this.#addNext();
    }
    this.signer();
  }

  signer(): SigningKey {
    const current = currentSigner(this.#keys, this.#storeNow());
    if (current?.signing === undefined) {
      throw unavailable("the signing key");
    }
    this.#rotateWhenDue(current);
    return current.signing;
  }

  find(kid: string, issuedAt: number): ReturnType<SigningKeys["find"]> {
    const known = this.#byKid.get(kid);
    if (known !== undefined || issuedAt * 1000 > this.#storeNow() + issuedAheadMax) {
      return known;
    }
    if (this.#readSince(issuedAt)) {
      return undefined;
    }
    const sinceRead = this.#options.clock.monotonic() - this.#lastTried;
    if (this.#reading === undefined && sinceRead < readCooldown) {
      throw unavailable("the signing key of the token", undefined, readCooldown - sinceRead);
    }
    return this.#findInStore(kid, issuedAt);
  }

  async #findInStore(kid: string, issuedAt: number): Promise<VerificationKey | undefined> {
    try {
      await this.#readOnce();
    } catch (cause) {
      throw unavailable("the signing keys", cause);
    }
    const found = this.#byKid.get(kid);
    if (found === undefined && !this.#readSince(issuedAt)) {
      throw unavailable("the signing key of the token", undefined, readCooldown);
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
    const { store, clock, secrets } = this.#options;
    const started = clock.monotonic();
    this.#lastTried = started;
    const { keys, now } = await store.signingKeys();
    this.#storeAhead = now - started;
    this.#keys = await Promise.all(keys.map((key) => load(key, secrets)));
    this.#byKid = new Map(this.#keys.map(({ verification }) => [verification.kid, verification]));
    this.#lastRead = started;
  }

  async #addNext(): Promise<void> {
    await addKey(this.#options, (this.#keys.at(-1)?.slot ?? -1) + 1);
    await this.#readOnce();
  }

  #rotateWhenDue(current: LoadedKey): void {
    const { store, rotation, retention } = this.#options;
    const age = this.#storeNow() - current.createdAt;
    if (this.#rotating || this.#keys.at(-1) !== current || age < rotation - publishAhead) {
      return;
    }
    this.#rotating = true;
    this.#addNext()
      .then(() =>
        // Never the present key: a server that slept through a rotation has just signed with it.
        store.removeSigningKeysBelow(
          Math.min(current.slot, oldestUseful(this.#keys, this.#storeNow(), retention)),
        ),
      )
      .catch(() => {
        // Signing goes on with the present key; the next call tries again.
      })
      .finally(() => {
        this.#rotating = false;
      });
  }

  // `iat` is cut to the second, so a read within that second may have come before the token.
  #readSince(issuedAt: number): boolean {
    return this.#lastRead + this.#storeAhead >= (issuedAt + 1) * 1000;
  }

  #storeNow(): number {
    return this.#options.clock.monotonic() + this.#storeAhead;
  }
}

/** The newest key that was published long enough; the first key signs at once. */
function currentSigner(keys: readonly LoadedKey[], now: number): LoadedKey | undefined {
  const usable = keys.filter((key) => key.signing !== undefined);
  return usable.findLast((key) => key.createdAt + publishAhead <= now) ?? usable[0];
}

/** The slot of the oldest key under which a token may still be alive. */
function oldestUseful(keys: readonly LoadedKey[], now: number, retention: number): number {
  const superseded = keys.findLast((key) => key.createdAt + publishAhead + retention <= now);
  return superseded?.slot ?? 0;
}

async function addKey(options: SigningKeysOptions, slot: number): Promise<void> {
  const { kid, alg, publicJwk, privateJwk } = await generateSigningKey(options.algorithm);
  const { id, encryption } = options.secrets.current;
  const encrypted = await new CompactEncrypt(new TextEncoder().encode(JSON.stringify(privateJwk)))
    .setProtectedHeader({ alg: "dir", enc: "A256GCM", kid: id })
    .encrypt(encryption);
  await options.store.addSigningKey({
    slot,
    kid,
    alg,
    publicJwk: JSON.stringify(publicJwk),
    privateJwk: encrypted,
  });
}

async function load(stored: StoredSigningKey, secrets: SecretRing): Promise<LoadedKey> {
  const { slot, createdAt } = stored;
  const verification = await importVerificationKey(JSON.parse(stored.publicJwk) as JWK);
  const header = stored.privateJwk.slice(0, stored.privateJwk.indexOf("."));
  const { kid: secretId } = JSON.parse(atob(header.replaceAll("-", "+").replaceAll("_", "/"))) as {
    kid: string;
  };
  const secret = secrets.get(secretId);
  if (secret === undefined) {
    return { slot, createdAt, verification, signing: undefined };
  }
  const { plaintext } = await compactDecrypt(stored.privateJwk, secret.encryption, {
    keyManagementAlgorithms: ["dir"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  const jwk = JSON.parse(new TextDecoder().decode(plaintext)) as JWK;
  return { slot, createdAt, verification, signing: await importSigningKey(jwk) };
}
