import type { JsonObject } from "../base/json.ts";
import { signAccessToken } from "../jwt/access-token.ts";
import { type AccessClaims, toPayload } from "../jwt/claims.ts";
import { randomId } from "../base/secrets.ts";
import type { TokenTransport } from "../base/transport.ts";
import { expiredError } from "./ended.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import type { SigningKeys } from "./keys/signing-keys.ts";
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

/**
 * Signs the access token of a session as the store answered it; every time is the store's.
 * @throws SessionError `unauthorized` when the session ends within this second
 */
export async function mintAccessToken(
  options: AccessTokenOptions,
  { record, now }: Stored<SessionRecord>,
): Promise<AccessToken> {
  const span = Math.min(options.lifetimes.access, record.accessLife ?? maxAccessLife);
  const life = Math.min(span * (1 - jitter * Math.random()), maxAccessLife);
  const end = Math.min(now + life, record.idleExpiresAt, record.expiresAt);
  // In the last part of its last second a session has no token left to give.
  if (seconds(end) <= seconds(now)) {
    throw expiredError(record.id);
  }
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
    session_iat: seconds(record.createdAt),
    session_exp: seconds(record.expiresAt),
    transport: record.transport,
    ...(record.tenantId === null ? {} : { tid: record.tenantId }),
    claims: record.claims,
  };
  const token = await signAccessToken(claims, await options.keys.signer());
  return { token, claims, expiresIn: Math.max(0, claims.exp * 1000 - now) };
}

/**
 * Signs the access token of a call anew, with other claims: the same session and end, and the same
 * generation, because the client may not have got the refresh token of a later one.
 *
 * @param now milliseconds since 1970 by the store's clock
 */
export async function reissueAccessToken(
  options: Pick<AccessTokenOptions, "keys">,
  presented: AccessClaims,
  { record, now }: Stored<Pick<SessionRecord, "claims" | "claimsVersion">>,
): Promise<AccessToken> {
  const claims: AccessClaims = {
    ...presented,
    iat: seconds(now),
    jti: randomId(12),
    cv: record.claimsVersion,
    claims: record.claims,
  };
  const token = await signAccessToken(claims, await options.keys.signer());
  return { token, claims, expiresIn: Math.max(0, claims.exp * 1000 - now) };
}

/**
 * Checks that every access token the session will ever have fits its transport, however high its
 * counters rise.
 * @throws TypeError when it may not
 */
export function assertTokenFits(options: AccessTokenOptions, creation: TokenContent): void {
  const claims: AccessClaims = {
    iss: options.issuer,
    aud: options.audience,
    sub: creation.userId,
    sid: "x".repeat(22),
    iat: greatestCount,
    exp: greatestCount,
    jti: "x".repeat(16),
    client_id: options.audience,
    gen: greatestCount,
    gat: greatestCount,
    cv: greatestCount,
    auth_time: greatestCount,
    session_iat: greatestCount,
    session_exp: greatestCount,
    transport: creation.transport,
    ...(creation.tenantId === null ? {} : { tid: creation.tenantId }),
    claims: creation.claims,
  };
  const payload = new TextEncoder().encode(JSON.stringify(toPayload(claims))).length;
  const length = tokenFrame + Math.ceil((payload * 4) / 3);
  const limit = maxTokenLength[creation.transport];
  if (length > limit) {
    throw new TypeError(
      `claims: the access token would have up to ${length} characters, and a ${creation.transport} holds ${limit}; put fewer or shorter claims into the session`,
    );
  }
}

/** What an access token says that is not the same for all. */
export interface TokenContent {
  readonly userId: string;
  readonly tenantId: string | null;
  readonly claims: JsonObject;
  readonly transport: TokenTransport;
}

/** Ten digits: seconds until the year 2286, and more refreshes than anybody does. */
const greatestCount = 9_999_999_999;
/** Characters of an access token beside its payload: header, signature, dots; with some to spare. */
const tokenFrame = 256;
/** Characters: a browser keeps cookies of 4096 bytes with their names, a verifier reads 8192. */
const maxTokenLength = { cookie: 4_000, header: 8_192 } as const;

function seconds(ms: number): number {
  return Math.floor(ms / 1000);
}
