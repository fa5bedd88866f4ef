import type { JSONWebKeySet, JWK } from "jose";
import { decodeBase64url, isKeyId } from "./strict-parse.ts";

/** The algorithms that tokens are signed with (RFC 7518 §3.1, RFC 8037 §3.1). Always a property of the key. */
export type SigningAlgorithm = "ES256" | "RS256" | "EdDSA";

/** What an algorithm asks of its keys and signatures. */
export interface SigningAlgorithmFacts {
  readonly kty: string;
  /** Undefined for RSA, which has none. */
  readonly crv: string | undefined;
  /** The lengths that a signature may have, in bytes, both inclusive. */
  readonly signatureBytes: { readonly min: number; readonly max: number };
  /** The members of a JWK that are the public key, in the order of RFC 7638, and the private ones. */
  readonly members: { readonly public: readonly string[]; readonly private: readonly string[] };
}

/** Every supported algorithm. No two share a type of key, so that a key has exactly one. */
export const signingAlgorithms: Readonly<Record<SigningAlgorithm, SigningAlgorithmFacts>> = {
  ES256: {
    kty: "EC",
    crv: "P-256",
    signatureBytes: { min: 64, max: 64 },
    members: { public: ["crv", "kty", "x", "y"], private: ["d"] },
  },
  RS256: {
    kty: "RSA",
    crv: undefined,
    signatureBytes: { min: 256, max: 1024 },
    members: { public: ["e", "kty", "n"], private: ["d", "p", "q", "dp", "dq", "qi"] },
  },
  EdDSA: {
    kty: "OKP",
    crv: "Ed25519",
    signatureBytes: { min: 64, max: 64 },
    members: { public: ["crv", "kty", "x"], private: ["d"] },
  },
};

/** The names of all algorithms. */
export const signingAlgorithmNames = Object.keys(signingAlgorithms) as readonly SigningAlgorithm[];

/** Whether a name is one that is supported and written; compared exactly. */
export function isSigningAlgorithm(alg: unknown): alg is SigningAlgorithm {
  return typeof alg === "string" && Object.hasOwn(signingAlgorithms, alg);
}

/**
 * The algorithm that the `alg` of a token or JWK names. "Ed25519" is the newer name of what is
 * written as "EdDSA" here (RFC 9864 §2.2), for the verifiers that know the old one only.
 */
export function algorithmNamed(alg: unknown): SigningAlgorithm | undefined {
  const name = alg === "Ed25519" ? "EdDSA" : alg;
  return isSigningAlgorithm(name) ? name : undefined;
}

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

/** Public keys as they are published (RFC 7517 §5). */
export type JsonWebKeySet = JSONWebKeySet;
/** One key (RFC 7517 §4). */
export type JsonWebKey = JWK;

/** Members that no public key has (RFC 7518 §6, `k` of a shared secret included). */
const privateMembers = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] as const;

/**
 * Tells the algorithm of a key from the key itself, and that it is strong enough and meant for
 * `operation` (RFC 7517 §4). Reads no curve point and no prime: that is for the import.
 *
 * @throws TypeError with what to change
 */
export function checkJwk(jwk: JWK, operation: "sign" | "verify"): SigningAlgorithm {
  const alg = algorithmOf(jwk);
  if (jwk.alg !== undefined && algorithmNamed(jwk.alg) !== alg) {
    throw new TypeError(`JWK: "alg" must be "${alg}" for this type of key, or absent`);
  }
  if (jwk.use !== undefined && jwk.use !== "sig") {
    throw new TypeError('JWK: "use" must be "sig", or absent');
  }
  const ops: unknown = jwk.key_ops;
  if (ops !== undefined && !(Array.isArray(ops) && ops.includes(operation))) {
    throw new TypeError(`JWK: "key_ops" must include "${operation}", or be absent`);
  }
  if (jwk.kid !== undefined && !isKeyId(jwk.kid)) {
    throw new TypeError('JWK: "kid" must be 1 to 64 of the characters A-Z a-z 0-9 _ -');
  }
  if (alg === "RS256") {
    assertStrongRsa({ n: jwk.n, e: jwk.e });
  }
  checkHalf(jwk, operation);
  return alg;
}

/** The public half of a private JWK of a supported algorithm, ready for a JWK set (RFC 7517 §5). */
export function publicHalf(
  jwk: JWK,
  facts: { readonly kid: string; readonly alg: SigningAlgorithm },
): JWK {
  return {
    ...pick(jwk, signingAlgorithms[facts.alg].members.public),
    kid: facts.kid,
    alg: facts.alg,
    use: "sig",
  } as JWK;
}

/** The key's own members alone, so that nothing else in the JWK has a say. */
export function ownMembers(jwk: JWK, alg: SigningAlgorithm): JWK {
  const { members } = signingAlgorithms[alg];
  return pick(jwk, [...members.public, ...members.private]);
}

function algorithmOf(jwk: JWK): SigningAlgorithm {
  const alg = signingAlgorithmNames.find((name) => {
    const { kty, crv } = signingAlgorithms[name];
    return jwk.kty === kty && jwk.crv === crv;
  });
  if (alg === undefined) {
    const why =
      jwk.kty === "oct" ? " (whoever verifies with a shared secret could sign with it too)" : "";
    throw new TypeError(
      `JWK: the type of key is not supported${why}; use "kty": "EC" with "crv": "P-256", "kty": "OKP" with "crv": "Ed25519", or "kty": "RSA"`,
    );
  }
  return alg;
}

function checkHalf(jwk: JWK, operation: "sign" | "verify"): void {
  if (operation === "sign") {
    if (typeof jwk.d !== "string") {
      throw new TypeError(
        'JWK: a public key cannot sign; give the private key, with its member "d"',
      );
    }
    return;
  }
  const found = privateMembers.find((name) => (jwk as Record<string, unknown>)[name] !== undefined);
  if (found !== undefined) {
    throw new TypeError(`JWK: a private key must not be published; remove the member "${found}"`);
  }
}

function pick(jwk: JWK, names: readonly string[]): JWK {
  return Object.fromEntries(
    Object.entries(jwk).filter(([name, value]) => names.includes(name) && value !== undefined),
  ) as JWK;
}
