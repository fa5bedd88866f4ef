import { createPrivateKey, createSign, generateKeyPairSync, type KeyObject } from "node:crypto";
import { createLocalJWKSet, decodeProtectedHeader, jwtVerify } from "jose";
import {
  createSessions,
  type JsonWebKey,
  type RemoteSigner,
  type SessionsOptions,
} from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { describe, expect, it } from "vitest";

const issuer = "https://api.example.com";

type Keys = NonNullable<SessionsOptions["keys"]>;

function sessionsWith(keys: Keys, more: Partial<SessionsOptions> = {}) {
  return createSessions({ issuer, store: memoryStore(), keys, ...more });
}

const pairs = {
  ES256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
  RS256: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  EdDSA: generateKeyPairSync("ed25519"),
};
type Alg = keyof typeof pairs;
const algorithms = Object.keys(pairs) as Alg[];

function jwkOf(key: KeyObject): JsonWebKey {
  return key.export({ format: "jwk" }) as JsonWebKey;
}

function pemOf(key: KeyObject): string {
  return String(key.export({ type: key.type === "private" ? "pkcs8" : "spki", format: "pem" }));
}

/** A signer that behaves like a KMS: ES256 signatures are DER. */
function kms(alg: Alg, more: Partial<RemoteSigner> = {}): RemoteSigner {
  const { privateKey, publicKey } = pairs[alg];
  return {
    alg,
    publicJwk: jwkOf(publicKey),
    sign: async (data) => {
      const { sign } = await import("node:crypto");
      return sign(alg === "EdDSA" ? null : "sha256", data, privateKey);
    },
    ...more,
  };
}

/** Issues a token, and verifies it with jose and the published keys only. */
async function roundTrip(keys: Keys, more: Partial<SessionsOptions> = {}) {
  const sessions = sessionsWith(keys, more);
  const { tokens } = await sessions.issue({ userId: "alice" });
  const jwks = await sessions.jwks();
  const verified = await jwtVerify(tokens.accessToken, createLocalJWKSet(jwks), {
    issuer,
    audience: issuer,
    typ: "at+jwt",
  });
  const responseHeader = new Headers();
  const requestHeader = new Headers({ authorization: `Bearer ${tokens.accessToken}` });
  const session = await sessions.getSession({
    requestHeader,
    responseHeader,
    requestMethod: "POST",
  });
  expect(session.userId).toBe("alice");
  expect(verified.payload.sub).toBe("alice");
  await sessions.close();
  return { header: decodeProtectedHeader(tokens.accessToken), jwks };
}

describe("feat:H3 keys of your own", () => {
  it.each(algorithms)(
    "sign as a JWK and as PEM, with the algorithm of the key: %s",
    async (alg) => {
      const { privateKey } = pairs[alg];
      const byJwk = await roundTrip({ signing: jwkOf(privateKey) });
      const byPem = await roundTrip({ signing: pemOf(privateKey) });
      expect(byJwk.header.alg).toBe(alg);
      expect(byPem).toEqual(byJwk);
      expect(JSON.stringify(byJwk.jwks)).not.toMatch(/"(d|p|q|dp|dq|qi)"/);
    },
  );

  it.each(algorithms)("feat:H9 sign with a remote signer: %s", async (alg) => {
    const { header, jwks } = await roundTrip({ signing: kms(alg, { kid: "kms-1" }) });
    expect(header).toEqual({ alg, kid: "kms-1", typ: "at+jwt" });
    expect(jwks.keys).toMatchObject([{ kid: "kms-1", alg, use: "sig" }]);
  });

  it("feat:H9 a remote signer may return ES256 signatures in DER, with any leading zeros of r and s", async () => {
    const raw = kms("ES256", {
      sign: async (data) =>
        createSign("sha256")
          .update(data)
          .sign({
            key: createPrivateKey(pemOf(pairs.ES256.privateKey)),
            dsaEncoding: "ieee-p1363",
          }),
    });
    await roundTrip({ signing: raw });
    const sessions = sessionsWith({ signing: kms("ES256") });
    for (let i = 0; i < 600; i++) {
      const { tokens } = await sessions.issue({ userId: "alice" });
      expect(Buffer.from(tokens.accessToken.split(".")[2] ?? "", "base64url")).toHaveLength(64);
    }
    await sessions.close();
  });

  it("feat:D9 a key is rotated in three steps: further keys verify and are published too", async () => {
    const [old, next] = [
      generateKeyPairSync("ec", { namedCurve: "P-256" }),
      generateKeyPairSync("ed25519"),
    ];
    const store = memoryStore();
    const secret = "s".repeat(32);
    const first = sessionsWith(
      { signing: jwkOf(old.privateKey), verification: [pemOf(next.publicKey)] },
      { store, secret },
    );
    const second = sessionsWith(
      { signing: jwkOf(next.privateKey), verification: [jwkOf(old.publicKey)] },
      { store, secret },
    );
    for (const [from, to] of [
      [first, second],
      [second, first],
    ] as const) {
      const { tokens } = await from.issue({ userId: "alice" });
      const requestHeader = new Headers({ authorization: `Bearer ${tokens.accessToken}` });
      const exchange = { requestHeader, responseHeader: new Headers(), requestMethod: "POST" };
      expect((await to.getSession(exchange)).userId).toBe("alice");
      expect((await to.jwks()).keys).toHaveLength(2);
    }
  });

  it("feat:H9 a remote signer that fails is an outage; a wrong signature is an internal error", async () => {
    const down = sessionsWith({
      signing: kms("ES256", { sign: () => Promise.reject(new Error("CANARY")) }),
    });
    await expect(down.issue({ userId: "alice" })).rejects.toMatchObject({ kind: "unavailable" });
    const lying = sessionsWith({ signing: kms("ES256", { sign: async () => new Uint8Array(64) }) });
    await expect(lying.issue({ userId: "alice" })).rejects.toMatchObject({ kind: "general" });
  });
});

