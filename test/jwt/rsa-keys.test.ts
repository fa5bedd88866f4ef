import { describe, expect, it } from "vitest";
import { importVerificationKey } from "../../src/jwt/keys.ts";

const encoded = (value: bigint): string => {
  const hex = value.toString(16);
  return Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex").toString("base64url");
};

async function imported(modulus: bigint, exponent = 65_537n): Promise<string> {
  const jwk = { kty: "RSA", n: encoded(modulus), e: encoded(exponent) };
  return importVerificationKey(jwk).then(
    () => "imported",
    (error: Error) => error.message,
  );
}

/** An odd number of `bits` bits that is 0 modulo 3, so that it is no ROCA key. */
function strong(bits: number): bigint {
  const least = 1n << BigInt(bits - 1);
  return least + ((9n - (least % 6n)) % 6n);
}

describe("an RSA key", () => {
  it.each([
    [2047, "has 2047 bits; use a key of 2048 to 8192 bits"],
    [2048, "imported"],
    [8192, "imported"],
    [8193, "has 8193 bits; use a key of 2048 to 8192 bits"],
  ])("sec:J19 of %i bits: %s", async (bits, outcome) => {
    expect(await imported(strong(bits))).toContain(outcome);
  });

  it.each([
    [1n, "weak public exponent"],
    [3n, "weak public exponent"],
    [65_535n, "weak public exponent"],
    [65_536n, "weak public exponent"],
    [65_537n, "imported"],
    [65_538n, "weak public exponent"],
    [65_539n, "imported"],
    [(1n << 32n) - 1n, "imported"],
    [(1n << 32n) + 1n, "weak public exponent"],
  ])("sec:J19 with the exponent %s: %s", async (exponent, outcome) => {
    expect(await imported(strong(2048), exponent)).toContain(outcome);
  });

  it("sec:J19 with an even modulus is refused", async () => {
    expect(await imported(strong(2048) + 1n)).toContain("comes from a broken generator");
  });

  // Powers of 65537 modulo all of these primes mark a ROCA key (Nemec et al., CCS 2017, §2.3).
  const primes = [
    ...[3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89],
    ...[97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167],
  ].map(BigInt);
  const product = primes.reduce((all, prime) => all * prime, 2n);
  const least = (1n << 2047n) / product + 1n;
  /** 65537 to the power of 5 modulo all primes, and odd. */
  const roca = least * product + (65_537n ** 5n % product);

  it("sec:J19 with the mark of ROCA is refused", async () => {
    expect(await imported(roca)).toContain("ROCA");
  });

  it.each(primes)(
    "with the mark of ROCA modulo all primes but %s is no ROCA key",
    async (prime) => {
      // Adding this product changes nothing modulo the other primes.
      const others = product / prime;
      let modulus = roca;
      while (modulus % prime !== 0n) {
        modulus += others;
      }
      expect(await imported(modulus)).toBe("imported");
    },
  );
});
