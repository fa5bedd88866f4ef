import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type GeneratedKey, generateSigningKey } from "../../src/jwt/keys.ts";
import { RemoteKeys } from "../../src/jwt/remote-keys.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";

const url = "https://api.example.com/.well-known/jwks.json";

let one: GeneratedKey;
let two: GeneratedKey;
let clock: FakeClock;
let requests: RequestInit[];
let answer: () => Response | Promise<Response>;
let keys: RemoteKeys;

beforeAll(async () => {
  [one, two] = [await generateSigningKey("ES256"), await generateSigningKey("ES256")];
});

beforeEach(() => {
  clock = createFakeClock();
  requests = [];
  answer = () => published([one]);
  keys = new RemoteKeys({
    url,
    clock,
    clockSkew: 60_000,
    fetch: async (_, init) => {
      requests.push(init);
      return await answer();
    },
  });
});

function published(
  list: readonly GeneratedKey[],
  headers: Record<string, string> = { "cache-control": "public, max-age=300" },
): Response {
  return Response.json({ keys: list.map(({ publicJwk }) => publicJwk) }, { headers });
}

/** A response of exactly `bytes` bytes. */
function padded(list: readonly GeneratedKey[], bytes: number): Response {
  const text = JSON.stringify({ keys: list.map(({ publicJwk }) => publicJwk) });
  return new Response(text.padEnd(bytes));
}

function down(): Response {
  return new Response("down", { status: 503 });
}

/** Seconds; by default the time of a token issued a moment ago. */
function iat(ago = 0): number {
  return Math.floor(clock.now() / 1000) - ago;
}

async function find(kid: string, issuedAt = iat()): Promise<"found" | "unknown" | number> {
  try {
    return (await keys.find(kid, issuedAt)) === undefined ? "unknown" : "found";
  } catch (error) {
    const { kind, retryAfter } = error as { kind: string; retryAfter: number };
    expect(kind).toBe("unavailable");
    return retryAfter;
  }
}

/** Waits for background work to finish. */
async function background(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 20));
}

describe("keys of an issuer", () => {
  it("are fetched once for many calls, and then found without I/O", async () => {
    const found = await Promise.all(Array.from({ length: 100 }, () => find(one.kid)));
    expect(new Set(found)).toEqual(new Set(["found"]));
    clock.advance("1m");
    expect(keys.find(one.kid, iat())).toMatchObject({ kid: one.kid, alg: "ES256" });
    expect(requests).toHaveLength(1);
  });

  it("are requested as JSON, without credentials or redirects", async () => {
    await keys.ready();
    const { signal, ...rest } = requests[0] ?? {};
    expect(rest).toEqual({
      headers: { accept: "application/jwk-set+json, application/json" },
      redirect: "manual",
    });
    expect(signal).toBeInstanceOf(AbortSignal);
  });

  it("are refreshed in the background before they are old, without delaying calls", async () => {
    await keys.ready();
    clock.advance("239s");
    expect(keys.find(one.kid, iat())).not.toBeInstanceOf(Promise);
    expect(requests).toHaveLength(1);
    clock.advance("1s");
    answer = () => published([one, two]);
    expect(keys.find(one.kid, iat())).not.toBeInstanceOf(Promise);
    expect(requests).toHaveLength(2);
    await background();
    expect(await find(two.kid)).toBe("found");
    expect(requests).toHaveLength(2);
  });

  it("make calls wait once they are old, so that a withdrawn key is not accepted", async () => {
    await keys.ready();
    clock.advance("10m");
    answer = () => published([two]);
    expect(await find(one.kid, iat(60))).toBe("unknown");
    expect(await find(two.kid)).toBe("found");
  });

  it.each([
    ["no max-age", {}, 240],
    ["max-age=60", { "cache-control": "max-age=60" }, 48],
    ["an age in caches", { "cache-control": "max-age=300", age: "200" }, 40],
    ["max-age=0", { "cache-control": "max-age=0" }, 30],
    ["no-store", { "cache-control": "max-age=300, no-store" }, 30],
    ["a year", { "cache-control": "max-age=31536000" }, 2880],
    ["nonsense", { "cache-control": "max-age=abc", age: "-1" }, 240],
  ])(
    "are fetched again as the response specifies, after 30 s at the earliest and an hour at the latest: %s",
    async (_, headers, seconds) => {
      answer = () => published([one], headers as Record<string, string>);
      await keys.ready();
      clock.advance(`${seconds - 1}s`);
      expect(await find(one.kid)).toBe("found");
      expect(requests).toHaveLength(1);
      clock.advance("1s");
      expect(await find(one.kid)).toBe("found");
      expect(requests).toHaveLength(2);
    },
  );
});