describe("sec:J18 keys that are refused at construction", () => {
  const ec = jwkOf(pairs.ES256.privateKey);
  const rsa = jwkOf(pairs.RS256.privateKey);
  const shortRsa = generateKeyPairSync("rsa", { modulusLength: 1024 });
  const roca = rocaModulus();

  it.each<readonly [string, Keys, RegExp]>([
    ["RSA of 1024 bits", { signing: jwkOf(shortRsa.privateKey) }, /1024 bits; use a key of 2048/],
    ["RSA of 16384 bits", { signing: { ...rsa, n: "__".repeat(1365) } }, /"n" and "e"|bits/],
    ["RSA with e = 1", { signing: { ...rsa, e: "AQ" } }, /weak public exponent/],
    ["RSA with e = 3", { signing: { ...rsa, e: "Aw" } }, /weak public exponent/],
    ["RSA with an even e", { signing: { ...rsa, e: "AQAA" } }, /weak public exponent/],
    [
      "RSA without e",
      { signing: { ...rsa, e: undefined } as unknown as JsonWebKey },
      /"n" and "e"/,
    ],
    ["ROCA", { signing: { ...rsa, n: roca } }, /ROCA/],
    ["HMAC", { signing: { kty: "oct", k: "A".repeat(43) } }, /shared secret/],
    ["P-384", { signing: { ...ec, crv: "P-384" } }, /type of key is not supported/],
    ["RSA for PS256", { signing: { ...rsa, alg: "PS256" } }, /"alg" must be "RS256"/],
    ["a public key", { signing: jwkOf(pairs.ES256.publicKey) }, /a public key cannot sign/],
    ["sec:J19 use enc", { signing: { ...ec, use: "enc" } }, /"use" must be "sig"/],
    ["sec:J19 key_ops", { signing: { ...ec, key_ops: ["deriveBits"] } }, /"key_ops" must include/],
    [
      "a private key among the keys to publish",
      { signing: ec, verification: [ec] },
      /^keys\.verification\[0\].*private/,
    ],
    ["PEM of the public half", { signing: pemOf(pairs.ES256.publicKey) }, /PRIVATE KEY.*openssl/],
    [
      "PEM in SEC1",
      { signing: String(pairs.ES256.privateKey.export({ type: "sec1", format: "pem" })) },
      /openssl pkcs8/,
    ],
    ["a string that is not PEM", { signing: "secret" }, /^keys\.signing: PEM/],
    ["null", { signing: null as unknown as string }, /^keys\.signing: the key must be/],
    [
      "a signer of another algorithm",
      { signing: kms("ES256", { alg: "RS256" }) },
      /the algorithm "ES256", but/,
    ],
    ["a weak signer", { signing: kms("RS256", { publicJwk: jwkOf(shortRsa.publicKey) }) }, /bits/],
    ["rotation with a signing key of your own", { signing: ec, rotation: "1d" }, /^keys\.rotation/],
    ["rotation every minute", { rotation: "1m" }, /^keys\.rotation must be at least/],
    ["rotation just under 1 h", { rotation: "3599999ms" }, /^keys\.rotation must be at least 1h/],
    [
      "rotation just over 400 d",
      { rotation: "34560000.1s" },
      /^keys\.rotation must be at most 400d/,
    ],
    ["verification keys without a signing key", { verification: [ec] }, /^keys\.verification/],
  ])("%s", (_, keys, message) => {
    expect(() => sessionsWith(keys)).toThrow(TypeError);
    expect(() => sessionsWith(keys)).toThrow(message);
  });

  it.each(["1h", "400d"] as const)("but not rotation every %s", async (rotation) => {
    const sessions = sessionsWith({ rotation });
    await expect(sessions.close()).resolves.toBeUndefined();
  });

  it.each(["HS256", "none", "ES384", "PS256", "Ed25519", ""])("algorithm %j", (algorithm) => {
    const wrong = algorithm as "ES256";
    expect(() => sessionsWith({}, { algorithm: wrong })).toThrow(/^algorithm must be /);
  });

  it("an algorithm that the key does not have", () => {
    expect(() => sessionsWith({ signing: ec }, { algorithm: "RS256" })).toThrow(
      /the algorithm "ES256", but/,
    );
  });
});

