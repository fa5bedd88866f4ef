import type { JWK } from "jose";
import type { Clock } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { noTelemetry, type SessionTelemetry } from "../../base/telemetry.ts";
import type { SigningAlgorithm } from "../../jwt/jwk.ts";
import { maxKeys } from "../../jwt/jwk-set.ts";
import type { RemoteSigningKey, SigningKey, VerificationKey } from "../../jwt/keys.ts";
import { storeFailed } from "../reach.ts";
import type { SessionStore, StoredSigningKey } from "../store.ts";
import {
  currentSigner,
  isNextDue,
  type KeyFacts,
  type KeyState,
  keyStates,
  leastUsefulSlot,
  publishAhead,
  type RotationRules,
} from "./rotation.ts";
import { type LoadedKey, loadKey, makeStoredKey, secretIdOf } from "./sealed.ts";
import type { TrustedSecrets } from "./secrets.ts";

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
  /**
   * Reads the keys again after they, or the secrets, changed. Keys under dead secrets are no longer used.
   * @param rotateAt creates the next key in the background unless the newest one is younger than this,
   * by the store's clock
   */
  reload(rotateAt?: number): Promise<void>;
  /** The state of all keys that are accepted. */
  states(): Promise<readonly KeyState<KeyFacts>[]>;
  /**
   * Creates the next key now, and announces it to all servers.
   * @returns the next key. If one is published already and does not sign yet, that one
   * @throws TypeError if the keys are not generated, or there are too many
   */
  rotate(): Promise<KeyState<KeyFacts>>;
  /**
   * Retires a key everywhere: tokens that it has signed are refused.
   * @param now whether to do so even if no other key is known to all servers yet
   * @returns whether there was such a key
   * @throws TypeError if the keys are not generated, or no other key is known to all servers yet
   */
  retire(kid: string, now: boolean): Promise<boolean>;
  /** Waits for background work. */
  settled(): Promise<void>;
}

/** All durations are milliseconds. */
interface StoredSigningKeysOptions extends RotationRules {
  readonly store: SessionStore;
  readonly secrets: TrustedSecrets;
  readonly clock: Clock;
  readonly algorithm: SigningAlgorithm;
  /** After this long every server has read the change log, or refuses calls. */
  readonly maxStaleness: number;
  /** Receives `unknownSecret` for keys under unknown secrets, each time they are read. */
  readonly emit: SessionEventListener;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
}

/** Minimum time between two reads because of unknown keys, measured from the start of a read. */
const readCooldown = 5_000;
/** Maximum age of the keys that `published` returns; older in an outage. */
const publishedMaxAge = 60_000;
/** Age at which signing reads the keys again, in the background. */
const signingMaxAge = publishAhead / 2;
/** How far `iat` may lie ahead of the store's clock. */
const issuedAheadMax = 60_000;
/** Keys that may exist before a rotation by hand: half of what verifiers accept. */
const rotatedMax = maxKeys / 2;
/** After this long every server knows a key: it has read the change log, or refuses calls. */
const knownAfter = 60_000;
/** How often `open` tries to find or create a key that this server can sign with. */
const openAttempts = 3;

/** Generated keys in a store, shared and rotated by all servers. */
export class StoredSigningKeys implements SigningKeys {
  readonly #options: StoredSigningKeysOptions;
  #keys: readonly LoadedKey[] = [];
  #byKid: ReadonlyMap<string, VerificationKey> = new Map();
  /** Loaded keys by their stored form, so that a key that stays is the same object. */
  #loaded: ReadonlyMap<string, LoadedKey> = new Map();
  /** The slot after the last one that is taken, also by a key under a dead secret. */
  #nextSlot = 0;
  /** Store time minus monotonic time; this machine's wall clock plays no part. */
  #storeAhead = 0;
  /** The keys as of the last change that was announced, or of the start. */
  #announced: readonly LoadedKey[] | undefined;
  /** Whether all keys that could sign here were retired at once. */
  #wasRetired = false;
  /** Monotonic start of the last read. */
  #attemptedAt = Number.NEGATIVE_INFINITY;
  /** Monotonic start of the last successful read. */
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  #rotating: Promise<void> | undefined;
  #opening: Promise<void> | undefined;
  /** Monotonic. No rotation is tried before this time, because one has just failed. */
  #rotateFrom = Number.NEGATIVE_INFINITY;

  constructor(options: StoredSigningKeysOptions) {
    this.#options = options;
  }

