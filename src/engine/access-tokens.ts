import { type Clock, inTime } from "../base/clock.ts";
import { randomId } from "../base/crypto.ts";
import { unavailable } from "../base/errors.ts";
import type { JsonObject } from "../base/json.ts";
import { encodeNotice, header, maxTokenLength, type TokenTransport } from "../base/wire.ts";
import { type TokenClaims, toPayload } from "../jwt/claims.ts";
import { signAccessToken } from "../jwt/keys.ts";
import type { SigningKeys } from "./keys/stored.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { expiredError, liveOf } from "./liveness.ts";
import { storeFailed } from "./reach.ts";
import type { RefreshTokens } from "./refresh/token.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type { Authentication, SessionRecord, SessionStore, Stored } from "./store.ts";

/** A signed access token and its claims. */
export interface AccessToken {
  readonly token: string;
  readonly claims: TokenClaims;
  /** Milliseconds from signing until it expires. */
  readonly expiresIn: number;
}

interface AccessTokensOptions {
  readonly issuer: string;
  readonly audience: string;
  readonly keys: Pick<SigningKeys, "signer">;
  readonly lifetimes: Lifetimes;
  /** With format 2, every server on the store reads all claims that this version writes. */
  readonly refreshTokens: Pick<RefreshTokens, "format">;
}

/** The part of an access token whose size depends on the session. */
interface TokenContent {
  readonly userId: string;
  readonly tenantId: string | null;
  readonly authentication?: Authentication | null;
  readonly boundKey?: string | null;
  readonly claims: JsonObject;
  readonly transport: TokenTransport;
  /** The length of the claims that the client may read, in bytes of their header. Default 0. */
  readonly shownLength?: number;
}

/** At most this fraction of an access token's lifetime is subtracted at random. */
const jitter = 0.05;
/** Characters of the name of a history. */
const maxHistoryLength = 8;
/** Ten digits: seconds until the year 2286, and more refreshes than will ever happen. */
const greatestCount = 9_999_999_999;
/** Characters of an access token without its payload: header, signature and dots, with a margin. */
const tokenFrame = 256;
/** Characters. Browsers keep cookies of 4096 bytes including the name. */
const maxLength = { cookie: 4_000, header: maxTokenLength } as const;
/**
 * Bytes of headers in one gRPC response. The C core, which C++, Python, Ruby and PHP use, may refuse
 * more with ResourceExhausted. Each header counts its name, its value and 32 bytes (RFC 9113 section
 * 10.5.1).
 */
const maxMetadata = 8_192;
/** Bytes of the headers that Connect sends with every gRPC response, and of `cache-control`. */
const connectMetadata = 300;
/** Characters of the longest refresh token, and of the thumbprint in that of a bound session. */
const refreshLength = { unbound: 132, bound: 132 + 44 } as const;

/** Signs access tokens. */
export class AccessTokens {
  readonly #options: AccessTokensOptions;

  constructor(options: AccessTokensOptions) {
    this.#options = options;
  }

