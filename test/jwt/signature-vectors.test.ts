// Signatures that a verifier must refuse, built after the families of Project Wycheproof: wrong
// encodings, numbers out of range, other algorithms, and paddings that careless code accepts.
import {
  constants,
  createHash,
  generateKeyPairSync,
  type KeyObject,
  privateEncrypt,
  sign,
} from "node:crypto";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import * as withNode from "../../src/jwt/keys.ts";

const message = Buffer.from("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9");
const other = Buffer.from("eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ");
const hash = (name: string): Buffer => createHash(name).update(message).digest();

const pairs = {
  ES256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
  RS256: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  EdDSA: generateKeyPairSync("ed25519"),
} as const;

/** What is signed, and whether it has to be accepted. */
type Vector = readonly [name: string, signature: Uint8Array, valid?: "valid"];

const concat = (...parts: (Uint8Array | readonly number[])[]): Buffer =>
  Buffer.concat(parts.map((part) => Buffer.from(part)));
const zeros = (length: number): Buffer => Buffer.alloc(length);
const flipped = (bytes: Buffer, at: number, bit = 1): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ bit;
  return copy;
};
const big = (bytes: Buffer): bigint => BigInt(`0x${bytes.toString("hex") || "0"}`);
const bytesOf = (value: bigint, length: number): Buffer =>
  Buffer.from(value.toString(16).padStart(2 * length, "0"), "hex");

/** Every length up to twice the right one, cut from or filled up with a good signature. */
function lengths(good: Buffer): Vector[] {
  const all = Array.from({ length: 2 * good.length + 1 }, (_, length) => length);
  return all
    .filter((length) => length !== good.length)
    .map((length) => [`of ${length} bytes`, concat(good, good).subarray(0, length)]);
}

/** Every bit that decides about something: the first, the last, and one of each byte. */
function bits(good: Buffer): Vector[] {
  return [...good].map((_, at) => [
    `with a bit of byte ${at} changed`,
    flipped(good, at, 1 << (at % 8)),
  ]);
}

function ecdsa(): Vector[] {
  const n = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
  const p = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn;
  const ieee = (key: KeyObject, digest = "sha256", data = message): Buffer =>
    sign(digest, data, { key, dsaEncoding: "ieee-p1363" });
  const good = ieee(pairs.ES256.privateKey);
  const [r, s] = [good.subarray(0, 32), good.subarray(32)];
  const curve = (namedCurve: string): KeyObject =>
    generateKeyPairSync("ec", { namedCurve }).privateKey;
  const edges = [0n, 1n, 2n, n - 1n, n, n + 1n, p - n, p, p + 1n, (1n << 256n) - 1n];
  return [
    ["as it is", good, "valid"],
    ["with n - s", concat(r, bytesOf(n - big(s), 32)), "valid"],
    ...edges.flatMap((a) =>
      edges.map(
        (b): Vector => [`with r = ${a} and s = ${b}`, concat(bytesOf(a, 32), bytesOf(b, 32))],
      ),
    ),
    ...edges.flatMap((edge): Vector[] => [
      [`with r = ${edge}`, concat(bytesOf(edge, 32), s)],
      [`with s = ${edge}`, concat(r, bytesOf(edge, 32))],
    ]),
    ["with s and r exchanged", concat(s, r)],
    ["with a zero before each number", concat([0], r, [0], s)],
    ["with a zero after each number", concat(r, [0], s, [0])],
    ["in DER", sign("sha256", message, pairs.ES256.privateKey)],
    [
      "in DER, filled up to 64 bytes",
      concat(sign("sha256", message, pairs.ES256.privateKey), zeros(64)).subarray(0, 64),
    ],
    ...["sha1", "sha224", "sha384", "sha512"].map(
      (digest): Vector => [`over ${digest}`, ieee(pairs.ES256.privateKey, digest)],
    ),
    ["over another message", ieee(pairs.ES256.privateKey, "sha256", other)],
    ["of another key", ieee(curve("P-256"))],
    ...["P-384", "P-521", "secp256k1"].map(
      (name): Vector => [`of a key on ${name}`, ieee(curve(name))],
    ),
    ...lengths(good),
    ...bits(good),
  ];
}

