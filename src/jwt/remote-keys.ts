import type { Clock } from "../base/clock.ts";
import { unavailable } from "../base/errors.ts";
import type { JsonObject } from "../base/json.ts";
import { noTelemetry, type SessionTelemetry } from "../base/telemetry.ts";
import { type KeySet, KeySetReader } from "./jwk-set.ts";
import type { VerificationKey } from "./keys.ts";
import { parseStrictObject } from "./strict-parse.ts";

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Options of {@link RemoteKeys}. */
interface RemoteKeysOptions {
  readonly url: string;
  readonly fetch: Fetch;
  readonly clock: Clock;
  /** How far `iat` may lie in the future, in milliseconds. */
  readonly clockSkew: number;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry | undefined;
}

/** Minimum milliseconds between the starts of two fetches, successful or not. */
const cooldown = 30_000;
/** How long fetched keys are fresh, in milliseconds: as the response specifies, within these bounds. */
const freshness = { min: cooldown, max: 3_600_000, unspecified: 300_000 } as const;
/** The fraction of that time after which keys are fetched again in the background. */
const refreshAfter = 0.8;
/** Maximum milliseconds for which keys are used if they cannot be fetched again. */
const staleMax = 86_400_000;
/** The maximum duration of a fetch in milliseconds, and the maximum size of its body. */
const limits = { timeout: 5_000, maxBytes: 256 * 1024 } as const;

/** Fetched keys and their times, which are monotonic and in milliseconds. */
interface Fetched {
  readonly keys: KeySet;
  /** The latest time at which the keys were current: the start of the request, less their age in caches. */
  readonly at: number;
  readonly freshFor: number;
}

/**
 * The keys of an issuer, fetched from the URL where it publishes them: at most once every 30 s, by
 * one request at a time, and in the background while the known keys are still fresh. During an
 * outage the known keys stay in use for 24 h.
 *
 * jose's createRemoteJWKSet is not used for two reasons. It counts its cooldown from the last success,
 * so an endpoint that is down would receive a request per call. And it cannot distinguish "unknown"
 * from "not known yet".
 */
export class RemoteKeys {
  readonly #options: RemoteKeysOptions;
  readonly #reader = new KeySetReader();
  #fetched: Fetched | undefined;
  #attemptedAt = Number.NEGATIVE_INFINITY;
  #failure: unknown;
  #fetching: Promise<void> | undefined;

  constructor(options: RemoteKeysOptions) {
    this.#options = options;
  }

  /** Fetches the keys unless they are fresh. @throws SessionError `unavailable` */
  async ready(): Promise<void> {
    await this.#fresh();
  }

  /**
   * Finds the key of a token. Reports a key as unknown if the keys were fetched after the token was
   * issued, or within the cool-down of 30 s. An issuer publishes a key long before it signs, so a token
   * under an unknown one is not an outage.
   *
   * @param issuedAt `iat` of the token, in seconds, not proven
   * @throws SessionError `unavailable`, with the time after which a fetch may find the key
   */
  find(
    kid: string,
    issuedAt: number,
  ): VerificationKey | undefined | Promise<VerificationKey | undefined> {
    const age = this.#age();
    if (this.#fetched === undefined || age >= this.#fetched.freshFor) {
      return this.#findFresh(kid, issuedAt);
    }
    if (age >= this.#fetched.freshFor * refreshAfter && !this.#inCooldown()) {
      // Never rejects: the failure is kept for calls that need new keys.
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
    return known !== undefined || isAhead || this.#hasCurrent(issuedAt)
      ? known
      : this.#findNew(kid, issuedAt);
  }

  async #findNew(kid: string, issuedAt: number): Promise<VerificationKey | undefined> {
    if (this.#fetching !== undefined || !this.#inCooldown()) {
      await this.#fetch();
    }
    const found = this.#fetched?.keys.get(kid);
    if (found === undefined && !this.#hasCurrent(issuedAt)) {
      throw this.#unavailable();
    }
    return found;
  }

  /**
   * Resolves when the keys are fresh, or in an outage when they are at most 24 h old.
   * @throws SessionError `unavailable`
   */
  async #fresh(): Promise<void> {
    if (this.#fetched !== undefined && this.#age() < this.#fetched.freshFor) {
      return;
    }
    // In a known outage, calls do not wait for the next attempt, provided that there are keys.
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
    const { url, clock, telemetry = noTelemetry } = this.#options;
    const begun = clock.monotonic();
    this.#attemptedAt = begun;
    try {
      const { value, maxAge, age } = await telemetry.run(
        { name: "sourceFetch", facts: () => ({ source: "jwks" }) },
        () => fetchJson(url, this.#options),
      );
      const { min, max, unspecified } = freshness;
      const lasts = maxAge === undefined ? unspecified : (maxAge - age) * 1000;
      this.#fetched = {
        keys: await this.#reader.read(value),
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

  /** Whether the known keys contain any that may have signed a token of this time. */
  #hasCurrent(issuedAt: number): boolean {
    // The last fetch succeeded, and the next one has to wait.
    const isRecent =
      this.#fetched !== undefined && this.#failure === undefined && this.#inCooldown();
    // `iat` is truncated to the second, so a fetch within that second may be older than the token.
    return isRecent || this.#options.clock.now() - this.#age() >= (issuedAt + 1) * 1000;
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

/** A JSON document, and its age as reported by the response. */
interface FetchedJson {
  readonly value: JsonObject;
  /** Seconds, from `Cache-Control: max-age`; 0 with `no-store` or `no-cache`. */
  readonly maxAge: number | undefined;
  /** Seconds spent in caches on the way, from `Age`; at most 3600. */
  readonly age: number;
}

/**
 * Fetches one JSON object. Does not follow redirects. Rejects if there is no response in time, if its
 * status is not 200, or if its body is too long or not a JSON object.
 */
async function fetchJson(
  url: string,
  { fetch, clock }: { readonly fetch: Fetch; readonly clock: Clock },
): Promise<FetchedJson> {
  const abort = new AbortController();
  const late = new Error(`no response within ${limits.timeout} ms`);
  let cancel = (): void => {};
  // A race, because a `fetch` option may ignore its signal.
  const timeout = new Promise<never>((_, reject) => {
    cancel = clock.after(limits.timeout, () => {
      reject(late);
      abort.abort(late);
    });
  });
  const work = getJson(url, fetch, abort.signal);
  try {
    return await Promise.race([timeout, work]);
  } finally {
    cancel();
    work.catch(() => {});
    abort.abort();
  }
}

async function getJson(url: string, fetch: Fetch, signal: AbortSignal): Promise<FetchedJson> {
  const response = await fetch(url, {
    headers: { accept: "application/jwk-set+json, application/json" },
    // "error" is not supported by all runtimes; a redirect is rejected because of its status.
    redirect: "manual",
    signal,
  });
  if (response.status !== 200) {
    throw new Error(`the response has status ${response.status}, not 200`);
  }
  const value = parseStrictObject(await readText(response, limits.maxBytes));
  if (value === undefined) {
    throw new Error("the response is not a JSON object");
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
      throw new Error(`the response has more than ${maxBytes} bytes`);
    }
    text += decoder.decode(value, { stream: !done });
    if (done) {
      return text;
    }
  }
}

/** RFC 9111 §5.1. Capped at an hour, so that a response cannot make fresh keys look arbitrarily old. */
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