describe("sec:J18 keys that are refused when they are loaded", () => {
  const shortRsa = pemOf(generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey);
  const p384 = pemOf(generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey);
  const pss = pemOf(generateKeyPairSync("rsa-pss", { modulusLength: 2048 }).privateKey);
  const es256 = pemOf(pairs.ES256.privateKey);

  it.each<readonly [string, Keys, RegExp]>([
    ["PEM of RSA with 1024 bits", { signing: shortRsa }, /1024 bits|supported type/],
    ["PEM of P-384", { signing: p384 }, /the type of the key is not supported/],
    ["PEM of RSA-PSS", { signing: pss }, /the type of the key is not supported/],
    ["damaged PEM", { signing: es256.replace(/\n.{10}/, "\nAAAAAAAAAA") }, /PEM/],
    [
      "the same key twice",
      { signing: es256, verification: [pemOf(pairs.ES256.publicKey)] },
      /same "kid"/,
    ],
  ])("%s", async (_, keys, message) => {
    const failure = await sessionsWith(keys)
      .ready()
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({ kind: "unavailable", message: expect.stringContaining("key") });
    expect((failure as Error).cause).toMatchObject({ message: expect.stringMatching(message) });
  });

  it("a PEM key with another algorithm than the option algorithm", async () => {
    const sessions = sessionsWith({ signing: es256 }, { algorithm: "EdDSA" });
    await expect(sessions.ready()).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/the algorithm "ES256", but/) },
    });
  });

  it.each(algorithms)("a private half that does not match the public half: %s", async (alg) => {
    const other = {
      ES256: () => generateKeyPairSync("ec", { namedCurve: "P-256" }),
      RS256: () => generateKeyPairSync("rsa", { modulusLength: 2048 }),
      EdDSA: () => generateKeyPairSync("ed25519"),
    }[alg]();
    const { x, y, n } = jwkOf(other.publicKey) as Record<string, string>;
    const halves = alg === "RS256" ? { n } : alg === "EdDSA" ? { x } : { x, y };
    const mixed = { ...jwkOf(pairs[alg].privateKey), ...halves } as JsonWebKey;
    await expect(sessionsWith({ signing: mixed }).ready()).rejects.toMatchObject({
      kind: "unavailable",
    });
  });
});

describe("generated keys", () => {
  it.each(algorithms)("sign with the algorithm of the options: %s", async (algorithm) => {
    const { header } = await roundTrip({}, { algorithm });
    expect(header.alg).toBe(algorithm);
  });
});

/** A modulus as the vulnerable generator creates it (Nemec et al. 2017, section 2). */
function rocaModulus(): string {
  let primorial = 1n;
  let count = 0;
  for (let n = 2n; count < 225; n++) {
    if (
      Array.from({ length: Number(n) - 2 }, (_, i) => BigInt(i) + 2n).every((d) => n % d !== 0n)
    ) {
      primorial *= n;
      count++;
    }
  }
  let power = 1n;
  for (let i = 0; i < 12345; i++) {
    power = (power * 65_537n) % primorial;
  }
  let modulus = power;
  while (modulus.toString(2).length < 2048) {
    modulus += primorial << BigInt(2047 - primorial.toString(2).length);
  }
  return Buffer.from(modulus.toString(16).padStart(512, "0"), "hex").toString("base64url");
}
