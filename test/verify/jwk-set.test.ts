import { generateKeyPairSync } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import type { JsonWebKey } from "../../src/jwt/jwk.ts";
import { readKeySet } from "../../src/jwt/jwk-set.ts";
import { type GeneratedKey, generateSigningKey } from "../../src/jwt/keys.ts";

let good: GeneratedKey;
let other: GeneratedKey;

beforeAll(async () => {
  [good, other] = [await generateSigningKey("ES256"), await generateSigningKey("EdDSA")];
});

async function kids(keys: readonly unknown[]): Promise<string[]> {
  return [...(await readKeySet({ keys })).keys()];
}

function rsa(modulusLength: number): JsonWebKey {
  const { publicKey } = generateKeyPairSync("rsa", { modulusLength });
  return { ...publicKey.export({ format: "jwk" }), kid: "rsa" } as JsonWebKey;
}

describe("readKeySet", () => {
  it("reads the keys of every algorithm and ignores everything else in the set", async () => {
    const set = { keys: [good.publicJwk, other.publicJwk, rsa(2048)], next: "https://x" };
    const keys = await readKeySet(set);
    expect([...keys.values()].map(({ alg }) => alg)).toEqual(["ES256", "EdDSA", "RS256"]);
  });

  it("identifies a key without kid by its thumbprint, and reads Ed25519 as EdDSA", async () => {
    const { kid: _, ...unnamed } = good.publicJwk;
    const renamed = { ...other.publicJwk, alg: "Ed25519" };
    expect(await kids([unnamed, renamed])).toEqual([good.kid, other.kid]);
  });

  it.each<readonly [string, () => unknown]>([
    ["sec:V08 a shared secret", () => ({ kty: "oct", k: "AAAA", kid: "x", alg: "HS256" })],
    ["sec:V08 a private key", () => ({ ...other.privateJwk, kid: "x" })],
    [
      "sec:V08 an RSA key with p",
      () => ({ kty: "RSA", n: "AQAB", e: "AQAB", p: "AQAB", kid: "x" }),
    ],
    ["sec:J19 use enc", () => ({ ...other.publicJwk, kid: "x", use: "enc" })],
    ["sec:J19 key_ops without verify", () => ({ ...other.publicJwk, kid: "x", key_ops: ["sign"] })],
    ["sec:J19 key_ops encrypt", () => ({ ...other.publicJwk, kid: "x", key_ops: ["encrypt"] })],
    [
      "sec:J03 an algorithm that is not the key's",
      () => ({ ...other.publicJwk, kid: "x", alg: "ES256" }),
    ],
    ["sec:J18 RSA of 1024 bits", () => rsa(1024)],
    ["sec:J04 a kid with a slash", () => ({ ...other.publicJwk, kid: "../x" })],
    ["sec:J04 __proto__ as kid of an unsupported key", () => ({ kty: "EC", kid: "__proto__" })],
    ["an unknown type", () => ({ kty: "AKP", alg: "ML-DSA-44", kid: "x", pub: "AA" })],
    ["null", () => null],
    ["a string", () => "key"],
    ["an array", () => []],
  ])("%s: is skipped, and the other keys are kept", async (_, bad) => {
    expect(await kids([bad(), good.publicJwk])).toEqual([good.kid]);
    await expect(readKeySet({ keys: [bad()] })).rejects.toThrow(/no key/);
  });

  it.each<readonly [string, () => readonly unknown[]]>([
    ["the same key twice", () => [good.publicJwk, good.publicJwk]],
    ["two keys with one kid", () => [good.publicJwk, { ...other.publicJwk, kid: good.kid }]],
    [
      "one kid for signing and encrypting",
      () => [good.publicJwk, { kty: "EC", use: "enc", kid: good.kid }],
    ],
    [
      "one kid with a shared secret",
      () => [{ kty: "oct", k: "AA", kid: good.kid }, good.publicJwk],
    ],
    [
      "a kid that is another's thumbprint",
      () => {
        const { kid, ...unnamed } = good.publicJwk;
        return [unnamed, { ...other.publicJwk, kid }];
      },
    ],
  ])("sec:V08 sec:J04 refuses an ambiguous set: %s", async (_, keys) => {
    await expect(readKeySet({ keys: keys() })).rejects.toThrow(/same "kid"/);
  });

  it.each([undefined, null, [], "keys", {}, { keys: {} }, { keys: null }])(
    "sec:V08 refuses a value that is not a set: %j",
    async (value) => {
      await expect(readKeySet(value)).rejects.toThrow(/^JWK set: the value must be/);
    },
  );

  it("sec:V08 reads 64 keys, and refuses 65", async () => {
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ ...good.publicJwk, kid: `k${i}` }));
    expect(await kids(many(64))).toHaveLength(64);
    await expect(readKeySet({ keys: many(65) })).rejects.toThrow(/65 keys/);
  });
});
