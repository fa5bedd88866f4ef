import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { TokenClaims } from "../../src/jwt/claims.ts";
import { signAccessToken, type VerificationKey } from "../../src/jwt/keys.ts";
import {
  type CacheLimits,
  createVerifiedCache,
  type ProvenToken,
  readCacheLimits,
  type VerifiedCache,
} from "../../src/jwt/verified-cache.ts";
import type { AccessTokenVerifier, VerifiedToken } from "../../src/jwt/verifier.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import { withSignatureOf } from "../helpers/exchanges.ts";
import { spyOnVerify } from "../helpers/spy-on-verify.ts";
import {
  accessClaims,
  issuedAt,
  type Keys,
  makeKeys,
  maxLife,
  now,
  type VerifierOptions,
  verifierOf,
} from "./fixture.ts";

let keys: Keys;
let token: string;

beforeAll(async () => {
  keys = await makeKeys();
  token = await signAccessToken(accessClaims, keys.signing);
});

afterEach(() => {
  vi.restoreAllMocks();
});

function cacheOf(limits: Partial<CacheLimits> = {}, clock: FakeClock = createFakeClock()) {
  const cache = createVerifiedCache({ ...readCacheLimits(), ...limits }, clock);
  if (cache === undefined) {
    throw new Error("there is no cache");
  }
  return cache;
}

/** A verifier with a cache that counts computed signatures. */
interface Warm {
  readonly verify: AccessTokenVerifier;
  readonly cache: VerifiedCache;
  readonly computed: () => number;
}

function warmVerifier(options: VerifierOptions = {}, cache: VerifiedCache = cacheOf()): Warm {
  const spy = spyOnVerify();
  return {
    verify: verifierOf([keys.verification], { cache, ...options }),
    cache,
    computed: () => spy.mock.calls.length,
  };
}

async function signed(changes: Partial<TokenClaims>): Promise<string> {
  return signAccessToken({ ...accessClaims, ...changes }, keys.signing);
}

describe("sec:V06 a cached token", () => {
  it("is not verified again: the same claims are returned synchronously", async () => {
    const { verify, computed } = warmVerifier();
    const first = await verify(token, now);
    const again = verify(token, now + 1000);
    expect(again).not.toBeInstanceOf(Promise);
    expect(again).toEqual(first);
    expect((again as { claims: TokenClaims }).claims).toBe(
      (first as { claims: TokenClaims }).claims,
    );
    expect(computed()).toBe(1);
  });

  it("sec:J09 is found by its text, in any string object", async () => {
    const { verify, computed } = warmVerifier();
    await verify(token, now);
    await verify(`Bearer ${token}`.slice("Bearer ".length), now);
    await verify(Buffer.from(token).toString("latin1"), now);
    expect(computed()).toBe(1);
  });

  it.each(["young", "old"])(
    "sec:J07 is not found by a text that differs in one character, %s",
    async (age) => {
      const clock = createFakeClock();
      const { verify } = warmVerifier({}, cacheOf({}, clock));
      await verify(token, now);
      clock.advance(age === "old" ? "10m" : "0ms");
      for (let i = 0; i < token.length; i++) {
        const other = token[i] === "A" ? "B" : "A";
        const { status } = await verify(token.slice(0, i) + other + token.slice(i + 1), now);
        expect(status, `character ${i}`).not.toBe("valid");
      }
      expect((await verify(token, now)).status).toBe("valid");
    },
  );

  it.each<[string, (token: string) => string]>([
    ["one more character before", (t) => `e${t}`],
    ["one less before", (t) => t.slice(1)],
    ["one more after", (t) => `${t}A`],
    ["its signature alone", (t) => t.slice(t.lastIndexOf("."))],
    ["a space before", (t) => ` ${t}`],
    ["other case", (t) => t.toLowerCase()],
  ])("sec:J07 with %s is another token", async (_, change) => {
    const { verify } = warmVerifier();
    await verify(token, now);
    expect((await verify(change(token), now)).status).not.toBe("valid");
  });

  it("sec:J10 does not prove another token with its signature", async () => {
    const { verify } = warmVerifier();
    await verify(token, now);
    const other = withSignatureOf(await signed({ sub: "mallory" }), token);
    expect(await verify(other, now)).toEqual({ status: "invalid" });
    expect(await verify(other, now)).toEqual({ status: "invalid" });
  });

  it("sec:J12 is expired at its end, and invalid before its beginning", async () => {
    const { verify, computed } = warmVerifier();
    await verify(token, now);
    const exp = accessClaims.exp * 1000;
    expect(verify(token, exp - 1)).toMatchObject({ status: "valid" });
    expect(verify(token, exp)).toMatchObject({ status: "expired", claims: { sub: "alice" } });
    expect(verify(token, now - 60_000)).toMatchObject({ status: "valid" });
    expect(verify(token, now - 60_001)).toEqual({ status: "invalid" });
    expect(verify(token, Number.NaN)).toEqual({ status: "invalid" });
    expect(computed()).toBe(1);
  });

  it("has claims that cannot be changed", async () => {
    const { verify } = warmVerifier();
    const { claims } = (await verify(token, now)) as { claims: TokenClaims };
    const change = (target: object, name: string) => Reflect.set(target, name, "mallory");
    const { teams, plan } = claims.claims as { teams: object; plan: object };
    expect(change(claims, "sub")).toBe(false);
    expect(change(claims.claims, "role")).toBe(false);
    expect(change(claims.claims, "added")).toBe(false);
    expect(change(teams, "0")).toBe(false);
    expect(change(plan, "seats")).toBe(false);
    expect(verify(token, now)).toEqual({ status: "valid", claims: accessClaims });
  });
});

