import { assertMembers } from "../base/checks.ts";
import type { Clock } from "../base/clock.ts";
import type { TokenClaims } from "./claims.ts";
import type { VerificationKey } from "./keys.ts";

/** Limits of the cache of verified access tokens. */
export interface VerifiedCacheOptions {
  /**
   * The maximum number of access tokens in the cache: an integer, at least 0. The signature of a
   * cached token is not verified again. The most recently used half is never dropped. Default 50,000;
   * 0 turns the cache off.
   */
  readonly entries?: number;
  /**
   * The maximum memory for cached tokens, in bytes: an integer, at least 0. A token is estimated to
   * take 1,000 bytes plus twice its length. Default 2,500 for each of `entries`.
   */
  readonly bytes?: number;
}

/** A token whose signature, issuer and audience are proven. The caller checks its time. */
export interface ProvenToken {
  /** Deeply frozen, because all calls with the token share them. */
  readonly claims: TokenClaims;
  /** The key that proved it. */
  readonly key: VerificationKey;
  /** The time from which it is valid, clock skew included; milliseconds since 1970. */
  readonly beginsAt: number;
}

/** {@link VerifiedCacheOptions}, checked. */
export interface CacheLimits {
  readonly entries: number;
  readonly bytes: number;
}

const defaultEntries = 50_000;
const bytesPerEntry = 2_500;

/**
 * Reads the option `verifiedCache`.
 * @throws TypeError when a limit is not a whole number from 0, or a member is unknown
 */
export function readCacheLimits(options: VerifiedCacheOptions = {}): CacheLimits {
  assertMembers("verifiedCache", options, { entries: 0, bytes: 0 });
  const { entries = defaultEntries } = options;
  const { bytes = entries * bytesPerEntry } = options;
  for (const [name, value] of Object.entries({ entries, bytes })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new TypeError(`verifiedCache.${name} must be a whole number, 0 or more, got ${value}`);
    }
  }
  return { entries, bytes };
}

interface Entry extends ProvenToken {
  readonly token: string;
}

/** Milliseconds after which an unused entry moves to the old generation, or out of it. */
const generationLife = 600_000;
const tokensPerSession = 8;

/**
 * Caches tokens whose signature is proven. Does not check whether they are still valid: check their
 * time, their key and their session on every use.
 *
 * Tokens in use stay. A token that is not used for ten minutes is dropped within ten more. Only the
 * newest eight tokens of a session are kept, so that no session can displace others by refreshing.
 *
 * Has two generations instead of one list in order of use, so that reading a young entry needs no
 * write. When the young generation is full, it becomes the old one, and the former old one is
 * dropped with its unused entries.
 */
export class VerifiedCache {
  readonly #clock: Clock;
  readonly #limits: CacheLimits;
  #young = new Generation();
  #old = new Generation();
  #cancelTurn: (() => void) | undefined;

  constructor({ entries, bytes }: CacheLimits, clock: Clock) {
    this.#clock = clock;
    this.#limits = { entries: Math.ceil(entries / 2), bytes: bytes / 2 };
  }

  /** How many tokens are cached. A token in both generations counts twice. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** Returns the proof of exactly this token. */
  get(token: string): ProvenToken | undefined {
    const key = keyOf(token);
    const young = this.#young.get(key);
    if (young !== undefined && young.token === token) {
      return young;
    }
    const old = this.#old.get(key);
    if (old === undefined || old.token !== token) {
      return undefined;
    }
    this.#keep(key, old);
    return old;
  }

  add(token: string, { claims, key, beginsAt }: ProvenToken): void {
    if (bytesOf(token) <= this.#limits.bytes) {
      const copy = flatCopy(token);
      this.#keep(keyOf(copy), { token: copy, claims, key, beginsAt });
    }
  }

  /** Drops one token. */
  evict(token: string): void {
    const key = keyOf(token);
    for (const generation of [this.#young, this.#old]) {
      if (generation.get(key)?.token === token) {
        generation.delete(key);
      }
    }
  }

  /** Drops all tokens of a session. */
  evictSession(session: string): void {
    this.#young.deleteSession(session);
    this.#old.deleteSession(session);
  }

  /** Drops all tokens and cancels the timer. */
  close(): void {
    this.#cancelTurn?.();
    this.#cancelTurn = undefined;
    this.#young = new Generation();
    this.#old = new Generation();
  }

  #keep(key: string, entry: Entry): void {
    const { entries, bytes } = this.#limits;
    if (this.#young.size >= entries || this.#young.bytes + bytesOf(entry.token) > bytes) {
      this.#turn();
    }
    this.#young.set(key, entry);
    this.#cancelTurn ??= this.#clock.after(generationLife, () => this.#turnInTime());
  }

  #turn(): void {
    this.#old = this.#young;
    this.#young = new Generation();
  }

  /** Turns, and sets the next timer unless the cache is empty. */
  #turnInTime(): void {
    this.#turn();
    this.#cancelTurn =
      this.#old.size === 0
        ? undefined
        : this.#clock.after(generationLife, () => this.#turnInTime());
  }
}

/** Creates a cache; returns undefined when its limit is 0 entries. */
export function createVerifiedCache(limits: CacheLimits, clock: Clock): VerifiedCache | undefined {
  return limits.entries === 0 ? undefined : new VerifiedCache(limits, clock);
}

/** Entries by the end of their token, with an index by session. */
class Generation {
  readonly #entries = new Map<string, Entry>();
  readonly #sessions = new Map<string, string[]>();
  bytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get(key: string): Entry | undefined {
    return this.#entries.get(key);
  }

  set(key: string, entry: Entry): void {
    this.delete(key);
    this.#entries.set(key, entry);
    this.bytes += bytesOf(entry.token);
    const { sid } = entry.claims;
    const keys = this.#sessions.get(sid);
    if (keys === undefined) {
      this.#sessions.set(sid, [key]);
      return;
    }
    const [oldest = key] = keys;
    if (keys.push(key) > tokensPerSession) {
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      return;
    }
    this.#entries.delete(key);
    this.bytes -= bytesOf(entry.token);
    const { sid } = entry.claims;
    const rest = this.#sessions.get(sid)?.filter((other) => other !== key) ?? [];
    if (rest.length === 0) {
      this.#sessions.delete(sid);
    } else {
      this.#sessions.set(sid, rest);
    }
  }

  deleteSession(session: string): void {
    for (const key of this.#sessions.get(session) ?? []) {
      this.delete(key);
    }
  }
}

/**
 * Returns the end of a token, which is part of its signature: enough to distinguish tokens, and short,
 * because a string must be hashed for a lookup. Two tokens with the same end replace each other.
 */
function keyOf(token: string): string {
  return token.slice(-12);
}

/** Copies a string, because a slice of a request header would keep the whole header in memory. */
function flatCopy(token: string): string {
  return decoder.decode(encoder.encode(token));
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function bytesOf(token: string): number {
  return 1_000 + 2 * token.length;
}
