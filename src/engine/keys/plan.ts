import type { JWK } from "jose";
import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { checkJwk, isSigningAlgorithm, type SigningAlgorithm } from "../../jwt/jwk.ts";
import { maxKeys } from "../../jwt/jwk-set.ts";
import { assertPem } from "../../jwt/keys.ts";

/**
 * A signing key that never leaves its keeper, such as a KMS or HSM. Every signature is verified with
 * `publicJwk` before it goes into a token.
 */
export interface RemoteSigner {
  /** Default: the RFC 7638 thumbprint of `publicJwk`. */
  readonly kid?: string;
  /** Must be what the type of `publicJwk` says. */
  readonly alg: SigningAlgorithm;
  readonly publicJwk: JWK;
  /**
   * Signs the bytes; hashing, where the algorithm has a hash, is part of it. ES256 may be answered
   * as r and s of 32 bytes each or in DER. A rejection is an outage: the call fails with
   * `unavailable` and nobody is signed out. Give it a timeout of its own.
   */
  sign(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array>;
}

/** The keys that sign access tokens. */
export interface KeysOptions {
  /**
   * A key of your own: a private JWK, PEM in PKCS #8, or a signer. Default: keys are generated, kept
   * in the store encrypted under `secret`, and rotated.
   */
  readonly signing?: JWK | string | RemoteSigner;
  /**
   * Beside `signing`: public JWKs, or PEM in SPKI, that verify too and are published. To rotate
   * your own key, add the next one here on every server; an hour later make it `signing` and put
   * the former one here; remove that after two hours.
   */
  readonly verification?: readonly (JWK | string)[];
  /**
   * How long a generated key signs. Default "30d"; 1h to 400d. The next one is published 10 minutes
   * before it signs, and the former one until all it signed has expired.
   */
  readonly rotation?: Duration;
}

/** The options of keys, checked as far as that needs no cryptography. */
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
      /** What the signing key must be; undefined when that was left to the key. */
      readonly algorithm: SigningAlgorithm | undefined;
    };

/**
 * Resolves and checks the options.
 * @param algorithm the option `algorithm`
 * @throws TypeError with what to change, when they contradict each other or a key is weak or of no use
 */
export function readKeyPlan(options: KeysOptions = {}, algorithm?: SigningAlgorithm): KeyPlan {
  assertMembers("keys", options, { signing: 0, verification: 0, rotation: 0 });
  const { signing, verification = [], rotation } = options;
  if (algorithm !== undefined && !isSigningAlgorithm(algorithm)) {
    throw new TypeError(
      `algorithm: ${JSON.stringify(algorithm)} is none of "ES256", "RS256", "EdDSA"`,
    );
  }
  if (signing === undefined) {
    if (verification.length > 0) {
      throw new TypeError(
        "keys.verification: goes with keys.signing only; generated keys publish themselves",
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
      "keys.rotation: only generated keys are rotated; leave it out, or keys.signing",
    );
  }
  if (verification.length >= maxKeys) {
    throw new TypeError(`keys.verification: at most ${maxKeys - 1} keys`);
  }
  named("keys.signing", () => checkSigning(signing, algorithm));
  verification.forEach((key, i) => {
    named(`keys.verification[${i}]`, () => checkKey(key, "verify"));
  });
  return { kind: "own", signing, verification, algorithm };
}

/** Whether the key signs elsewhere. */
export function isRemoteSigner(key: JWK | string | RemoteSigner): key is RemoteSigner {
  return typeof (key as Partial<RemoteSigner> | null)?.sign === "function";
}

/** @throws TypeError when a key turns out to be of another algorithm than was asked for */
export function assertAlgorithm(alg: SigningAlgorithm, wanted: SigningAlgorithm | undefined): void {
  if (wanted !== undefined && alg !== wanted) {
    throw new TypeError(
      `the key is one of ${alg}, and "${wanted}" was asked for; change one of them`,
    );
  }
}

/** Runs a check of one option, whose name goes before its message. */
export function named<T>(option: string, check: () => T): T {
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

/** @returns the algorithm; undefined for PEM, which only the import can read */
function checkKey(key: JWK | string, operation: "sign" | "verify"): SigningAlgorithm | undefined {
  if (typeof key === "string") {
    assertPem(key, operation);
    return undefined;
  }
  if (typeof key !== "object" || key === null) {
    throw new TypeError("must be a JWK or PEM");
  }
  return checkJwk(key, operation);
}
