import type { TokenClaims } from "../../src/jwt/claims.ts";
import {
  generateSigningKey,
  importSigningKey,
  importVerificationKey,
  type SigningKey,
  type VerificationKey,
} from "../../src/jwt/keys.ts";
import {
  type AccessTokenVerifier,
  type AccessTokenVerifierOptions,
  createAccessTokenVerifier,
  type KeyFinder,
  type VerifiedToken,
} from "../../src/jwt/verifier.ts";

/** Seconds; every token of these tests is issued then. */
export const issuedAt = 1_700_000_000;
export const now: number = issuedAt * 1000;
export const maxLife = 3600;
export const clockSkew = 60;

export const accessClaims: TokenClaims = {
  iss: "https://api.example.com",
  aud: "https://api.example.com",
  sub: "alice",
  sid: "session-1",
  iat: issuedAt,
  exp: issuedAt + 900,
  jti: "token-1",
  client_id: "https://api.example.com",
  gen: 3,
  gat: issuedAt - 100,
  cv: 1,
  auth_time: issuedAt - 5000,
  session_iat: issuedAt - 5000,
  session_exp: issuedAt + 50_000,
  transport: "header",
  tid: "tenant-1",
  claims: { role: "admin", teams: ["red", "blue"], plan: { seats: 3 } },
};

/** The claims as they lie in a token; written out, so that `toPayload` is not its own judge. */
export const accessPayload: Record<string, unknown> = (() => {
  const { claims, ...own } = accessClaims;
  return { ...own, ...claims };
})();

export interface Keys {
  readonly signing: SigningKey;
  readonly verification: VerificationKey;
}

export async function makeKeys(): Promise<Keys> {
  const { privateJwk, publicJwk } = await generateSigningKey("ES256");
  return {
    signing: await importSigningKey(privateJwk),
    verification: await importVerificationKey(publicJwk),
  };
}

export interface VerifierOptions extends Partial<AccessTokenVerifierOptions> {
  /** Finds keys, instead of a list of them. */
  readonly findKey?: KeyFinder["find"];
}

export function verifierOf(
  keys: readonly VerificationKey[],
  { findKey, ...options }: VerifierOptions = {},
): AccessTokenVerifier {
  const byId = new Map(keys.map((key) => [key.kid, key]));
  return createAccessTokenVerifier({
    issuer: accessClaims.iss,
    audience: accessClaims.aud,
    maxLife,
    clockSkew,
    keys: { find: findKey ?? ((kid) => byId.get(kid)) },
    ...options,
  });
}

/** The status of a token, and how often a key was looked for. */
export interface Look {
  readonly status: VerifiedToken["status"];
  readonly lookups: number;
}

export const accepted: Look = { status: "valid", lookups: 1 };
export const refused: Look = { status: "invalid", lookups: 1 };
export const refusedEarly: Look = { status: "invalid", lookups: 0 };
export const malformed: Look = { status: "malformed", lookups: 0 };

/** Verifies with a key that is found under every id. */
export async function lookWith(key: VerificationKey, token: string): Promise<Look> {
  let lookups = 0;
  const findKey = (): VerificationKey => {
    lookups++;
    return key;
  };
  const { status } = await verifierOf([], { findKey })(token, now);
  return { status, lookups };
}

/** What stands in one part of a token: bytes, a text, or a value to be written as JSON. */
export type Part = Uint8Array | string | object;

export function base64url(part: Part): string {
  const bytes = part instanceof Uint8Array ? part : Buffer.from(textOf(part));
  return Buffer.from(bytes).toString("base64url");
}

/** A token with a good ES256 signature over whatever header and payload. */
export async function forge(header: Part, payload: Part, key: SigningKey): Promise<string> {
  return signParts(`${base64url(header)}.${base64url(payload)}`, key);
}

/** A good ES256 signature over parts that are encoded already. */
export async function signParts(input: string, { key }: SigningKey): Promise<string> {
  const algorithm = { name: "ECDSA", hash: "SHA-256" };
  const signature = await crypto.subtle.sign(algorithm, key, Buffer.from(input));
  return `${input}.${base64url(new Uint8Array(signature))}`;
}

function textOf(part: string | object): string {
  return typeof part === "string" ? part : JSON.stringify(part);
}