/** DigestInfo (RFC 8017 §9.2) of a hash. */
const sha256Prefix = Buffer.from("3031300d060960864801650304020105000420", "hex");

function rsa(): Vector[] {
  const { privateKey: key, publicKey } = pairs.RS256;
  const size = 256;
  const raw = (block: Buffer): Buffer =>
    privateEncrypt({ key, padding: constants.RSA_NO_PADDING }, block);
  /** Signs `info` behind a padding of `fill`, and `after` behind it. */
  const padded = (info: Buffer, { type = 1, fill = 0xff, after = zeros(0) } = {}): Buffer => {
    const length = size - 3 - info.length - after.length;
    return raw(concat([0, type], Buffer.alloc(length, fill), [0], info, after));
  };
  const digest = hash("sha256");
  const info = concat(sha256Prefix, digest);
  const good = sign("sha256", message, key);
  const n = big(Buffer.from(publicKey.export({ format: "jwk" }).n ?? "", "base64url"));
  const hex = (text: string, after = digest): Buffer => concat(Buffer.from(text, "hex"), after);
  const more = big(good) + n;
  return [
    ["as it is", good, "valid"],
    ["built by hand", padded(info), "valid"],
    [
      "without the NULL of the algorithm",
      padded(hex("302f300b0609608648016503040201 0420".replace(" ", ""))),
    ],
    [
      "with a long form of the outer length",
      padded(hex("308131300d060960864801650304020105000420")),
    ],
    [
      "with a long form of the inner length",
      padded(hex("303230810d060960864801650304020105000420")),
    ],
    [
      "with a long form of the NULL's length",
      padded(hex("3032300e06096086480165030402010581000420")),
    ],
    [
      "with an indefinite length",
      padded(concat(hex("3080300d060960864801650304020105000420"), [0, 0])),
    ],
    [
      "with a long form of the hash's length",
      padded(hex("3032300d06096086480165030402010500048120")),
    ],
    ["with parameters that are not NULL", padded(hex("3031300d060960864801650304020104000420"))],
    ["with other parameters", padded(hex("3033300f0609608648016503040201050200000420"))],
    ["with the OID of SHA-512", padded(hex("3031300d060960864801650304020305000420"))],
    [
      "with the OID of SHA-1 and the hash of SHA-256",
      padded(hex("302d300906052b0e03021a05000420")),
    ],
    ["with the hash alone", padded(digest)],
    ["with an empty hash", padded(hex("3011300d060960864801650304020105000400", zeros(0)))],
    [
      "with a hash that is cut",
      padded(hex("3021300d060960864801650304020105000410", digest.subarray(0, 16))),
    ],
    ["with a zero after the structure", padded(concat(info, [0]))],
    [
      "with a NULL inside the structure",
      padded(concat(hex("3033300d060960864801650304020105000420"), [5, 0])),
    ],
    ["with a short padding and garbage behind it", padded(info, { after: zeros(180) })],
    [
      "with eight bytes of padding and garbage behind it",
      padded(info, { after: zeros(size - 3 - info.length - 8) }),
    ],
    ["with a padding of zeros", padded(info, { fill: 0 })],
    ["with a padding of 0xfe", padded(info, { fill: 0xfe })],
    ["with block type 0", padded(info, { type: 0 })],
    ["with block type 2", padded(info, { type: 2 })],
    [
      "with one byte of padding that is not 0xff",
      raw(concat([0, 1, 0xfe], Buffer.alloc(size - 4 - info.length, 0xff), [0], info)),
    ],
    [
      "without the separator",
      raw(concat([0, 1], Buffer.alloc(size - 2 - info.length, 0xff), info)),
    ],
    ...["sha1", "sha224", "sha384", "sha512", "md5"].map(
      (name): Vector => [`over ${name}`, sign(name, message, key)],
    ),
    [
      "with PSS",
      sign("sha256", message, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }),
    ],
    ["over another message", sign("sha256", other, key)],
    [
      "of another key",
      sign("sha256", message, generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey),
    ],
    [
      "of a longer key",
      sign("sha256", message, generateKeyPairSync("rsa", { modulusLength: 3072 }).privateKey),
    ],
    ["plus the modulus", bytesOf(more, more >> 2048n === 0n ? size : size + 1)],
    ["that is 0", zeros(size)],
    ["that is 1", bytesOf(1n, size)],
    ["that is n - 1", bytesOf(n - 1n, size)],
    ["that is n", bytesOf(n, size)],
    ["with a zero before it", concat([0], good)],
    ...lengths(good).filter((_, i) => i % 16 === 0 || i === 254 || i === 255),
    ...bits(good).filter((_, i) => i % 8 === 0),
  ];
}

