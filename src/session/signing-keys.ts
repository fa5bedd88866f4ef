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
/** How far `iat` may lie ahead of the store's clock. */
const issuedAheadMax = 60_000;

interface LoadedKey {
  readonly slot: number;
  readonly createdAt: number;
  readonly verification: VerificationKey;
  /** Undefined when it is encrypted under a secret this server was not given. */
  readonly signing: SigningKey | undefined;
}

export function createSigningKeys(options: SigningKeysOptions): SigningKeys {
  const { store, clock } = options;
  let keys: readonly LoadedKey[] = [];
  let byKid = new Map<string, VerificationKey>();
  // The store's clock, carried on by the monotonic one: this machine's wall clock decides nothing.
  let storeAhead = 0;
  let lastReadStarted = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;
  let rotating = false;

  const storeNow = (): number => clock.monotonic() + storeAhead;

  const read = async (): Promise<void> => {
    lastReadStarted = clock.monotonic();
    const { keys: stored, now } = await store.signingKeys();
    storeAhead = now - clock.monotonic();
    keys = await Promise.all(stored.map((key) => load(key, options.secrets)));
    byKid = new Map(keys.map((key) => [key.verification.kid, key.verification]));
  };

  const readOnce = (): Promise<void> => {
    reading ??= read().finally(() => {
      reading = undefined;
    });
    return reading;
  };

  // `iat` is cut to the second, so a read within that second may have come before the token.
  const readSince = (issuedAt: number): boolean =>
    lastReadStarted + storeAhead >= (issuedAt + 1) * 1000;

  const findInStore = async (
    kid: string,
    issuedAt: number,
  ): Promise<VerificationKey | undefined> => {
    try {
      await readOnce();
    } catch (cause) {
      throw unavailable("the signing keys", cause);
    }
    const found = byKid.get(kid);
    if (found === undefined && !readSince(issuedAt)) {
      throw unavailable("the signing key of the token", undefined, readCooldown);
    }
    return found;
  };

  const addNext = async (): Promise<void> => {
    await addKey(options, (keys.at(-1)?.slot ?? -1) + 1);
    await readOnce();
  };

  const rotate = (current: LoadedKey): void => {
    const newest = keys.at(-1);
    const due =
      newest === current && storeNow() - current.createdAt >= options.rotation - publishAhead;
    if (!due || rotating) {
      return;
    }
    rotating = true;
    addNext()
      .then(() => store.removeSigningKeysBelow(oldestUseful(keys, storeNow(), options.retention)))
      .catch(() => {
        // Signing goes on with the present key; the next call tries again.
      })
      .finally(() => {
        rotating = false;
      });
  };

  return {
    async open() {
      await readOnce();
      if (currentSigner(keys, storeNow()) === undefined) {
        await addNext();
      }
    },
    signer() {
      const current = currentSigner(keys, storeNow());
      if (current?.signing === undefined) {
        throw unavailable("the signing key");
      }
      rotate(current);
      return current.signing;
    },
    find(kid, issuedAt) {
      const known = byKid.get(kid);
      if (known !== undefined || issuedAt * 1000 > storeNow() + issuedAheadMax) {
        return known;
      }
      if (readSince(issuedAt)) {
        return undefined;
      }
      const sinceRead = clock.monotonic() - lastReadStarted;
      if (reading === undefined && sinceRead < readCooldown) {
        throw unavailable("the signing key of the token", undefined, readCooldown - sinceRead);
      }
      return findInStore(kid, issuedAt);
    },
  };
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
