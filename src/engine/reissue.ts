import type { Clock } from "../base/clock.ts";
import { unavailable } from "../base/errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { type AccessToken, type AccessTokenOptions, reissueAccessToken } from "./access.ts";
import { liveOf } from "./ended.ts";
import { inTime } from "../base/in-time.ts";
import { reach } from "./reach.ts";
import type { Revocations } from "./revocation/revocations.ts";
import type { SessionRecord, SessionStore, Stored } from "./store.ts";

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
  reissue(presented: AccessClaims): Promise<Reissued | undefined>;
  /** The same, of a record that was read or written just now. */
  reissueFrom(
    presented: AccessClaims,
    stored: Stored<SessionRecord>,
  ): Promise<Reissued | undefined>;
}

/** What a reissuer is made of. */
export interface ReissuerOptions extends Pick<AccessTokenOptions, "keys"> {
  readonly store: SessionStore;
  readonly revocations: Revocations;
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
        return unavailable("the claims of the session in time");
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