describe("sec:V06 the cache accepts only valid tokens", () => {
  it.each<[string, () => Promise<string>, number]>([
    ["a bad signature", async () => withSignatureOf(token, await signed({ sub: "bob" })), now],
    ["an expired token", async () => token, accessClaims.exp * 1000],
    ["a token of the future", async () => token, now - 100_000],
    ["another audience", () => signed({ aud: "other" }), now],
    ["another issuer", () => signed({ iss: "https://other.example" }), now],
    ["too long a life", () => signed({ exp: issuedAt + maxLife + 1 }), now],
    ["junk", async () => "a.b.c", now],
  ])("not %s", async (_, make, at) => {
    const { verify, cache } = warmVerifier();
    const bad = await make();
    await verify(bad, at);
    await verify(bad, at);
    expect(cache.size).toBe(0);
  });
});

describe("sec:J17 the key of a cached token", () => {
  const found = (key: VerificationKey | undefined) => ({ key });

  it("is looked up on every use: without it the token is invalid, and it is verified again when the key is back", async () => {
    const state = found(keys.verification);
    const { verify, cache, computed } = warmVerifier({ findKey: () => state.key });
    await verify(token, now);
    state.key = undefined;
    expect(await verify(token, now)).toEqual({ status: "invalid" });
    expect(cache.size).toBe(0);
    state.key = keys.verification;
    expect((await verify(token, now)).status).toBe("valid");
    expect(computed()).toBe(2);
  });

  it("proves nothing any more when another key with the same id replaces it", async () => {
    const state = found(keys.verification);
    const { verify } = warmVerifier({ findKey: () => state.key });
    await verify(token, now);
    state.key = { ...(await makeKeys()).verification, kid: keys.verification.kid };
    expect(await verify(token, now)).toEqual({ status: "invalid" });
    expect(await verify(token, now)).toEqual({ status: "invalid" });
  });

  it("is awaited if necessary, and the signature is not computed again", async () => {
    const { verify, computed } = warmVerifier({ findKey: async () => keys.verification });
    await verify(token, now);
    expect(await verify(token, now)).toMatchObject({ status: "valid" });
    expect(computed()).toBe(1);
  });

  it("fails the call if the lookup fails, and the token stays in the cache", async () => {
    let outage: "none" | "thrown" | "rejected" = "none";
    const findKey = (): VerificationKey | Promise<VerificationKey> => {
      if (outage === "thrown") {
        throw new Error("outage");
      }
      return outage === "rejected" ? Promise.reject(new Error("outage")) : keys.verification;
    };
    const { verify, computed } = warmVerifier({ findKey });
    await verify(token, now);
    const again = async () => verify(token, now);
    outage = "thrown";
    await expect(again()).rejects.toThrow("outage");
    outage = "rejected";
    await expect(again()).rejects.toThrow("outage");
    outage = "none";
    expect(await again()).toMatchObject({ status: "valid" });
    expect(computed()).toBe(1);
  });
});