  /**
   * Signs an access token for a session. All times are the store's.
   * @throws SessionError `unauthorized` if the session ends within the current second
   */
  async mint({ record, now, history }: Stored<SessionRecord>): Promise<AccessToken> {
    const { issuer, audience, lifetimes, refreshTokens } = this.#options;
    const span = Math.min(lifetimes.access, record.accessLife ?? maxAccessLife);
    const life = Math.min(span * (1 - jitter * Math.random()), maxAccessLife);
    const end = Math.min(now + life, record.idleExpiresAt, record.expiresAt);
    // Token times are whole seconds, so a token cannot expire within the current one.
    if (seconds(end) <= seconds(now)) {
      throw expiredError(record);
    }
    return this.#sign(now, {
      iss: issuer,
      aud: audience,
      sub: record.userId,
      sid: record.id,
      iat: seconds(now),
      exp: seconds(end),
      jti: randomId(12),
      client_id: audience,
      gen: record.generation,
      gat: seconds(record.sentAt),
      cv: record.claimsVersion,
      auth_time: seconds(record.authTime),
      session_iat: seconds(record.createdAt),
      session_exp: seconds(record.expiresAt),
      transport: record.transport,
      ...(record.tenantId === null ? {} : { tid: record.tenantId }),
      ...record.authentication,
      ...(record.boundKey === null ? {} : { jkt: record.boundKey }),
      ...(history !== undefined && refreshTokens.format === 2 && { history }),
      claims: record.claims,
    });
  }

  /**
   * Signs a presented access token again with the claims of the record. Session, expiry, history and
   * generation stay: the client may not have received the refresh token of a later generation.
   */
  reissue(
    presented: TokenClaims,
    { record, now }: Stored<Pick<SessionRecord, "claims" | "claimsVersion">>,
  ): Promise<AccessToken> {
    const { issuer, audience } = this.#options;
    return this.#sign(now, {
      ...presented,
      // The presented token may be of an older issuer.
      iss: issuer,
      aud: audience,
      client_id: audience,
      iat: seconds(now),
      jti: randomId(12),
      cv: record.claimsVersion,
      claims: record.claims,
    });
  }

  /**
   * Checks that every access token of a session fits its transport, however high its counters rise,
   * and that gRPC clients accept the response that carries it in headers.
   * @throws TypeError if one might not
   */
  assertFits(content: TokenContent): void {
    const { userId, tenantId, authentication, claims, transport } = content;
    // A browser may register a key later.
    const { boundKey = null } = content;
    const jkt = boundKey ?? (transport === "cookie" ? "x".repeat(43) : undefined);
    const { issuer, audience } = this.#options;
    const largest: TokenClaims = {
      iss: issuer,
      aud: audience,
      sub: userId,
      sid: "x".repeat(22),
      iat: greatestCount,
      exp: greatestCount,
      jti: "x".repeat(16),
      client_id: audience,
      gen: greatestCount,
      gat: greatestCount,
      cv: greatestCount,
      auth_time: greatestCount,
      session_iat: greatestCount,
      session_exp: greatestCount,
      transport,
      ...(tenantId === null ? {} : { tid: tenantId }),
      ...authentication,
      ...(jkt === undefined ? {} : { jkt }),
      history: "x".repeat(maxHistoryLength),
      claims,
    };
    const payload = new TextEncoder().encode(JSON.stringify(toPayload(largest))).length;
    const length = tokenFrame + Math.ceil((payload * 4) / 3);
    const limit = maxLength[transport];
    if (length > limit) {
      throw new TypeError(
        `the claims are too large: the access token could reach ${length} characters, and a ${transport} holds ${limit}; use fewer or shorter claims`,
      );
    }
    const metadata = this.#metadataOf(length, content);
    if (transport === "header" && metadata > maxMetadata) {
      throw new TypeError(
        `the claims are too large: the headers of a response could reach ${metadata} bytes, and gRPC clients accept ${maxMetadata}; use fewer or shorter claims, or show fewer with clientClaims`,
      );
    }
  }

  /** The bytes of a response with new tokens in headers. */
  #metadataOf(tokenLength: number, content: TokenContent): number {
    const { userId: user, boundKey = null, shownLength = 0 } = content;
    const notice = encodeNotice({
      ...{ event: "refreshed", session: "x".repeat(22), user, realm: this.#options.issuer },
      ...{ generation: greatestCount, claimsVersion: greatestCount },
      ...{ expiresAt: greatestCount, expiresIn: maxAccessLife, claims: {} },
    });
    const headers = [
      [header.accessToken, tokenLength],
      [header.refreshToken, boundKey === null ? refreshLength.unbound : refreshLength.bound],
      [header.session, notice.length + shownLength],
    ] as const;
    return headers.reduce(
      (sum, [name, length]) => sum + name.length + length + 32,
      connectMetadata,
    );
  }

  async #sign(now: number, claims: TokenClaims): Promise<AccessToken> {
    const token = await signAccessToken(claims, await this.#options.keys.signer());
    return { token, claims, expiresIn: Math.max(0, claims.exp * 1000 - now) };
  }
}

