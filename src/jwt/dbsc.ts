import type { JsonObject, JsonValue } from "../base/json.ts";
import { readProofKey } from "./dpop.ts";
import { algorithmNamed, ownMembers, signingAlgorithms } from "./jwk.ts";
import { isSignature } from "./keys.ts";
import { parseJws } from "./strict-parse.ts";

/** A valid proof of a device. Whether its challenge is one of the service is for the caller to decide. */
export interface DbscProof {
  /** The thumbprint of the key (RFC 7638, SHA-256, base64url). */
  readonly thumbprint: string;
  /** The public key, with the members of RFC 7638 alone. */
  readonly jwk: JsonObject;
  /** The challenge. */
  readonly jti: string;
}

export type VerifiedDbscProof =
  | { readonly proof: DbscProof }
  /** The rule that the proof breaks, as a whole sentence without values of the proof. */
  | { readonly refused: string };

/** Characters of a proof. One with an RSA key of 4096 bits has about 2,000. */
const maxLength = 4_096;
/** Characters of `jti`. */
const maxJti = 256;

/**
 * Verifies the signature and the content of a proof of Device Bound Session Credentials (W3C, "DBSC proof
 * JWT"). Browsers sign with ES256 or RS256.
 *
 * @param text the value of the header `Secure-Session-Response`
 * @param known the public key that was registered. Undefined at the registration, where the proof brings it
 */
export async function verifyDbscProof(
  text: string,
  known?: JsonObject,
): Promise<VerifiedDbscProof> {
  // 1. One well-formed JWT of this type.
  const parsed = text.length <= maxLength ? parseJws(text) : undefined;
  if (parsed === undefined) {
    return refused("The header Secure-Session-Response must be one JWT.");
  }
  const { header, payload, signature } = parsed;
  if (header.typ !== "dbsc+jwt") {
    return refused("The typ of the proof must be dbsc+jwt.");
  }
  if ("crit" in header || "b64" in header) {
    return refused("The proof needs an extension that is not supported.");
  }

  // 2. The key comes with the registration, and never again.
  if (known !== undefined && "jwk" in header) {
    return refused("The proof must not bring a key: the session has one.");
  }
  const alg = algorithmNamed(header.alg);
  if (alg !== "ES256" && alg !== "RS256") {
    return refused("The alg of the proof must be ES256 or RS256.");
  }
  const given: JsonValue | undefined = known ?? header.jwk;
  const key = await readProofKey(given);
  if (key?.alg !== alg) {
    return refused(
      "The jwk of the proof must be a public key for its alg, strong enough and without private members.",
    );
  }

  // 3. The signature.
  const { min, max } = signingAlgorithms[alg].signatureBytes;
  const { length } = signature;
  if (length < min || length > max || !(await isSignature(key, parsed.signed, parsed.signature))) {
    return refused("The key of the proof has not signed it.");
  }

  // 4. The challenge.
  const { jti } = payload;
  if (typeof jti !== "string" || jti === "" || jti.length > maxJti) {
    return refused(`The jti of the proof must be a string of 1 to ${maxJti} characters.`);
  }
  const { public: members } = signingAlgorithms[alg].members;
  const own = ownMembers(given as JsonObject, alg) as JsonObject;
  const jwk = Object.fromEntries(members.map((name) => [name, own[name] ?? null]));
  return { proof: { thumbprint: key.kid, jwk, jti } };
}

function refused(why: string): { readonly refused: string } {
  return { refused: why };
}
