import { describe, expect, it } from "vitest";
import { openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import { AccessTokens } from "../../src/engine/access-tokens.ts";
import { StoredSigningKeys } from "../../src/engine/keys/stored.ts";
import { maxAccessLife, readLifetimes } from "../../src/engine/lifetimes.ts";
import type { SessionRecord } from "../../src/engine/store.ts";
import { SessionCookies } from "../../src/request/cookies.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";

const issuer = "https://api.example.com";

async function parts(lifetimes = readLifetimes({}, {})) {
  const clock = createFakeClock();
  const store = memoryStore();
  await store.open({ clock });
  const ring = await openSecretRing(readSecretOption("s".repeat(32)), issuer);
  const secrets = { ...ring, isDead: () => false };
  const keys = new StoredSigningKeys({
    store,
    secrets,
    clock,
    algorithm: "ES256",
    rotation: 1e9,
    retention: 1e9,
    maxStaleness: 5_000,
    emit: () => {},
  });
  await keys.open();
  const refreshTokens = { format: 2 } as const;
  const tokens = new AccessTokens({ issuer, audience: issuer, keys, lifetimes, refreshTokens });
  return { tokens, clock };
}

async function recordOf(changes: Partial<SessionRecord>): Promise<SessionRecord> {
  const engine = await startEngine();
  const { id } = await engine.signIn();
  const { record } = await engine.load(id);
  if (record === undefined) {
    throw new Error("the session is gone");
  }
  return { ...record, ...changes };
}

describe("AccessTokens.assertFits", () => {
  it.each(["cookie", "header"] as const)(
    "accepts claims up to the size at which a %s still holds a token of generation 9,999,999,999",
    async (transport) => {
      const { tokens } = await parts();
      const claimsOf = (length: number) => ({ note: "ü".repeat(length / 2) });
      const fits = (length: number): boolean => {
        try {
          const content = { userId: "alice", tenantId: null, transport };
          tokens.assertFits({ ...content, claims: claimsOf(length) });
          return true;
        } catch {
          return false;
        }
      };
      let largest = 0;
      for (let step = 8192; step >= 2; step /= 2) {
        largest += fits(largest + step) ? step : 0;
      }
      expect(largest).toBeGreaterThanOrEqual(transport === "cookie" ? 2_000 : 4_900);
      expect(fits(largest + 2)).toBe(false);
      const now = 9_999_990_000_000;
      const record = await recordOf({
        transport,
        claims: claimsOf(largest),
        claimsVersion: 9_999_999_999,
        generation: 9_999_999_999,
        rotatedAt: now,
        authTime: now,
        idleExpiresAt: now + 1e9,
        expiresAt: now + 1e9,
      });
      const { token } = await tokens.mint({ record, now });
      const cookies = new SessionCookies(new URL(issuer));
      if (transport === "cookie") {
        expect(cookies.set(cookies.names.access, token, 1)).toContain(token);
      }
      expect(token.length).toBeLessThanOrEqual(8192);
    },
  );
});

describe("AccessTokens.mint", () => {
  it("subtracts up to 5 % of the lifetime at random", async () => {
    const { tokens, clock } = await parts();
    const now = clock.now();
    const record = await recordOf({ idleExpiresAt: now + 1e9, expiresAt: now + 1e9 });
    const lives = await Promise.all(
      Array.from({ length: 200 }, async () => {
        const { claims } = await tokens.mint({ record, now });
        return claims.exp - claims.iat;
      }),
    );
    expect(Math.min(...lives)).toBeGreaterThanOrEqual(855 - 1);
    expect(Math.max(...lives)).toBeLessThanOrEqual(900);
    expect(new Set(lives).size).toBeGreaterThan(10);
  });

  it.each([
    ["the idle end", { idleExpiresAt: 5_000, expiresAt: 1e12 }],
    ["the absolute end", { idleExpiresAt: 1e12, expiresAt: 5_000 }],
  ])("never expires after %s", async (_name, ends) => {
    const { tokens } = await parts();
    const record = await recordOf({ ...ends, rotatedAt: 0, authTime: 0 });
    const { claims, expiresIn } = await tokens.mint({ record, now: 1_000 });
    expect(claims).toMatchObject({ iat: 1, exp: 5 });
    expect(expiresIn).toBe(4_000);
  });

  it.each([
    ["earlier", { idleExpiresAt: 900, expiresAt: 1e12 }],
    ["within the current second", { idleExpiresAt: 1e12, expiresAt: 1_999 }],
  ])("makes no token for a session that ends %s", async (_name, ends) => {
    const { tokens } = await parts();
    const record = await recordOf({ ...ends, rotatedAt: 0, authTime: 0 });
    await expect(tokens.mint({ record, now: 1_000 })).rejects.toMatchObject({
      reason: "SESSION_EXPIRED",
    });
  });

  it("never exceeds the maximum lifetime of an access token", async () => {
    const { tokens } = await parts({ ...readLifetimes({}, {}), access: 10 * maxAccessLife });
    const record = await recordOf({ idleExpiresAt: 1e12, expiresAt: 1e12, rotatedAt: 0 });
    const { claims } = await tokens.mint({ record, now: 0 });
    expect(claims.exp - claims.iat).toBeLessThanOrEqual(maxAccessLife / 1000);
  });
});
