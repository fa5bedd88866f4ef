import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import { isSigningAlgorithm } from "../../src/jwt/jwk.ts";
import {
  type GeneratedKey,
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
} from "../../src/jwt/keys.ts";

let made: GeneratedKey;
let other: GeneratedKey;

beforeAll(async () => {
  made = await generateSigningKey("ES256");
  other = await generateSigningKey("ES256");
});

async function jwkOf(alg: string): Promise<{ publicJwk: JWK; privateJwk: JWK }> {
  const pair = await generateKeyPair(alg, { extractable: true });
  return {
    publicJwk: await exportJWK(pair.publicKey),
    privateJwk: await exportJWK(pair.privateKey),
  };
}

describe("generateSigningKey", () => {
  it("names the key by its thumbprint", async () => {
    expect(made.kid).toBe(await calculateJwkThumbprint(made.publicJwk));
    expect(made.kid).not.toBe(other.kid);
  });

  it("returns JWKs that are ready to be published and stored", () => {
    const facts = { kty: "EC", crv: "P-256", kid: made.kid, alg: "ES256", use: "sig" };
    expect(made.publicJwk).toEqual({ ...facts, x: made.privateJwk.x, y: made.privateJwk.y });
    expect(made.privateJwk).toEqual({ ...made.publicJwk, d: expect.any(String) });
  });
});

describe("importing", () => {
  it("returns keys that can only sign or only verify", async () => {
    const signing = await importSigningKey(made.privateJwk);
    const verification = await importVerificationKey(made.publicJwk);
    expect([signing.kid, signing.alg]).toEqual([made.kid, "ES256"]);
    expect([verification.kid, verification.alg]).toEqual([made.kid, "ES256"]);
    expect([signing.key.type, signing.key.usages]).toEqual(["private", ["sign"]]);
    expect([verification.key.type, verification.key.usages]).toEqual(["public", ["verify"]]);
    expect(signing.key.extractable).toBe(false);
  });

  it("uses the kid of a key, and its thumbprint if there is none", async () => {
    const { kid: _, ...unnamed } = made.publicJwk;
    expect((await importVerificationKey(unnamed as JWK)).kid).toBe(made.kid);
    expect((await importVerificationKey({ ...made.publicJwk, kid: "mine" })).kid).toBe("mine");
    const { kid: __, ...privateUnnamed } = made.privateJwk;
    expect((await importSigningKey(privateUnnamed as JWK)).kid).toBe(made.kid);
  });

  it.each([
    ["nothing more", {}],
    ["key_ops verify", { use: undefined, key_ops: ["verify"] }],
    ["members that are not the key's own", { ext: false, x5u: "https://a.example", foo: 1 }],
  ])("reads a public key with %s", async (_, members) => {
    const { key } = await importVerificationKey({ ...made.publicJwk, ...members } as JWK);
    expect(key.usages).toEqual(["verify"]);
  });

  it.each([
    ["sec:J19 use enc", { use: "enc" }],
    ["sec:J19 use as array", { use: ["sig"] }],
    ["sec:J19 an empty use", { use: "" }],
    ["sec:J19 use null", { use: null }],
    ["sec:J19 key_ops sign", { key_ops: ["sign"] }],
    ["sec:J19 key_ops empty", { key_ops: [] }],
    ["sec:J19 key_ops deriveBits", { key_ops: ["deriveBits"] }],
    ["sec:J19 key_ops as string", { key_ops: "verify" }],
    ["sec:J03 alg ES384", { alg: "ES384" }],
    ["sec:J03 alg RS256", { alg: "RS256" }],
    ["sec:J01 alg none", { alg: "none" }],
    ["sec:J02 kty oct", { kty: "oct", k: "AAAA" }],
    ["another curve", { crv: "P-384" }],
    ["secp256k1", { crv: "secp256k1" }],
    ["no curve", { crv: undefined }],
    ["no kty", { kty: undefined }],
    ["kty RSA", { kty: "RSA" }],
    ["a private half", { d: "AAAA" }],
    ["no y", { y: undefined }],
    ["x as number", { x: 1 }],
    ["a point off the curve", { x: "A".repeat(43) }],
    ["sec:J04 kid with a slash", { kid: "../key" }],
    ["sec:J04 an empty kid", { kid: "" }],
    ["sec:J04 kid of 65 characters", { kid: "k".repeat(65) }],
    ["sec:J04 kid as number", { kid: 1 }],
  ])("%s: refused in a public key", async (_, members) => {
    await expect(
      importVerificationKey({ ...made.publicJwk, ...members } as unknown as JWK),
    ).rejects.toThrow(/^JWK: /);
    await expect(
      importVerificationKey({ ...made.publicJwk, ...members } as unknown as JWK),
    ).rejects.toBeInstanceOf(TypeError);
  });

  it.each([
    ["sec:J19 use enc", { use: "enc" }],
    ["sec:J19 key_ops verify", { key_ops: ["verify"] }],
    ["sec:J03 alg ES384", { alg: "ES384" }],
    ["no private half", { d: undefined }],
    ["a private half that is no number", { d: "A".repeat(43) }],
    ["sec:J04 kid with a dot", { kid: "a.b" }],
  ])("%s: refused in a private key", async (_, members) => {
    await expect(
      importSigningKey({ ...made.privateJwk, ...members } as unknown as JWK),
    ).rejects.toThrow(/^JWK: /);
  });

  it.each(["d", "p", "q", "dp", "dq", "qi", "oth", "k"])(
    "refuses a public key with the private member %s",
    async (member) => {
      await expect(importVerificationKey({ ...made.publicJwk, [member]: "AAAA" })).rejects.toThrow(
        `JWK: a private key must not be published; remove the member "${member}"`,
      );
    },
  );

  it("refuses a private key in place of a public one", async () => {
    await expect(importVerificationKey(made.privateJwk)).rejects.toThrow(/must not be published/);
  });

  it.each([{ crv: "P-384" }, { kty: "RSA" }, { kty: "oct" }, { kty: "OKP" }])(
    "sec:J03 checks both type and curve: %j",
    async (members) => {
      const jwk = { ...made.publicJwk, ...members } as JWK;
      await expect(importVerificationKey(jwk)).rejects.toThrow(/type of key is not supported/);
    },
  );

  it("refuses a private and a public half of different pairs", async () => {
    const { x, y } = other.publicJwk;
    await expect(importSigningKey({ ...made.privateJwk, x, y } as JWK)).rejects.toThrow(/^JWK: /);
  });

  it.each(["ES384", "ES512", "RS256", "PS256", "Ed25519", "ECDH-ES+A128KW"])(
    "sec:J03 refuses a key of %s under any alg",
    async (alg) => {
      const { publicJwk, privateJwk } = await jwkOf(alg);
      const lie = alg === "ECDH-ES+A128KW" ? { use: "enc" } : { alg: "ES256" };
      await expect(importVerificationKey({ ...publicJwk, ...lie } as JWK)).rejects.toThrow(
        /^JWK: /,
      );
      await expect(importSigningKey({ ...privateJwk, ...lie } as JWK)).rejects.toThrow(/^JWK: /);
    },
  );
});

describe("isSigningAlgorithm", () => {
  it.each(["none", "nOnE", "", "es256", "ES256 ", "ES384", "HS256", "__proto__", "toString"])(
    "sec:J01 refuses %j",
    (alg) => {
      expect(isSigningAlgorithm(alg)).toBe(false);
    },
  );

  it("accepts ES256", () => {
    expect(isSigningAlgorithm("ES256")).toBe(true);
  });
});
