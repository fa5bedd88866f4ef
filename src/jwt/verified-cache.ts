import { assertMembers } from "../base/checks.ts";
import type { Clock } from "../base/clock.ts";
import type { TokenClaims } from "./claims.ts";
import type { VerificationKey } from "./keys.ts";

/** How much of what was verified is remembered. */
export interface VerifiedCacheOptions {
  /**
   * The most access tokens that are remembered, so that their signatures are computed once. Default
   * 50,000; 0 remembers none. The half that was used last is sure to be among them.
   */
  readonly entries?: number;
  /**
   * The most memory they may take, in bytes, by an estimate: 1,000 for each token and twice its
   * length. Default 2,500 for each of `entries`.
   */
  readonly bytes?: number;
}

/** A token that a key of ours has signed, for us. Its time is for the caller to look at. */
export interface ProvenToken {
  /** Frozen, with all that is in them: whoever presents the token shares them. */
  readonly claims: TokenClaims;
  /** The key that proved it. */
  readonly key: VerificationKey;
  /** From when it is good, with clock skew; milliseconds since 1970. */
  readonly beginsAt: number;
}

/**
 * Remembers tokens whose signature was proven. It says nothing of whether they are still good:
 * their time, their key and their session are to be looked at on every use.
 */
export interface VerifiedCache {
  /** What was proven of exactly this token. */
  get(token: string): ProvenToken | undefined;
  add(token: string, proven: ProvenToken): void;
  /** Forgets one token. */
  evict(token: string): void;
  /** Forgets every token of a session. */
  evictSession(session: string): void;
  /** Forgets everything, and ends its timer. */
  close(): void;
  /** How many tokens are remembered; those in use count twice at times. */
  readonly size: number;
}

/** The limits of a cache, checked. */
export interface CacheLimits {
  readonly entries: number;
  readonly bytes: number;
}

const defaultEntries = 50_000;
const bytesPerEntry = 2_500;

/** @throws TypeError when a limit is no whole number from 0, or there is no such limit */
export function readCacheLimits(options: VerifiedCacheOptions = {}): CacheLimits {
  assertMembers("verifiedCache", options, { entries: 0, bytes: 0 });
  const { entries = defaultEntries } = options;
  const { bytes = entries * bytesPerEntry } = options;
  for (const [name, value] of Object.entries({ entries, bytes })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new TypeError(`verifiedCache.${name}: ${value} must be a whole number, 0 or more`);
    }
  }
  return { entries, bytes };
}

/**
 * Makes a cache within its limits. What is used stays; a token that is not used for ten minutes is
 * forgotten within ten more. Of one session the newest eight are kept, so that none can push out the
 * others by refreshing.
 *
 * @returns undefined when none is to be remembered
 */
export function createVerifiedCache(limits: CacheLimits, clock: Clock): VerifiedCache | undefined {
  return limits.entries === 0 ? undefined : new TwoGenerations(limits, clock);
}

interface Entry extends ProvenToken {
  readonly token: string;
}

/** Milliseconds after which what was not used since goes to the old generation, or out of it. */
const generationLife = 600_000;
const tokensPerSession = 8;

/**
 * Two generations instead of one list in order of use: a use of a young entry writes nothing. When
 * the young generation is full it becomes the old one, whose unused entries go with it.
 */
class TwoGenerations implements VerifiedCache {
  readonly #clock: Clock;
  readonly #limits: CacheLimits;
  #young = new Generation();
  #old = new Generation();
  #cancelTurn: (() => void) | undefined;

  constructor({ entries, bytes }: CacheLimits, clock: Clock) {
    this.#clock = clock;
    this.#limits = { entries: Math.ceil(entries / 2), bytes: bytes / 2 };
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

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

  evict(token: string): void {
    const key = keyOf(token);
    for (const generation of [this.#young, this.#old]) {
      if (generation.get(key)?.token === token) {
        generation.delete(key);
      }
    }
  }

  evictSession(session: string): void {
    this.#young.deleteSession(session);
    this.#old.deleteSession(session);
  }

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

  /** An empty cache needs no timer. */
  #turnInTime(): void {
    this.#turn();
    this.#cancelTurn =
      this.#old.size === 0
        ? undefined
        : this.#clock.after(generationLife, () => this.#turnInTime());
  }
}

/** Entries by a piece of their token, and those pieces by session. */
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
 * The end of a token, which is of its signature: enough to tell tokens apart, and short, as a new
 * string must be hashed to be looked up. Two tokens with the same end take each other's place.
 */
function keyOf(token: string): string {
  return token.slice(-12);
}

/** A string of its own: a piece of a longer one would keep all of it, a header, in memory. */
function flatCopy(token: string): string {
  return decoder.decode(encoder.encode(token));
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function bytesOf(token: string): number {
  return 1_000 + 2 * token.length;
}