/** An access token with up-to-date claims, and the record that they come from. */
export interface Reissued extends Stored<SessionRecord> {
  readonly access: AccessToken;
}

interface ReissuerOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  readonly revocations: RevocationLog;
  readonly accessTokens: AccessTokens;
}

/** Milliseconds that a call waits for the new claims. */
const patience = 2_000;
/** Records that are remembered for calls that still present an old token. */
const rememberedMax = 10_000;

/** Replaces access tokens whose claims are outdated. */
export class Reissuer {
  readonly #options: ReissuerOptions;
  readonly #readings = new Map<string, Reading>();

  constructor(options: ReissuerOptions) {
    this.#options = options;
  }

  /**
   * Signs a presented token again; undefined if there are no newer claims. However many calls ask,
   * the session is read once for each version of its claims.
   * @throws SessionError `unauthorized` if the session is over, `unavailable`
   */
  async reissue(presented: TokenClaims): Promise<Reissued | undefined> {
    const { clock, revocations } = this.#options;
    const { sid: session } = presented;
    const version = revocations.claimsVersionOf(session);
    if (version === undefined || version <= presented.cv) {
      return undefined;
    }
    const reading = this.#read(session, version);
    const late = () => {
      this.#forget(session, reading);
      return unavailable("the claims of the session could not be read in time; try again");
    };
    const stored = await inTime(reading.stored, { clock, ms: patience, keepAlive: true, late });
    const record = liveOf(session, stored);
    if (record.claimsVersion < version) {
      revocations.forgetClaims(session);
      this.#forget(session, reading);
    }
    const now = stored.now + (clock.monotonic() - reading.at);
    return this.reissueFrom(presented, { record, now });
  }

  /** The same, from a record that was just read or written. */
  async reissueFrom(
    presented: TokenClaims,
    stored: Stored<SessionRecord>,
  ): Promise<Reissued | undefined> {
    const { record, now } = stored;
    return record.claimsVersion <= presented.cv || now >= presented.exp * 1000
      ? undefined
      : { ...stored, access: await this.#options.accessTokens.reissue(presented, stored) };
  }

  #read(session: string, version: number): Reading {
    const known = this.#readings.get(session);
    if (known !== undefined && known.version >= version) {
      return known;
    }
    const { store, clock } = this.#options;
    const stored = store.load(session).catch(storeFailed).then(withoutData);
    const reading = { version, stored, at: clock.monotonic() };
    this.#remember(session, reading);
    return reading;
  }

  #remember(session: string, reading: Reading): void {
    this.#readings.delete(session);
    this.#readings.set(session, reading);
    for (const oldest of this.#readings.keys()) {
      if (this.#readings.size <= rememberedMax) {
        break;
      }
      this.#readings.delete(oldest);
    }
    // After a failure the next call reads again.
    reading.stored.catch(() => this.#forget(session, reading));
  }

  #forget(session: string, reading: Reading): void {
    if (this.#readings.get(session) === reading) {
      this.#readings.delete(session);
    }
  }
}

interface Reading {
  /** The claims version that was known to exist when the record was read. */
  readonly version: number;
  readonly stored: Promise<Stored<SessionRecord | undefined>>;
  /** Monotonic milliseconds, to carry on the store time of the record. */
  readonly at: number;
}

/** Private data may be large, and access tokens do not contain it. */
function withoutData({ record, now }: Stored<SessionRecord | undefined>) {
  return { record: record && { ...record, data: {} }, now };
}

function seconds(ms: number): number {
  return Math.floor(ms / 1000);
}
