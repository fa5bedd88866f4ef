import type { Clock } from "../base/clock.ts";
import type { JsonObject } from "../base/json.ts";
import { parseStrictObject } from "./strict-json.ts";

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
