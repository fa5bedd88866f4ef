import type { Clock } from "../base/clock.ts";
import { unavailable } from "../base/errors.ts";
import type { JsonObject } from "../base/json.ts";
import { createKeySetReader, type KeySet } from "./jwk-set.ts";
import type { VerificationKey } from "./keys.ts";
import { parseStrictObject } from "./strict-parse.ts";

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Limits of one request. */
export interface FetchLimits {
  /** Milliseconds for the whole of it, body included. */
  readonly timeout: number;
  /** Bytes of the body. */
  readonly maxBytes: number;
}

/** A document and what the response says of its age. */
export interface FetchedJson {
  readonly value: JsonObject;
  /** Seconds, from `Cache-Control: max-age`; 0 with `no-store` or `no-cache`. */
  readonly maxAge: number | undefined;
  /** Seconds that it has lain in a cache on its way, from `Age`; at most 3600. */
  readonly age: number;
}

/**
 * Fetches one JSON object. Follows no redirect: what answers is what was asked.
 * Rejects with what went wrong: no answer in time, another status than 200, too long a body, no JSON.
 */
export async function fetchJson(
  url: string,
  { fetch, clock }: { readonly fetch: Fetch; readonly clock: Clock },
  limits: FetchLimits,
): Promise<FetchedJson> {
  const abort = new AbortController();
  const late = new Error(`no answer within ${limits.timeout} ms`);
  let cancel = (): void => {};
  // Raced, because a `fetch` may not heed its signal.
  const timeout = new Promise<never>((_, reject) => {
    cancel = clock.after(limits.timeout, () => {
      reject(late);
      abort.abort(late);
    });
  });
  const work = get(url, { fetch, signal: abort.signal, maxBytes: limits.maxBytes });
  try {
    return await Promise.race([timeout, work]);
  } finally {
    cancel();
    work.catch(() => {});
    abort.abort();
  }
}

async function get(
  url: string,
  {
    fetch,
    signal,
    maxBytes,
  }: { readonly fetch: Fetch; readonly signal: AbortSignal; readonly maxBytes: number },
): Promise<FetchedJson> {
  const response = await fetch(url, {
    headers: { accept: "application/jwk-set+json, application/json" },
    // Not "error", which some runtimes do not know: a redirect is refused for its status.
    redirect: "manual",
    signal,
  });
  if (response.status !== 200) {
    throw new Error(`answered with status ${response.status}`);
  }
  const value = parseStrictObject(await readText(response, maxBytes));
  if (value === undefined) {
    throw new Error("answered with what is no JSON object");
  }
  return { value, maxAge: maxAgeOf(response.headers), age: ageOf(response.headers) };
}

async function readText(response: Response, maxBytes: number): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  let text = "";
  let length = 0;
  for (;;) {
    const { done = true, value = new Uint8Array() } = (await reader?.read()) ?? {};
    length += value.length;
    if (length > maxBytes) {
      await reader?.cancel();
      throw new Error(`answered with more than ${maxBytes} bytes`);
    }
    text += decoder.decode(value, { stream: !done });
    if (done) {
      return text;
    }
  }
}

/** RFC 9111 §5.1. Past an hour it says no more: nobody gains by calling fresh keys very old. */
function ageOf(headers: Headers): number {
  const seconds = /^\d{1,9}$/.exec(headers.get("age") ?? "")?.[0] ?? "0";
  return Math.min(Number(seconds), 3600);
}

/** RFC 9111 §5.2.2. */
function maxAgeOf(headers: Headers): number | undefined {
  const directives = (headers.get("cache-control") ?? "").toLowerCase().split(",");
  const names = directives.map((directive) => directive.trim());
  if (names.includes("no-store") || names.includes("no-cache")) {
    return 0;
  }
  const found = names.map((name) => /^max-age="?(\d{1,9})"?$/.exec(name)?.[1]).find((v) => v);
  return found === undefined ? undefined : Number(found);
}

/** The keys of an issuer, fetched from where it publishes them. */
export interface RemoteKeys {
  /** Fetches the keys if there are none yet. @throws SessionError `unavailable` */
  ready(): Promise<void>;
  /**
   * The key of a token. An unknown one is only told to be unknown when the keys were fetched after
   * the token was issued.
   *
   * @param issuedAt `iat` of the token, seconds, not proven
   * @throws SessionError `unavailable`, with the time after which a fetch may tell more
   */
  find(
    kid: string,
    issuedAt: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined>;
}

/** What remote keys are made of. */
export interface RemoteKeysOptions {
  readonly url: string;
  readonly fetch: Fetch;
  readonly clock: Clock;
  /** How far `iat` may lie in the future, in milliseconds. */
  readonly clockSkew: number;
}

/** Milliseconds between two fetches at least, counted from the attempt, whatever came of it. */
const cooldown = 30_000;
/** How long fetched keys are fresh: what the response says, within these bounds; milliseconds. */
const freshness = { min: cooldown, max: 3_600_000, unsaid: 300_000 } as const;
/** The part of that time after which they are fetched again while they still serve. */
const refreshAfter = 0.8;
/** How long keys serve at most when they cannot be fetched again; milliseconds. */
const staleMax = 86_400_000;
const limits = { timeout: 5_000, maxBytes: 256 * 1024 } as const;

/**
 * Keys that are fetched when they are needed: at most once in 30 s, by one request at a time, and in
 * the background while they are still fresh. In an outage the keys that are known serve on, for 24 h.
 *
 * jose's createRemoteJWKSet counts its cool-down from the last success, so that an endpoint that is
 * down is asked once per call; and it cannot tell "unknown" from "not known yet".
 */
export function createRemoteKeys(options: RemoteKeysOptions): RemoteKeys {
  return new FetchedKeys(options);
}

/** Keys and their times; monotonic, in milliseconds. */
interface Fetched {
  readonly keys: KeySet;
  /** When they were as they are at the latest: when the request began, less their age in caches. */
  readonly at: number;
  readonly freshFor: number;
}

class FetchedKeys implements RemoteKeys {
  readonly #options: RemoteKeysOptions;
  readonly #readKeySet = createKeySetReader();
  #fetched: Fetched | undefined;
  #attemptedAt = Number.NEGATIVE_INFINITY;
  #failure: unknown;
  #fetching: Promise<void> | undefined;

