import { signAccessToken } from "../jwt/access-token.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { randomId } from "../secrets.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import type { SigningKeys } from "./signing-keys.ts";
import type { SessionRecord, Stored } from "./store.ts";

/** A signed access token and what it says. */
export interface AccessToken {
  readonly token: string;
  readonly claims: AccessClaims;
  /** Milliseconds until it expires, from when it was signed. */
  readonly expiresIn: number;
}

/** What access tokens are made of. */
export interface AccessTokenOptions {
  readonly issuer: string;
  readonly audience: string;
  readonly keys: SigningKeys;
  readonly lifetimes: Lifetimes;
}

/** The greatest part of an access token's life that is taken off at random. */
const jitter = 0.05;

/** Signs the access token of a session as the store answered it; every time is the store's. */
export async function mintAccessToken(
  options: AccessTokenOptions,
  { record, now }: Stored<SessionRecord>,
): Promise<AccessToken> {
  const life = Math.min(options.lifetimes.access * (1 - jitter * Math.random()), maxAccessLife);
  const end = Math.min(now + life, record.idleExpiresAt, record.expiresAt);
  const claims: AccessClaims = {
    iss: options.issuer,
    aud: options.audience,
    sub: record.userId,
    sid: record.id,
    iat: seconds(now),
    exp: seconds(end),
    jti: randomId(12),
    client_id: options.audience,
    gen: record.generation,
    gat: seconds(record.rotatedAt),
    cv: record.claimsVersion,
    auth_time: seconds(record.authTime),
    transport: record.transport,
    ...(record.tenantId === null ? {} : { tid: record.tenantId }),
    claims: record.claims,
  };
  const token = await signAccessToken(claims, await options.keys.signer());
  return { token, claims, expiresIn: Math.max(0, claims.exp * 1000 - now) };
}

function seconds(ms: number): number {
  return Math.floor(ms / 1000);
}
