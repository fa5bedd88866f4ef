import { sign as nodeSign } from "node:crypto";
import { exportPKCS8, generateKeyPair } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import { signAccessToken } from "../../src/jwt/keys.ts";
import {
  accepted,
  accessClaims,
  base64url,
  type Keys,
  type Look,
  lookWith,
  makeKeys,
  now,
  refused,
  refusedEarly,
  verifierOf,
} from "./fixture.ts";

let keys: Keys;
let token: string;

beforeAll(async () => {
  keys = await makeKeys();
  token = await signAccessToken(accessClaims, keys.signing);
});

const look = (candidate: string): Promise<Look> => lookWith(keys.verification, candidate);

describe("the signature", () => {
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
  const bytesOf = (value: bigint): Buffer =>
    Buffer.from(value.toString(16).padStart(64, "0"), "hex");
  const signatureOf = (text: string): Buffer => Buffer.from(text.split(".")[2] ?? "", "base64url");
  const withSignature = (...parts: Uint8Array[]): string =>
    `${token.split(".").slice(0, 2).join(".")}.${base64url(Buffer.concat(parts))}`;
  const r = (): Buffer => signatureOf(token).subarray(0, 32);
  const s = (): Buffer => signatureOf(token).subarray(32);
  const zero = bytesOf(0n);
  const max = Buffer.alloc(32, 0xff);

  it("is accepted unchanged", async () => {
    expect(await look(withSignature(r(), s()))).toEqual(accepted);
  });

  it.each<[string, () => Uint8Array[]]>([
    ["r = 0, s = 0", () => [zero, zero]],
    ["r = 0", () => [zero, s()]],
    ["s = 0", () => [r(), zero]],
    ["r = n", () => [bytesOf(order), s()]],
    ["s = n", () => [r(), bytesOf(order)]],
    ["r = n, s = n", () => [bytesOf(order), bytesOf(order)]],
    ["r = n + 1", () => [bytesOf(order + 1n), s()]],
    ["s = n + 1", () => [r(), bytesOf(order + 1n)]],
    ["r = 1, s = 1", () => [bytesOf(1n), bytesOf(1n)]],
    ["all bits", () => [max, max]],
    ["r and s swapped", () => [s(), r()]],
    ["s twice", () => [s(), s()]],
  ])("sec:J10 with %s is refused", async (_, parts) => {
    expect(await look(withSignature(...parts()))).toEqual(refused);
  });

  it.each<[string, () => Uint8Array[]]>([
    ["63 bytes", () => [r(), s().subarray(0, 31)]],
    ["65 bytes", () => [r(), s(), zero.subarray(0, 1)]],
    ["65 bytes with a leading zero", () => [zero.subarray(0, 1), r(), s()]],
    ["32 bytes", () => [r()]],
    ["1 byte", () => [zero.subarray(0, 1)]],
    ["128 bytes", () => [r(), s(), r(), s()]],
  ])("sec:J10 of %s is refused before any key lookup", async (_, parts) => {
    expect(await look(withSignature(...parts()))).toEqual(refusedEarly);
  });

  it.each([
    ["ES256", 63, refusedEarly],
    ["ES256", 64, refused],
    ["ES256", 65, refusedEarly],
    ["RS256", 255, refusedEarly],
    ["RS256", 256, refused],
    ["RS256", 1024, refused],
    ["RS256", 1025, refusedEarly],
    ["EdDSA", 63, refusedEarly],
    ["EdDSA", 64, refused],
    ["EdDSA", 65, refusedEarly],
  ] as const)(
    "sec:J10 for %s with %i bytes: a key is looked up only if the length is possible",
    async (alg, length, outcome) => {
      const header = { alg, kid: keys.verification.kid, typ: "at+jwt" };
      const payload = token.split(".")[1];
      const signature = base64url(new Uint8Array(length).fill(1));
      expect(await look(`${base64url(header)}.${payload}.${signature}`)).toEqual(outcome);
    },
  );

  it("sec:J10 is refused in DER", async () => {
    const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
    const input = token.split(".").slice(0, 2).join(".");
    const pem = await exportPKCS8(privateKey);
    const der = nodeSign("sha256", Buffer.from(input), { key: pem, dsaEncoding: "der" });
    const raw = nodeSign("sha256", Buffer.from(input), { key: pem, dsaEncoding: "ieee-p1363" });
    const key = { kid: keys.signing.kid, alg: "ES256", key: publicKey } as const;
    const verify = verifierOf([key]);
    expect((await verify(`${input}.${base64url(raw)}`, now)).status).toBe("valid");
    expect((await verify(`${input}.${base64url(der)}`, now)).status).toBe("invalid");
  });

  it("has a twin that ECDSA also accepts, so that the text of a token does not identify it", async () => {
    const twin = order - BigInt(`0x${s().toString("hex")}`);
    expect(await look(withSignature(r(), bytesOf(twin)))).toEqual(accepted);
  });
});