describe("sec:V07 unknown keys", () => {
  it("are fetched, so a newly published key is found", async () => {
    await keys.ready();
    clock.advance("31s");
    answer = () => published([one, two]);
    expect(await find(two.kid)).toBe("found");
    expect(requests).toHaveLength(2);
  });

  it("are unknown within 30 s of a fetch, whatever time the token claims", async () => {
    await keys.ready();
    clock.advance("29s");
    expect(await find("x", iat())).toBe("unknown");
    expect(requests).toHaveLength(1);
    clock.advance("1s");
    expect(await find("x", iat())).toBe("unknown");
    expect(await find("y", iat())).toBe("unknown");
    expect(requests).toHaveLength(2);
  });

  it("are Unavailable if the last fetch failed, until the next one", async () => {
    await keys.ready();
    clock.advance("31s");
    answer = down;
    expect(await find("x", iat())).toBe(30_000);
    clock.advance("10s");
    expect(await find("x", iat())).toBe(20_000);
    answer = () => published([one]);
    clock.advance("20s");
    expect(await find("x", iat())).toBe("unknown");
    expect(requests).toHaveLength(3);
  });

  it("are unknown at once if the token is older than the known keys", async () => {
    await keys.ready();
    expect(await find("x", iat(2))).toBe("unknown");
    expect(requests).toHaveLength(1);
  });

  it("are unknown even if a cache has delayed the response", async () => {
    await keys.ready();
    clock.advance("2m");
    answer = () => published([one], { "cache-control": "max-age=300", age: "100" });
    expect(await find("x", iat(50))).toBe("unknown");
  });

  it("with an iat in the future are unknown without a fetch", async () => {
    await keys.ready();
    clock.advance("31s");
    expect(await find("x", iat(-61))).toBe("unknown");
    expect(requests).toHaveLength(1);
  });

  it("a wall clock set back does not make a key known", async () => {
    await keys.ready();
    clock.advance("31s");
    answer = down;
    clock.setNow(clock.now() - 3_600_000);
    expect(await find("x", iat())).toBe(30_000);
  });

  it.each([
    ["that answers", () => published([one])],
    ["that is down", down],
    ["that has no keys", () => Response.json({ keys: [] })],
    ["that is a web page", () => new Response("<html>")],
    ["that rejects", () => Promise.reject(new Error("ECONNREFUSED"))],
  ])(
    "cause at most one fetch per 30 s, with 100,000 random ids in 100 s and an endpoint %s",
    async (_, behave) => {
      await keys.ready();
      answer = behave;
      for (let i = 0; i < 100_000; i++) {
        if (i % 1000 === 0) {
          clock.advance("1s");
        }
        await find(Math.random().toString(36).slice(2), iat(i % 90));
        if (i % 100 === 0) {
          expect(await find(one.kid)).toBe("found");
        }
      }
      expect(requests.length).toBeLessThanOrEqual(4);
    },
  );

  it("an endpoint that was never up receives one request per 30 s", async () => {
    answer = down;
    for (let i = 0; i < 100; i++) {
      expect(await find(one.kid)).toEqual(expect.any(Number));
      clock.advance("1s");
    }
    expect(requests).toHaveLength(4);
    answer = () => published([one]);
    clock.advance("30s");
    expect(await find(one.kid)).toBe("found");
  });
});

