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
