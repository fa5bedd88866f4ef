import { createHash } from "node:crypto";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";

/** A key of a client, which makes proofs of possession (RFC 9449). */
export interface ProofKey {
  readonly publicJwk: JWK;
  readonly privateJwk: JWK;
  readonly thumbprint: string;
  /** Makes a proof; the header and the claims that are given replace those of a valid one. */
  prove(given: ProofParts): Promise<string>;
}

export interface ProofParts {
  /** Undefined members are left out. */
  readonly header?: Readonly<Record<string, unknown>>;
  readonly claims?: Readonly<Record<string, unknown>>;
  /** Signs instead of the key. */
  readonly signer?: ProofKey;
  readonly htu?: string;
  readonly htm?: string;
  readonly nonce?: string | undefined;
  /** The access token to name. */
  readonly accessToken?: string | undefined;
}

export async function newProofKey(alg: "ES256" | "EdDSA" | "RS256" = "ES256"): Promise<ProofKey> {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const publicJwk = await exportJWK(publicKey);
  const sign = async ({ header = {}, claims = {}, ...given }: ProofParts): Promise<string> => {
    const { htu, htm = "POST", nonce, accessToken } = given;
    const ath =
      accessToken && createHash("sha256").update(accessToken).digest().toString("base64url");
    const now = { iat: Math.floor(Date.now() / 1000), jti: crypto.randomUUID() };
    const payload = present({ ...now, htm, htu, nonce, ath, ...claims });
    const all = present({ typ: "dpop+jwt", alg, jwk: publicJwk, ...header });
    return new SignJWT(payload).setProtectedHeader({ alg, ...all }).sign(privateKey);
  };
  return {
    publicJwk,
    privateJwk: await exportJWK(privateKey),
    thumbprint: await calculateJwkThumbprint(publicJwk),
    prove: ({ signer, header = {}, ...given }) =>
      signer === undefined
        ? sign({ ...given, header })
        : signer.prove({ ...given, header: { jwk: publicJwk, ...header } }),
  };
}

function present(members: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}
