import type { Clock } from "../base/clock.ts";
import { randomId } from "../base/crypto.ts";
import { unavailable } from "../base/errors.ts";
import type { JsonObject } from "../base/json.ts";
import { inTime } from "../base/promises.ts";
import type { TokenTransport } from "../base/wire.ts";
import { type TokenClaims, toPayload } from "../jwt/claims.ts";
import { signAccessToken } from "../jwt/verifier.ts";
import type { SigningKeys } from "./keys/stored.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { expiredError, liveOf } from "./liveness.ts";
import { reach } from "./reach.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type { SessionRecord, SessionStore, Stored } from "./store.ts";

/** A signed access token and what it says. */
export interface AccessToken {
  readonly token: string;
  readonly claims: TokenClaims;
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
  const claims: TokenClaims = {
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
  presented: TokenClaims,
  { record, now }: Stored<Pick<SessionRecord, "claims" | "claimsVersion">>,
): Promise<AccessToken> {
  const claims: TokenClaims = {
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
  const claims: TokenClaims = {
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

/** An access token with the claims of now, and the record they come from. */
export interface Reissued extends Stored<SessionRecord> {
  readonly access: AccessToken;
}

/** Brings access tokens up to date whose claims have changed. */
export interface Reissuer {
  /**
   * Signs the token of a call anew; undefined when the store has no newer claims. Reads the session
   * once for each version of its claims, however many calls ask.
   *
   * @throws SessionError `unauthorized` when the session is over, `unavailable`
   */
  reissue(presented: TokenClaims): Promise<Reissued | undefined>;
  /** The same, of a record that was read or written just now. */
  reissueFrom(presented: TokenClaims, stored: Stored<SessionRecord>): Promise<Reissued | undefined>;
}

/** What a reissuer is made of. */
export interface ReissuerOptions extends Pick<AccessTokenOptions, "keys"> {
  readonly store: SessionStore;
  readonly revocations: RevocationLog;
  readonly clock: Clock;
}

/** Milliseconds that a call waits for the new claims. */
const patience = 2_000;
/** Sessions whose record is remembered for those who come with an old token again. */
const rememberedMax = 10_000;

export function createReissuer(options: ReissuerOptions): Reissuer {
  const { revocations, clock } = options;
  const records = createRecordReads(options);
  const reissueFrom: Reissuer["reissueFrom"] = async (presented, stored) =>
    stored.record.claimsVersion <= presented.cv || stored.now >= presented.exp * 1000
      ? undefined
      : { ...stored, access: await reissueAccessToken(options, presented, stored) };
  return {
    reissueFrom,
    async reissue(presented) {
      const { sid: session } = presented;
      const version = revocations.claimsVersionOf(session);
      if (version === undefined || version <= presented.cv) {
        return undefined;
      }
      const reading = records.read(session, version);
      const { stored, at } = reading;
      const late = () => {
        records.forget(session, reading);
        return unavailable("the claims of the session could not be read in time; try again");
      };
      const answer = await inTime(stored, { clock, ms: patience, keepAlive: true, late });
      const record = liveOf(session, answer);
      if (record.claimsVersion < version) {
        revocations.forgetClaims(session);
        records.forget(session, reading);
      }
      return reissueFrom(presented, { record, now: answer.now + (clock.monotonic() - at) });
    },
  };
}

/** Reads the record of a session once for each version of its claims, and remembers it. */
function createRecordReads({ store, clock }: ReissuerOptions) {
  const readings = new Map<string, Reading>();
  const forget = (session: string, reading: Reading): void => {
    if (readings.get(session) === reading) {
      readings.delete(session);
    }
  };
  const remember = (session: string, reading: Reading): void => {
    readings.delete(session);
    readings.set(session, reading);
    for (const oldest of readings.keys()) {
      if (readings.size <= rememberedMax) {
        break;
      }
      readings.delete(oldest);
    }
    // The next call tries again.
    reading.stored.catch(() => forget(session, reading));
  };
  return {
    forget,
    read(session: string, version: number): Reading {
      const known = readings.get(session);
      if (known !== undefined && known.version >= version) {
        return known;
      }
      const stored = reach(store.load(session)).then(withoutData);
      const reading = { version, stored, at: clock.monotonic() };
      remember(session, reading);
      return reading;
    },
  };
}

/** Private data may be large, and nobody who is signed a token anew asks for it. */
function withoutData({ record, now }: Stored<SessionRecord | undefined>) {
  return { record: record && { ...record, data: {} }, now };
}

interface Reading {
  /** The version that was known to be there when the record was read. */
  readonly version: number;
  readonly stored: Promise<Stored<SessionRecord | undefined>>;
  /** Monotonic milliseconds; to carry on the time of the record. */
  readonly at: number;
}
