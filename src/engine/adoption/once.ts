import { durationOf } from "../../base/checks.ts";
import { randomId, sha256 } from "../../base/crypto.ts";
import { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { Lifetimes } from "../lifetimes.ts";
import { storeFailed } from "../reach.ts";
import type { RevocationLog } from "../revocation/log.ts";
import type { SessionPage, SessionRecord, SessionStore } from "../store.ts";

/** The times of a session of another system, in milliseconds since 1970. */
export interface ForeignTimes {
  readonly createdAt: number;
  readonly authTime: number;
  /** When it ends there; null if that is not known. */
  readonly endsBy: number | null;
}

/** A session of another system, and whose it is. */
interface Foreign extends ForeignTimes {
  /** The other system, and its name for the session. */
  readonly issuer: string;
  readonly sid: string;
  readonly userId: string;
  readonly tenantId: string | null;
  /** The key that the new session is bound to; null for none. */
  readonly boundKey: string | null;
  /** The longest time that a session may live, from `createdAt` on. */
  readonly absolute: number;
}

/** What a session takes over from another system. See `Adoptions`, which makes sure that it does so once. */
export interface Adopted {
  /** The id of the new session. */
  readonly id: string;
  /** When the session began there; null for now. */
  readonly createdAt: number | null;
  /** When its user authenticated; null for now. */
  readonly authTime: number | null;
  /** When the new session ends at the latest. */
  readonly endsBy: number;
  /** The session that it replaces, which must be live: its tokens may have been lost. Null for none. */
  readonly retakes: string | null;
}

interface AdoptionParts {
  readonly store: SessionStore;
  readonly revocations: Pick<RevocationLog, "storeNow">;
  readonly lifetimes: Lifetimes;
  /** By how many milliseconds the clock of the other system may be ahead. */
  readonly clockSkew: number;
  readonly emit: SessionEventListener;
}

/** Milliseconds for which a trade that is under way keeps others away: longer than any call takes. */
const underWay = 60_000;
/**
 * Milliseconds for which a trade is remembered: the longest `lifetimes.absolute`. A session that began
 * before it was traded is too old to be adopted then, whatever the options become.
 */
const rememberedFor = 400 * 86_400_000;
/** Milliseconds after a trade in which it may be repeated, in case its answer was lost. */
const repeatedWithin = 300_000;

/**
 * Trades sessions of another system for new ones, each once.
 *
 * The first trade is a lease in the store, which only one server gets. Its holder is the new session. The
 * lease is short until the session is stored, and long before any token leaves this server. So a server
 * that stops in between costs nobody a sign-in, and of all trades one gives tokens away.
 *
 * The answer to that one may be lost. So the trade may be repeated once, while nothing shows that the
 * client has its tokens. The repetition replaces the session of the first trade: only one of them lives.
 */
export class Adoptions {
  readonly #parts: AdoptionParts;

  constructor(parts: AdoptionParts) {
    this.#parts = parts;
  }

  /**
   * Creates the session that a session of another system is traded for.
   *
   * @param create creates it; its tokens must not be used before this method returns
   * @throws SessionError `unauthorized` if the other session was adopted before, or is too old
   * @throws TypeError if a time lies in the future
   */
  async once<T>(foreign: Foreign, create: (adopted: Adopted) => Promise<T>): Promise<T> {
    const { store } = this.#parts;

    // 1. It must still live by the rules of this service.
    const adopted = this.#adoptedFrom(foreign);

    // 2. Of all trades of it, only one goes on.
    const name = await leaseName(foreign);
    const takes = (holder: string, ttl: number) =>
      store.lease(name, holder, ttl).catch(storeFailed);
    const { id } = adopted;
    if (!(await takes(id, underWay))) {
      return this.#repeat(foreign, adopted, { create, takes });
    }

    // 3. Create the new session. If that fails, nobody has its tokens, so the trade may be tried again.
    const created = await create(adopted).catch(async (error: unknown) => {
      await takes(id, 1).catch(() => {});
      throw error;
    });

    // 4. Remember the trade before the tokens leave this server. It may have taken too long.
    const isMine = await takes(id, rememberedFor).catch(async (error: unknown) => {
      await store.revoke(id, "revoked").catch(() => {});
      throw error;
    });
    if (!isMine) {
      await store.revoke(id, "revoked").catch(storeFailed);
      throw this.#refused(foreign);
    }
    return created;
  }

  /** Trades it again, if the answer to the first trade may have been lost. */
  async #repeat<T>(
    foreign: Foreign,
    adopted: Adopted,
    trade: {
      readonly create: (adopted: Adopted) => Promise<T>;
      readonly takes: (holder: string, ttl: number) => Promise<boolean>;
    },
  ): Promise<T> {
    const { store, lifetimes } = this.#parts;
    const { issuer, sid } = foreign;
    // 1. The session of the first trade must be there, and its client must not have shown its tokens.
    const page = await store
      .list({ external: { by: "sid", issuer, id: sid } }, { cursor: undefined, limit: 100 })
      .catch(storeFailed);
    const first = page.records.find((record) => isUnanswered(record, page, { foreign, lifetimes }));

    // 2. It must hold the lease, which a session that has replaced it does not. Remember the trade.
    if (first === undefined || !(await trade.takes(first.id, rememberedFor))) {
      throw this.#refused(foreign);
    }

    // 3. Replace it. Of several repetitions at once, one finds it live.
    return trade.create({ ...adopted, retakes: first.id }).catch((error: unknown) => {
      throw error instanceof SessionError && error.reason === "SESSION_REVOKED"
        ? this.#refused(foreign)
        : error;
    });
  }

  /** @throws SessionError TypeError */
  #adoptedFrom({ createdAt, authTime, endsBy, absolute, userId }: Foreign): Adopted {
    const { revocations, clockSkew, emit } = this.#parts;
    const now = revocations.storeNow();
    for (const [name, time] of Object.entries({ createdAt, authTime })) {
      if (time > now + clockSkew) {
        throw new TypeError(
          `sessions.adopt: ${name} is ${durationOf(Math.round((time - now) / 1000) * 1000)} in the future by the clock of the store; pass the time at which it happened`,
        );
      }
    }
    const ends = Math.min(createdAt + absolute, endsBy ?? Infinity);
    if (ends <= now) {
      emit({ type: "adoptionRefused", userId, why: "expired" });
      throw new SessionError("unauthorized", "SESSION_EXPIRED", {
        message: "the session of the other system is too old to be adopted; sign in again",
      });
    }
    return {
      id: randomId(16),
      // By our clock, nothing began later than now.
      createdAt: createdAt < now ? createdAt : null,
      authTime: authTime < now ? authTime : null,
      endsBy: ends,
      retakes: null,
    };
  }

  #refused({ userId }: Foreign): SessionError {
    this.#parts.emit({ type: "adoptionRefused", userId, why: "adopted" });
    return adoptedBefore();
  }
}

/** The error for a session of another system that was adopted before. */
export function adoptedBefore(): SessionError {
  return new SessionError("unauthorized", "SESSION_REVOKED", {
    message: "the session of the other system was adopted before; sign in again",
  });
}

/** The name of the lease of a session of another system. It shows neither the system nor the session. */
async function leaseName({ issuer, sid }: Foreign): Promise<string> {
  return `adopted:${await sha256(JSON.stringify([issuer, sid]))}`;
}

/**
 * Whether the answer that brought the tokens of a session may have been lost: it was sent so long ago that
 * the client has given up, but not much longer, and the tokens have not been seen. A session that is bound
 * to a key is replaced only with that key.
 */
function isUnanswered(
  record: SessionRecord,
  { now }: Pick<SessionPage, "now">,
  { foreign, lifetimes }: { readonly foreign: Foreign; readonly lifetimes: Lifetimes },
): boolean {
  const age = now - record.rotatedAt;
  return (
    record.generation === 0 &&
    record.confirmedAt === null &&
    record.userId === foreign.userId &&
    record.tenantId === foreign.tenantId &&
    (record.boundKey ?? null) === foreign.boundKey &&
    age >= lifetimes.clientTimeout &&
    age < repeatedWithin
  );
}
