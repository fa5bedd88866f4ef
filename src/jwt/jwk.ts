import type { JSONWebKeySet, JWK } from "jose";
import { decodeBase64url, isKeyId } from "./strict-parse.ts";

/** Public keys in the form in which they are published (RFC 7517 §5). */
export type JsonWebKeySet = JSONWebKeySet;
/** One key (RFC 7517 §4). */
export type JsonWebKey = JWK;

/** A signature algorithm of access tokens (RFC 7518 §3.1, RFC 8037 §3.1). The key determines it. */
export type SigningAlgorithm = "ES256" | "RS256" | "EdDSA";

/** The requirements of an algorithm on its keys and signatures. */
interface SigningAlgorithmFacts {
  readonly kty: string;
  /** Undefined for RSA, which has no curve. */
  readonly crv: string | undefined;
  /** The possible lengths of a signature in bytes, both inclusive. */
  readonly signatureBytes: { readonly min: number; readonly max: number };
  /** The members of a JWK: those of the public key, in the order of RFC 7638, and the private ones. */
  readonly members: { readonly public: readonly string[]; readonly private: readonly string[] };
}

/** All supported algorithms. Each has its own type of key, so a key has exactly one algorithm. */
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

/** Whether a value is the name of a supported algorithm; compared exactly. */
export function isSigningAlgorithm(alg: unknown): alg is SigningAlgorithm {
  return typeof alg === "string" && Object.hasOwn(signingAlgorithms, alg);
}

/**
 * Returns the algorithm named by the `alg` of a token or JWK. "Ed25519" is the newer name of "EdDSA"
 * (RFC 9864 §2.2). Both are read. Only the old name is written, because some verifiers support no other.
 */
export function algorithmNamed(alg: unknown): SigningAlgorithm | undefined {
  const name = alg === "Ed25519" ? "EdDSA" : alg;
  return isSigningAlgorithm(name) ? name : undefined;
}

/**
 * Determines the algorithm of a key, and checks that the key is strong enough and meant for
 * `operation` (RFC 7517 §4). Does not check curve points and primes; the import does.
 *
 * @throws TypeError if the key is not supported, too weak or not meant for `operation`
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
  if (jwk.kid !== undefined) {
    assertKeyId(jwk.kid);
  }
  if (alg === "RS256") {
    assertStrongRsa({ n: jwk.n, e: jwk.e });
  }
  checkHalf(jwk, operation);
  return alg;
}

/** @throws TypeError when a value cannot be the id of a key in a token */
export function assertKeyId(kid: unknown): asserts kid is string {
  if (!isKeyId(kid)) {
    throw new TypeError(
      'JWK: "kid" must be 1 to 64 characters long and consist of A-Z, a-z, 0-9, "_" and "-"',
    );
  }
}

/** Returns the public half of a private JWK of a supported algorithm, ready for a JWK set (RFC 7517 §5). */
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

/** Returns only the members that make up the key, so that no other member has an effect. */
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
      jwk.kty === "oct"
        ? " (anyone who can verify with a shared secret can also sign with it)"
        : "";
    throw new TypeError(
      `JWK: the type of key is not supported${why}; use "kty": "EC" with "crv": "P-256", "kty": "OKP" with "crv": "Ed25519", or "kty": "RSA"`,
    );
  }
  return alg;
}

/** Members that only private and secret keys have (RFC 7518 §6). */
const privateMembers = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] as const;

function checkHalf(jwk: JWK, operation: "sign" | "verify"): void {
  if (operation === "sign") {
    if (typeof jwk.d !== "string") {
      throw new TypeError(
        'JWK: a public key cannot sign; pass the private key, which has the member "d"',
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

/** The accepted lengths of an RSA modulus in bits (RFC 7518 §3.3). Longer ones only make calls slow. */
const rsaBits = { min: 2048, max: 8192 } as const;
/** The minimum public exponent (FIPS 186-5 §5.4). Small ones make forgery easier, and 1 makes it trivial. */
const leastExponent = 65_537n;

/**
 * Checks the strength of an RSA public key.
 * @param members `n` and `e` of a JWK
 * @throws TypeError if the key is weak
 */
function assertStrongRsa({ n, e }: { readonly n: unknown; readonly e: unknown }): void {
  const modulus = readNumber(n);
  const exponent = readNumber(e);
  if (modulus === undefined || exponent === undefined) {
    throw new TypeError('JWK: "n" and "e" of an RSA key must be numbers in base64url');
  }
  const length = modulus.toString(2).length;
  if (length < rsaBits.min || length > rsaBits.max) {
    throw new TypeError(
      `JWK: the RSA key has ${length} bits; use a key of ${rsaBits.min} to ${rsaBits.max} bits`,
    );
  }
  if (exponent < leastExponent || exponent >= 1n << 32n || exponent % 2n === 0n) {
    throw new TypeError('JWK: the RSA key has a weak public exponent; use "e": "AQAB" (65537)');
  }
  if (modulus % 2n === 0n || isRoca(modulus)) {
    throw new TypeError(
      "JWK: the RSA key comes from a broken generator (such as ROCA, CVE-2017-15361); generate a new key",
    );
  }
}

function readNumber(text: unknown): bigint | undefined {
  // A longer text exceeds the longest accepted key, so it is not decoded.
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
 * Whether a modulus is a power of 65537 modulo every small prime. That is true of all keys of the
 * broken Infineon library, and of others with a probability of about 2^-27 (Nemec et al., CCS 2017,
 * §2.3).
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