describe("an outage", () => {
  it("keeps the known keys for 24 h, and calls do not wait", async () => {
    await keys.ready();
    answer = () => new Promise<Response>(() => {});
    clock.advance("6m");
    const first = find(one.kid);
    clock.advance("5s");
    expect(await first).toBe("found");
    for (let hours = 0; hours < 24; hours++) {
      clock.advance("59m");
      // Hangs, but calls do not wait for it.
      expect(await find(one.kid)).toBe("found");
      clock.advance("5s");
      await background();
    }
    clock.advance("1h");
    const late = find(one.kid);
    clock.advance("5s");
    expect(await late).toEqual(expect.any(Number));
    answer = () => published([one]);
    clock.advance("30s");
    expect(await find(one.kid)).toBe("found");
  });

  it("without keys is Unavailable and never signs anybody out", async () => {
    answer = down;
    expect(await find(one.kid)).toBe(30_000);
    await expect(keys.ready()).rejects.toMatchObject({
      kind: "unavailable",
      cause: { message: expect.stringContaining(url), cause: expect.any(Error) },
    });
  });

  it.each<readonly [string, () => Response | Promise<Response>]>([
    ["a status", down],
    [
      "a redirect",
      () => new Response(null, { status: 302, headers: { location: "https://evil.example" } }),
    ],
    ["an opaque redirect", () => Object.defineProperty(new Response(), "status", { value: 0 })],
    ["204", () => new Response(null, { status: 204 })],
    ["invalid JSON", () => new Response("{")],
    ["an empty body", () => new Response("")],
    ["invalid UTF-8", () => new Response(new Uint8Array([0x7b, 0xff, 0x7d]))],
    ["an array", () => Response.json([])],
    ["duplicate names", () => new Response('{"keys":[],"keys":[]}')],
    ["an object as keys", () => Response.json({ keys: {} })],
    ["no usable key", () => Response.json({ keys: [{ kty: "oct", k: "AAAA" }] })],
    ["two keys with one kid", () => published([one, one])],
    [
      "65 keys",
      () =>
        published(
          Array.from({ length: 65 }, (_, i) => ({
            ...one,
            publicJwk: { ...one.publicJwk, kid: `k${i}` },
          })),
        ),
    ],
    ["256 kB and a byte", () => padded([two], 256 * 1024 + 1)],
    ["a rejection", () => Promise.reject(new TypeError("fetch failed"))],
  ])("sec:V08 evicts no key: %s", async (_, behave) => {
    await keys.ready();
    clock.advance("6m");
    answer = behave;
    expect(await find(one.kid)).toBe("found");
    expect(requests).toHaveLength(2);
    expect(await find("x")).toEqual(expect.any(Number));
  });

  it("sec:V08 a body of exactly 256 kB is used", async () => {
    answer = () => padded([two], 256 * 1024);
    expect(await find(two.kid)).toBe("found");
  });

  it.each([203, 206, 302, 404, 500])(
    "sec:V08 is also assumed for a response with status %i, whose keys are not used",
    async (status) => {
      answer = () => new Response(published([one]).body, { status });
      expect(await find(one.kid)).toBe(30_000);
    },
  );

  it("sec:V08 is also assumed for an endless body, which is cut off at 256 kB", async () => {
    let pulled = 0;
    let cancelled = false;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled += 1;
        controller.enqueue(new Uint8Array(16_384).fill(0x20));
      },
      cancel() {
        cancelled = true;
      },
    });
    answer = () => new Response(endless);
    expect(await find(one.kid)).toBe(30_000);
    expect([cancelled, pulled]).toEqual([true, expect.any(Number)]);
    expect(pulled).toBeLessThan(20);
  });

  it("sec:V07 is also assumed after 5 s without a response, and the request is aborted", async () => {
    answer = () => new Promise<Response>(() => {});
    const waiting = find(one.kid);
    clock.advance("4999ms");
    expect(requests[0]?.signal?.aborted).toBe(false);
    clock.advance("1ms");
    expect(await waiting).toBe(25_000);
    expect(requests[0]?.signal?.aborted).toBe(true);
  });

  it("sec:V07 is also assumed after 5 s if the body arrives slowly", async () => {
    answer = () => new Response(new ReadableStream({ pull: () => new Promise(() => {}) }));
    const waiting = find(one.kid);
    await background();
    clock.advance("5s");
    expect(await waiting).toBe(25_000);
  });
});
