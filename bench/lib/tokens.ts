import {
  createPrivateKey,
  createPublicKey,
  type JsonWebKey,
  type KeyObject,
  type webcrypto,
} from "node:crypto";
import type { TokenClaims } from "../../src/jwt/claims.ts";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  signAccessToken,
  type VerificationKey,
} from "../../src/jwt/keys.ts";

export const issuer = "https://api.example.com";

/** A key in every form that one of the verifiers needs. */
export interface BenchKey {
  readonly kid: string;
  readonly verification: VerificationKey;
  readonly cryptoKey: webcrypto.CryptoKey;
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
  readonly publicPem: string;
  readonly publicJwk: object;
  sign(claims: TokenClaims): Promise<string>;
}

export async function makeKey(alg: SigningAlgorithm): Promise<BenchKey> {
  const { kid, publicJwk, privateJwk } = await generateSigningKey(alg);
  const signing = await importSigningKey(privateJwk);
  const verification = await importVerificationKey(publicJwk);
  const publicKey = createPublicKey({ key: publicJwk as JsonWebKey, format: "jwk" });
  return {
    kid,
    verification,
    cryptoKey: verification.key,
    publicKey,
    privateKey: createPrivateKey({ key: privateJwk as JsonWebKey, format: "jwk" }),
    publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
    publicJwk,
    sign: (claims) => signAccessToken(claims, signing),
  };
}

/** Returns the claims of a typical access token: thirteen of the library and three of the user. */
export function claimsOf(i: number): TokenClaims {
  const iat = Math.floor(Date.now() / 1000);
  const id = String(i).padStart(10, "0");
  return {
    iss: issuer,
    aud: issuer,
    sub: `user-${id}`,
    sid: `session-id-${id}x`,
    iat,
    exp: iat + 3_000,
    jti: `token-${id}`,
    client_id: issuer,
    gen: 3,
    gat: iat - 100,
    cv: 1,
    auth_time: iat - 5_000,
    session_iat: iat - 5_000,
    session_exp: iat - 5_000 + 7_776_000,
    transport: "header",
    claims: { role: "admin", plan: "pro", org: "acme" },
  };
}

/** Returns copies of a string, as they arrive from the network: without a cached hash. */
export function freshCopies(tokens: readonly string[], count: number): string[] {
  return Array.from({ length: count }, (_, i) =>
    Buffer.from(tokens[i % tokens.length] ?? "", "latin1").toString("latin1"),
  );
}