describe("concurrent calls with one token", () => {
  it.each([
    ["at hand", () => keys.verification],
    ["looked up", async () => keys.verification],
  ])(
    "compute the signature once, and judge the token each at its own time: key %s",
    async (_, findKey) => {
      const { verify, computed } = warmVerifier({ findKey });
      const times = [now, accessClaims.exp * 1000, now - 100_000];
      const herd = Array.from({ length: 300 }, async (_, i) => verify(token, times[i % 3] ?? now));
      const statuses = (await Promise.all(herd)).map(({ status }) => status);
      expect(statuses.slice(0, 3)).toEqual(["valid", "expired", "invalid"]);
      expect(new Set(statuses.filter((_, i) => i % 3 === 0))).toEqual(new Set(["valid"]));
      expect(computed()).toBe(1);
    },
  );

  it("share a failure, which is not cached", async () => {
    let asked = 0;
    const findKey = async (): Promise<VerificationKey> => {
      asked++;
      if (asked === 1) {
        throw new Error("outage");
      }
      return keys.verification;
    };
    const { verify } = warmVerifier({ findKey });
    const herd = await Promise.allSettled([verify(token, now), verify(token, now)]);
    expect(herd.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(asked).toBe(1);
    expect(await verify(token, now)).toMatchObject({ status: "valid" });
  });
});

describe("the results", () => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ verify: fc.nat(5), at: fc.nat(20) }) },
    { weight: 1, arbitrary: fc.record({ trust: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ evict: fc.nat(5) }) },
    { weight: 1, arbitrary: fc.record({ minutes: fc.nat(15) }) },
  );

  it("are those of a verifier without a cache", async () => {
    const good = await Promise.all(
      [0, 1, 2, 3].map((i) =>
        signed({ jti: `t${i}`, sid: `s${i % 2}`, exp: issuedAt + 60 * (i + 1) }),
      ),
    );
    const tokens = [...good, withSignatureOf(token, good[0] ?? ""), "a.b.c"];
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const clock = createFakeClock();
        const cache = cacheOf({ entries: 3 }, clock);
        const trusted = { key: keys.verification as VerificationKey | undefined };
        const findKey = () => trusted.key;
        const warm = verifierOf([], { findKey, cache });
        const cold = verifierOf([], { findKey });
        for (const action of steps) {
          if ("verify" in action) {
            const at = now - 100_000 + action.at * 20_000;
            const presented = tokens[action.verify] ?? "";
            expect(await warm(presented, at)).toEqual(await cold(presented, at));
          } else if ("trust" in action) {
            trusted.key = action.trust ? keys.verification : undefined;
          } else if ("evict" in action) {
            cache.evictSession(`s${action.evict}`);
          } else {
            clock.advance(`${action.minutes}m`);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});

/** Makes a proven token without a signature. */
function proven(sid: string): ProvenToken {
  return { claims: { ...accessClaims, sid }, key: keys.verification, beginsAt: 0 };
}

function tokenNumber(i: number): string {
  return `${"x".repeat(500)}.${String(i).padStart(12, "0")}`;
}

function isKnown(cache: VerifiedCache, i: number): boolean {
  return cache.get(tokenNumber(i)) !== undefined;
}

describe("the cache", () => {
  it("sec:V06 distinguishes tokens with the same end, and keeps the last one", () => {
    const cache = cacheOf();
    const [one, two] = [`one.${"e".repeat(12)}`, `two.${"e".repeat(12)}`];
    cache.add(one, proven("s1"));
    expect(cache.get(two)).toBeUndefined();
    cache.add(two, proven("s2"));
    expect(cache.get(one)).toBeUndefined();
    expect(cache.get(two)?.claims.sid).toBe("s2");
    cache.evictSession("s1");
    expect(cache.get(two)?.claims.sid).toBe("s2");
  });

  it("is limited in entries, and keeps the half that was used last", () => {
    const cache = cacheOf({ entries: 100 });
    for (let i = 0; i < 1_000; i++) {
      cache.add(tokenNumber(i), proven(`s${i}`));
      expect(cache.size).toBeLessThanOrEqual(100);
      expect(isKnown(cache, 0)).toBe(true);
    }
    for (let i = 952; i < 1_000; i++) {
      expect(isKnown(cache, i)).toBe(true);
    }
    expect(isKnown(cache, 800)).toBe(false);
  });

  it("is limited in bytes: 1,000 for a token plus twice its length", () => {
    const each = 1_000 + 2 * tokenNumber(0).length;
    const cache = cacheOf({ bytes: 10 * each });
    for (let i = 0; i < 100; i++) {
      cache.add(tokenNumber(i), proven(`s${i}`));
      expect(cache.size).toBeLessThanOrEqual(10);
    }
    expect([95, 96, 97, 98, 99].every((i) => isKnown(cache, i))).toBe(true);
    const huge = `${"x".repeat(10 * each)}.signature`;
    cache.add(huge, proven("s"));
    expect(cache.get(huge)).toBeUndefined();
    expect(isKnown(cache, 99)).toBe(true);
  });

  it("keeps the newest eight tokens of a session, so that no session displaces others", () => {
    const cache = cacheOf({ entries: 100 });
    cache.add(tokenNumber(0), proven("quiet"));
    for (let i = 1; i <= 1_000; i++) {
      cache.add(tokenNumber(i), proven("busy"));
    }
    expect(cache.size).toBe(9);
    expect(isKnown(cache, 0)).toBe(true);
    expect(isKnown(cache, 993)).toBe(true);
    expect(isKnown(cache, 992)).toBe(false);
  });

  it("drops the tokens of a session from both generations, and no others", () => {
    const cache = cacheOf({ entries: 4 });
    for (let i = 0; i < 4; i++) {
      cache.add(tokenNumber(i), proven(i % 2 === 0 ? "even" : "odd"));
    }
    cache.evictSession("even");
    expect([0, 1, 2, 3].map((i) => isKnown(cache, i))).toEqual([false, true, false, true]);
    cache.evictSession("even");
    cache.evictSession("nobody");
  });

  it("drops tokens that were not used for ten to twenty minutes, and then has no timer", () => {
    const clock = createFakeClock();
    const after = vi.spyOn(clock, "after");
    const cache = cacheOf({}, clock);
    cache.add(tokenNumber(0), proven("idle"));
    cache.add(tokenNumber(1), proven("busy"));
    for (let minutes = 0; minutes < 60; minutes += 5) {
      clock.advance("5m");
      expect(isKnown(cache, 1)).toBe(true);
    }
    expect(isKnown(cache, 0)).toBe(false);
    clock.advance("9m");
    expect(cache.size).toBeGreaterThan(0);
    clock.advance("11m");
    expect(cache.size).toBe(0);
    const timers = after.mock.calls.length;
    clock.advance("1h");
    expect(after.mock.calls.length).toBe(timers);
    cache.add(tokenNumber(2), proven("new"));
    expect(after.mock.calls.length).toBe(timers + 1);
  });

  it("cancels its timer when it is closed", () => {
    const clock = createFakeClock();
    const after = vi.spyOn(clock, "after");
    const cache = cacheOf({}, clock);
    cache.add(tokenNumber(0), proven("s"));
    cache.close();
    expect(cache.size).toBe(0);
    clock.advance("1h");
    expect(after.mock.calls.length).toBe(1);
  });

  it("does not keep the request header of a token in memory", () => {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    const cache = cacheOf();
    gc();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 200; i++) {
      const header = Buffer.alloc(250_000, " ").toString("latin1") + tokenNumber(i);
      cache.add(header.slice(250_000), proven(`s${i}`));
    }
    gc();
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(5_000_000);
    expect(cache.size).toBe(200);
  });

  it("does not exist with 0 entries", () => {
    expect(createVerifiedCache(readCacheLimits({ entries: 0 }), createFakeClock())).toBeUndefined();
  });
});

describe("the limits", () => {
  it("are 50,000 entries, and 2,500 bytes for each", () => {
    expect(readCacheLimits()).toEqual({ entries: 50_000, bytes: 125_000_000 });
    expect(readCacheLimits({ entries: 10 })).toEqual({ entries: 10, bytes: 25_000 });
    expect(readCacheLimits({ entries: 10, bytes: 7 })).toEqual({ entries: 10, bytes: 7 });
  });

  it.each([
    [{ entries: -1 }, /verifiedCache\.entries/],
    [{ entries: 1.5 }, /verifiedCache\.entries/],
    [{ entries: Number.POSITIVE_INFINITY }, /verifiedCache\.entries/],
    [{ bytes: Number.NaN }, /verifiedCache\.bytes/],
    [{ bytes: "1MB" as unknown as number }, /verifiedCache\.bytes/],
  ])("refuses %o", (options, message) => {
    expect(() => readCacheLimits(options)).toThrow(message);
  });
});

it("types: the verifier returns a result or a promise", () => {
  const { verify } = warmVerifier();
  const verified: VerifiedToken | Promise<VerifiedToken> = verify("junk", now);
  expect(verified).toBeInstanceOf(Promise);
});