function ed25519(): Vector[] {
  const { privateKey: key } = pairs.EdDSA;
  const order = (1n << 252n) + 27742317777372353535851937790883648493n;
  const good = sign(null, message, key);
  const [r, s] = [good.subarray(0, 32), good.subarray(32)];
  const little = (bytes: Buffer): bigint => big(Buffer.from(bytes).reverse());
  const littleBytes = (value: bigint): Buffer => bytesOf(value, 32).reverse();
  const scalars = [0n, 1n, order - 1n, order, order + 1n, (1n << 255n) - 1n, (1n << 256n) - 1n];
  // Points of order 1, 2, 4 and 8, and encodings that are not canonical (RFC 8032 §5.1.3).
  const points = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  ].map((text) => Buffer.from(text, "hex"));
  return [
    ["as it is", good, "valid"],
    ...[1n, 2n, 8n, 15n].map((times): Vector => {
      const value = little(s) + times * order;
      return [`with s plus ${times} times the order`, concat(r, littleBytes(value % (1n << 256n)))];
    }),
    ...scalars.map((value): Vector => [`with s = ${value}`, concat(r, littleBytes(value))]),
    ...points.flatMap((point): Vector[] => [
      [`with R = ${point.toString("hex")}`, concat(point, s)],
      [`with R = ${point.toString("hex")} and s = 0`, concat(point, zeros(32))],
    ]),
    ["with R and s exchanged", concat(s, r)],
    ["with R twice", concat(r, r)],
    ["over the hash of the message", sign(null, hash("sha512"), key)],
    ["over another message", sign(null, other, key)],
    ["of another key", sign(null, message, generateKeyPairSync("ed25519").privateKey)],
    ["of an Ed448 key", sign(null, message, generateKeyPairSync("ed448").privateKey)],
    ...lengths(good),
    ...bits(good),
  ];
}

const vectors: Readonly<Record<SigningAlgorithm, readonly Vector[]>> = {
  ES256: ecdsa(),
  RS256: rsa(),
  EdDSA: ed25519(),
};

/** The modules of a runtime without `node:crypto`, which uses Web Crypto. */
async function withoutNode(): Promise<typeof withNode> {
  vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never);
  vi.resetModules();
  return import("../../src/jwt/keys.ts");
}

afterEach(() => {
  vi.restoreAllMocks();
  vi.resetModules();
});

describe.each(["ES256", "RS256", "EdDSA"] as const)("%s signatures", (alg) => {
  it.each(["node:crypto", "Web Crypto"])(
    "sec:J10 that are malformed or of another kind are refused by %s, and none is an error",
    async (runtime) => {
      const { importVerificationKey, isSignature } =
        runtime === "node:crypto" ? withNode : await withoutNode();
      const key = await importVerificationKey(pairs[alg].publicKey.export({ format: "jwk" }));
      const wrong: string[] = [];
      for (const [name, signature, valid] of vectors[alg]) {
        const found = await isSignature(key, new Uint8Array(message), new Uint8Array(signature));
        if (found !== (valid === "valid")) {
          wrong.push(name);
        }
      }
      expect(wrong).toEqual([]);
      expect(vectors[alg].length).toBeGreaterThan(80);
    },
  );
});
