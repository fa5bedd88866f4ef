import type { JWK } from "jose";
import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { checkJwk, isSigningAlgorithm, type SigningAlgorithm } from "../../jwt/jwk.ts";
import { maxKeys } from "../../jwt/jwk-set.ts";
import { assertPem } from "../../jwt/keys.ts";

/**
 * A signing key that stays in a KMS or HSM. Every signature is verified with `publicJwk` before it is
 * used in a token.
 */
export interface RemoteSigner {
  /** Default: the thumbprint of `publicJwk` (RFC 7638). */
  readonly kid?: string;
  /** Must match the type of `publicJwk`. */
  readonly alg: SigningAlgorithm;
  readonly publicJwk: JWK;
  /**
   * Signs the bytes, including the hash that the algorithm requires. For ES256 the result may be r
   * and s of 32 bytes each, or DER. A rejection counts as an outage: the call fails with
   * `unavailable` and nobody is signed out. Set a timeout in your implementation.
   */
  sign(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array>;
}

/** The keys that sign access tokens. */
export interface KeysOptions {
  /**
   * A key of your own: a private JWK (RFC 7517), PEM in PKCS #8 (RFC 5208), or a remote signer.
   * Default: keys are generated, kept in the store encrypted under `secret`, and rotated.
   */
  readonly signing?: JWK | string | RemoteSigner;
  /**
   * Further public keys that verify tokens and are published, as JWKs or PEM in SPKI. Only with
   * `signing`. At most 63.
   *
   * To rotate your own key: 1. add the next public key here on every server; 2. an hour later, make
   * that key `signing` and put the previous public key here; 3. remove it after two hours.
   */
  readonly verification?: readonly (JWK | string)[];
  /**
   * How long a generated key signs. Default "30d"; from "1h" to "400d". The next key is published 10
   * minutes before it signs, and the previous one until every token that it signed has expired.
   */
  readonly rotation?: Duration;
}

/** The checked `keys` options. Checks that need cryptography follow when the keys are loaded. */
export type KeyPlan =
  | {
      readonly kind: "generated";
      readonly algorithm: SigningAlgorithm;
      /** Milliseconds. */
      readonly rotation: number;
    }
  | {
      readonly kind: "own";
      readonly signing: JWK | string | RemoteSigner;
      readonly verification: readonly (JWK | string)[];
      /** The required algorithm; undefined to accept the algorithm of the key. */
      readonly algorithm: SigningAlgorithm | undefined;
    };

/**
 * Resolves and checks the options.
 * @param algorithm the option `algorithm`
 * @throws TypeError that names the wrong option, if options contradict each other or a key is weak or
 * unsuitable
 */
export function readKeyPlan(options: KeysOptions = {}, algorithm?: SigningAlgorithm): KeyPlan {
  assertMembers("keys", options, { signing: 0, verification: 0, rotation: 0 });
  const { signing, verification = [], rotation } = options;
  if (algorithm !== undefined && !isSigningAlgorithm(algorithm)) {
    throw new TypeError(
      `algorithm must be "ES256", "RS256" or "EdDSA", got ${JSON.stringify(algorithm)}`,
    );
  }
  if (signing === undefined) {
    if (verification.length > 0) {
      throw new TypeError(
        "keys.verification requires keys.signing; generated keys are published automatically",
      );
    }
    const days = durationMs("keys.rotation", rotation ?? "30d", {
      min: 3_600_000,
      max: 400 * 86_400_000,
    });
    return { kind: "generated", algorithm: algorithm ?? "ES256", rotation: days };
  }
  if (rotation !== undefined) {
    throw new TypeError(
      "keys.rotation applies to generated keys only; remove either keys.rotation or keys.signing",
    );
  }
  if (verification.length >= maxKeys) {
    throw new TypeError(
      `keys.verification holds at most ${maxKeys - 1} keys, got ${verification.length}`,
    );
  }
  named("keys.signing", () => checkSigning(signing, algorithm));
  verification.forEach((key, i) => {
    named(`keys.verification[${i}]`, () => checkKey(key, "verify"));
  });
  return { kind: "own", signing, verification, algorithm };
}

/** Whether the key is a remote signer. */
export function isRemoteSigner(key: JWK | string | RemoteSigner): key is RemoteSigner {
  return typeof (key as Partial<RemoteSigner> | null)?.sign === "function";
}

/** @throws TypeError if the key has another algorithm than the required one */
export function assertAlgorithm(alg: SigningAlgorithm, wanted: SigningAlgorithm | undefined): void {
  if (wanted !== undefined && alg !== wanted) {
    throw new TypeError(
      `the key has the algorithm "${alg}", but "${wanted}" is required; change one of them`,
    );
  }
}

/** Runs a check of one option; prefixes its error message with the name of the option. */
function named<T>(option: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw error instanceof TypeError
      ? new TypeError(`${option}: ${error.message}`, { cause: error })
      : error;
  }
}

function checkSigning(
  key: JWK | string | RemoteSigner,
  algorithm: SigningAlgorithm | undefined,
): void {
  if (!isRemoteSigner(key)) {
    const alg = checkKey(key, "sign");
    if (alg !== undefined) {
      assertAlgorithm(alg, algorithm);
    }
    return;
  }
  const alg = checkJwk(key.publicJwk, "verify");
  assertAlgorithm(alg, key.alg);
  assertAlgorithm(alg, algorithm);
}

/** @returns the algorithm; undefined for PEM, which is only parsed when it is imported */
function checkKey(key: JWK | string, operation: "sign" | "verify"): SigningAlgorithm | undefined {
  if (typeof key === "string") {
    assertPem(key, operation);
    return undefined;
  }
  if (typeof key !== "object" || key === null) {
    throw new TypeError("the key must be a JWK object or a PEM string");
  }
  return checkJwk(key, operation);
}