  open(): Promise<void> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #open(): Promise<void> {
    await this.#readOnce();
    // Repeated, because a server with another secret may be the first to take the slot.
    for (let i = 0; i < openAttempts && this.#current() === undefined; i++) {
      const isFirst = this.#nextSlot === 0;
      const added = await this.#addNext();
      if (added && !isFirst) {
        // It signs at once, although other servers are running: they must know it now.
        await this.#options.store.announceKeys("changed");
      }
    }
    if (this.#current() === undefined) {
      throw noSigner();
    }
    this.#announced ??= this.#keys.filter((key) => key.canSign);
  }

  async signer(): Promise<SigningKey> {
    const { clock, rotation, algorithm, secrets, maxStaleness } = this.#options;

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
    if (this.#current() === undefined) {
      // The store has lost the keys, or they were retired; tokens that they signed are refused.
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
    const current = currentSigner(this.#keys, storeNow);
    if (current?.signing === undefined) {
      throw noSigner();
    }

    // 3. A key that replaces retired ones signs early, but not before all servers know it.
    const knownIn = current.createdAt + maxStaleness - storeNow;
    if (knownIn > 0 && this.#wasRetired) {
      await new Promise<void>((resolve) => {
        clock.after(knownIn, resolve, true);
      });
      return this.signer();
    }
    return current.signing;
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

  async reload(rotateAt: number = Number.NEGATIVE_INFINITY): Promise<void> {
    // A read that is under way may have begun before the change.
    await this.#reading?.catch(() => {});
    // Does not count as a look for unknown keys: the first token under a new key may come next.
    const attemptedAt = this.#attemptedAt;
    await this.#readOnce();
    this.#attemptedAt = attemptedAt;
    this.#wasRetired ||= this.#announced?.some((key) => this.#keys.includes(key)) === false;
    this.#announced = this.#keys.filter((key) => key.canSign);
    const newest = this.#keys.findLast((key) => key.canSign);
    if ((newest === undefined || newest.createdAt < rotateAt) && this.#rotating === undefined) {
      this.#rotateInBackground(newest === undefined ? () => this.open() : () => this.#createNext());
    }
  }

  async states(): Promise<readonly KeyState<KeyFacts>[]> {
    await this.settled();
    await this.reload();
    return keyStates(this.#keys, this.#storeNow(), this.#options);
  }

  async rotate(): Promise<KeyState<KeyFacts>> {
    const isNext = (one: KeyState<KeyFacts>): boolean => one.state === "next";
    const ready = (await this.states()).findLast(isNext);
    if (ready !== undefined) {
      return ready;
    }
    if (this.#keys.length >= rotatedMax) {
      throw new TypeError(
        `there are ${this.#keys.length} signing keys, and verifiers accept ${maxKeys}; retire former keys before you rotate again`,
      );
    }
    await this.#createNext();
    const created = keyStates(this.#keys, this.#storeNow(), this.#options).findLast(isNext);
    if (created === undefined) {
      throw noSigner();
    }
    return created;
  }

  async retire(kid: string, now: boolean): Promise<boolean> {
    const { store } = this.#options;
    await this.reload();
    const others = this.#keys.filter((key) => key.kid !== kid && key.canSign);
    const known = this.#storeNow() - knownAfter;
    if (!now && this.#byKid.has(kid) && !others.some(({ createdAt }) => createdAt <= known)) {
      throw new TypeError(
        "no other signing key has been published for a minute; rotate the keys, wait a minute and try again, or retire this key with { now: true }",
      );
    }
    const retired = await store.retireSigningKeys([kid]);
    await this.reload();
    return retired.length > 0;
  }

  /** Creates the next key, and announces it. */
  async #createNext(): Promise<void> {
    const { store, telemetry = noTelemetry } = this.#options;
    await telemetry.run({ name: "keyRotation" }, async () => {
      if (await this.#addNext()) {
        await store.announceKeys("changed");
      }
    });
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
    this.#nextSlot = (keys.at(-1)?.slot ?? -1) + 1;
    this.#keys = await this.#load(keys);
    this.#byKid = new Map(this.#keys.map(({ verification }) => [verification.kid, verification]));
    this.#storeAhead = storeAhead;
    this.#readAt = begun;
    this.#reportUnknownSecrets();
  }

  async #load(stored: readonly StoredSigningKey[]): Promise<readonly LoadedKey[]> {
    const { secrets } = this.#options;
    const trusted = stored.filter((key) => !secrets.isDead(secretIdOf(key)));
    const loaded = await Promise.all(
      trusted.map(async (key): Promise<[string, LoadedKey]> => {
        const text = JSON.stringify(key);
        return [text, this.#loaded.get(text) ?? (await loadKey(key, secrets))];
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

  /** Adds a key in the next slot; resolves to whether this server was first. */
  async #addNext(): Promise<boolean> {
    const { store, algorithm, secrets } = this.#options;
    const added = await store.addSigningKey(
      await makeStoredKey(this.#nextSlot, algorithm, secrets),
    );
    // Whether this server or another one was first, the slot has a key now.
    await this.#reading?.catch(() => {});
    await this.#readOnce();
    return added;
  }

  #rotateInBackground(work: () => Promise<void> = () => this.#rotate()): void {
    this.#rotating = work()
      .catch(() => {
        // Signing continues with the present key, and a later call tries again.
        this.#rotateFrom = this.#options.clock.monotonic() + readCooldown;
      })
      .finally(() => {
        this.#rotating = undefined;
      });
  }

  async #rotate(): Promise<void> {
    const { telemetry = noTelemetry } = this.#options;
    await telemetry.run({ name: "keyRotation", inBackground: true }, async () => {
      await this.#addNext();
      await this.removeDead();
    });
  }

  #current(): LoadedKey | undefined {
    return currentSigner(this.#keys, this.#storeNow());
  }

  /** Whether the known keys contain any that may have signed a token of this time. */
  #hasCurrent(issuedAt: number): boolean {
    // A reload does not count, which may have been too early for a key that signs at once.
    const isRecent = this.#untilNextRead() > 0 && this.#readAt >= this.#attemptedAt;
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

function noSigner(): SessionError {
  return unavailable("there is no usable signing key yet; try again");
}

/** @throws SessionError `unavailable`, with the cause */
export async function openKeys(keys: SigningKeys): Promise<void> {
  try {
    await keys.open();
  } catch (cause) {
    throw cause instanceof SessionError
      ? cause
      : unavailable("the signing keys could not be loaded; try again", cause);
  }
}
