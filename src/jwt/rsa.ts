import { decodeBase64url } from "./base64url.ts";

/** The bits that the modulus of an RSA key may have (RFC 7518 §3.3); more only make calls slow. */
const bits = { min: 2048, max: 8192 } as const;
/** The least public exponent (FIPS 186-5 §5.4): 1 signs nothing, small ones invite forgery. */
const leastExponent = 65_537n;

/**
 * Checks that an RSA public key is worth its name.
 * @param members `n` and `e` of a JWK
 * @throws TypeError with what to change
 */
export function assertStrongRsa({ n, e }: { readonly n: unknown; readonly e: unknown }): void {
  const modulus = readNumber(n);
  const exponent = readNumber(e);
  if (modulus === undefined || exponent === undefined) {
    throw new TypeError('JWK: "n" and "e" of an RSA key must be numbers in base64url');
  }
  const length = modulus.toString(2).length;
  if (length < bits.min || length > bits.max) {
    throw new TypeError(
      `JWK: the RSA key has ${length} bits; use one of ${bits.min} to ${bits.max} bits`,
    );
  }
  if (exponent < leastExponent || exponent >= 1n << 32n || exponent % 2n === 0n) {
    throw new TypeError('JWK: the RSA key has a weak public exponent; use "e": "AQAB" (65537)');
  }
  if (modulus % 2n === 0n || isRoca(modulus)) {
    throw new TypeError(
      "JWK: the RSA key was made by a broken generator (such as ROCA, CVE-2017-15361); make a new one",
    );
  }
}

function readNumber(text: unknown): bigint | undefined {
  // Longer than any key that is accepted: not worth the arithmetic.
  if (typeof text !== "string" || text === "" || text.length > 2048) {
    return undefined;
  }
  const bytes = decodeBase64url(text);
  if (bytes === undefined) {
    return undefined;
  }
  return BigInt(`0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`);
}

const smallPrimes: readonly number[] = [
  3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101,
  103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/**
 * Whether a modulus is, modulo every small prime, a power of 65537: true of all keys of the broken
 * Infineon library, of others with a chance of about 2^-27 (Nemec et al., CCS 2017, §2.3).
 */
function isRoca(modulus: bigint): boolean {
  return smallPrimes.every((prime) => {
    const remainder = Number(modulus % BigInt(prime));
    let power = 1;
    do {
      if (power === remainder) {
        return true;
      }
      power = (power * 65_537) % prime;
    } while (power !== 1);
    return false;
  });
}