  constructor(options: RemoteKeysOptions) {
    this.#options = options;
  }

  async ready(): Promise<void> {
    await this.#fresh();
  }

  find(kid: string, issuedAt: number): ReturnType<RemoteKeys["find"]> {
    const age = this.#age();
    if (this.#fetched === undefined || age >= this.#fetched.freshFor) {
      return this.#findFresh(kid, issuedAt);
    }
    if (age >= this.#fetched.freshFor * refreshAfter && !this.#inCooldown()) {
      // Never fails: what went wrong is kept for those who need new keys.
      void this.#fetch();
    }
    return this.#findKnown(kid, issuedAt);
  }

  async #findFresh(kid: string, issuedAt: number): Promise<VerificationKey | undefined> {
    await this.#fresh();
    return this.#findKnown(kid, issuedAt);
  }

  #findKnown(kid: string, issuedAt: number): ReturnType<RemoteKeys["find"]> {
    const { clock, clockSkew } = this.#options;
    const known = this.#fetched?.keys.get(kid);
    const isAhead = issuedAt * 1000 > clock.now() + clockSkew;
    return known !== undefined || isAhead || this.#fetchedSince(issuedAt)
      ? known
      : this.#findNew(kid, issuedAt);
  }

  async #findNew(kid: string, issuedAt: number): Promise<VerificationKey | undefined> {
    if (this.#fetching !== undefined || !this.#inCooldown()) {
      await this.#fetch();
    }
    const found = this.#fetched?.keys.get(kid);
    if (found === undefined && !this.#fetchedSince(issuedAt)) {
      throw this.#unavailable();
    }
    return found;
  }

  /** Keys that are fresh, or the best there are. @throws SessionError `unavailable` */
  async #fresh(): Promise<void> {
    if (this.#fetched !== undefined && this.#age() < this.#fetched.freshFor) {
      return;
    }
    // Known to be out of reach: calls do not wait for the next attempt, if there are keys at all.
    const isOutage = this.#failure !== undefined && this.#age() < staleMax;
    if (!this.#inCooldown() || this.#fetching !== undefined) {
      const fetching = this.#fetch();
      await (isOutage ? undefined : fetching);
    }
    if (this.#fetched === undefined || this.#age() >= staleMax) {
      throw this.#unavailable();
    }
  }

  #fetch(): Promise<void> {
    this.#fetching ??= this.#fetchNow().finally(() => {
      this.#fetching = undefined;
    });
    return this.#fetching;
  }

  async #fetchNow(): Promise<void> {
    const { url, clock } = this.#options;
    const begun = clock.monotonic();
    this.#attemptedAt = begun;
    try {
      const { value, maxAge, age } = await fetchJson(url, this.#options, limits);
      const { min, max, unsaid } = freshness;
      const lasts = maxAge === undefined ? unsaid : (maxAge - age) * 1000;
      this.#fetched = {
        keys: await this.#readKeySet(value),
        at: begun - age * 1000,
        freshFor: age * 1000 + Math.min(Math.max(lasts, min), max),
      };
      this.#failure = undefined;
    } catch (cause) {
      this.#failure = new Error(`the keys could not be fetched from ${url}`, { cause });
    }
  }

  #age(): number {
    const at = this.#fetched?.at ?? Number.NEGATIVE_INFINITY;
    return this.#options.clock.monotonic() - at;
  }

  // `iat` is cut to the second, so a fetch within that second may have come before the token.
  #fetchedSince(issuedAt: number): boolean {
    return this.#options.clock.now() - this.#age() >= (issuedAt + 1) * 1000;
  }

  #inCooldown(): boolean {
    return this.#untilNextFetch() > 0;
  }

  #untilNextFetch(): number {
    return this.#attemptedAt + cooldown - this.#options.clock.monotonic();
  }

  #unavailable(): Error {
    const retryAfter = Math.max(1_000, this.#untilNextFetch());
    return unavailable(
      "the keys of the issuer could not be fetched; try again",
      this.#failure,
      retryAfter,
    );
  }
}
