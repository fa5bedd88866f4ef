import type { JSONWebKeySet, JWK } from "jose";
import {
  algorithmNamed,
  type SigningAlgorithm,
  signingAlgorithmNames,
  signingAlgorithms,
} from "./algorithms.ts";
import { assertStrongRsa } from "./rsa.ts";
import { isKeyId } from "./strict-parse.ts";

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
