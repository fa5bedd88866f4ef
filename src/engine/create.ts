import { randomId, type SecretRing } from "../base/crypto.ts";
import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import {
  noTelemetry,
  type ObservedOperation,
  type OperationFacts,
  type SessionTelemetry,
} from "../base/telemetry.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { AccessToken, AccessTokens } from "./access-tokens.ts";
import { type Adopted, Adoptions, adoptedBefore, type ForeignTimes } from "./adoption/once.ts";
import type { AuditLog } from "./audit/log.ts";
import type { ShownLength } from "./claims.ts";
import type { Lifetimes, SessionLife } from "./lifetimes.ts";
import { liveOf } from "./liveness.ts";
import { storeFailed } from "./reach.ts";
import type { Nonces } from "./refresh/nonces.ts";
import { unprovenError } from "./refresh/refresh.ts";
import { type Beginning, hasToBeBound, type RefreshTokens } from "./refresh/token.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type {
  AuditDetail,
  AuditEvent,
  Authentication,
  Device,
  EndedBy,
  ExternalId,
  Inserted,
  SessionLimit,
  SessionRecord,
  SessionStore,
  Stored,
} from "./store.ts";

/** The content of a new session. */
export interface Creation {
  readonly userId: string;
  readonly tenantId: string | null;
  readonly claims: JsonObject;
  readonly data: JsonObject;
  readonly device: Device;
  readonly transport: TokenTransport;
  /** What the system that authenticated the user calls the session; absent for none. */
  readonly externalId?: ExternalId | null;
  /** How the user authenticated; absent if nothing is known. */
  readonly authentication?: Authentication | null;
  /** The thumbprint of the key that it is bound to; absent for none. */
  readonly boundKey?: string | null;
  /** The key that the request has freshly proven; absent for none. */
  readonly provenKey?: string | undefined;
  /** Lifetimes of its own; absent to use the service's. */
  readonly life?: SessionLife;
  /** The id of the session that it replaces. */
  readonly replaces: string | null;
  /** The session that it was derived from; absent if it starts with a sign-in. */
  readonly from?: Origin;
  /** The session of another system that it continues; absent for none. */
  readonly adopted?: Adopted;
}

/** The session from which another one is derived. */
export interface Origin {
  /** Its id; it must be live. */
  readonly session: string;
  /** Its lineage, or else its id. */
  readonly lineage: string;
  /** The key that it is bound to; null for none. */
  readonly boundKey: string | null;
  /** Whether it has to be bound to a browser; see {@link hasToBeBound}. Default false. */
  readonly mustBind?: boolean;
  readonly transport: TokenTransport;
  /** Its `version` when the inherited values were read. */
  readonly version: number;
  /** When its user authenticated; null for now. */
  readonly authTime: number | null;
  /** When the new session ends at the latest; null if only its own lifetime counts. */
  readonly endsBy: number | null;
}

/** A new session and its tokens. */
export interface Created {
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  readonly refreshToken: string;
}

interface CreatorOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly revocations: RevocationLog;
  readonly accessTokens: AccessTokens;
  readonly refreshTokens: RefreshTokens;
  readonly nonces: Nonces;
  readonly lifetimes: Lifetimes;
  /** By how many milliseconds the clock of another system may be ahead. */
  readonly clockSkew: number;
  /** Sessions per user; null or absent for any number. */
  readonly limit?: SessionLimit | null;
  readonly shownLength?: ShownLength;
  readonly emit: SessionEventListener;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
  readonly audit: AuditLog | undefined;
}

type Kept = Extract<Inserted, { readonly record: SessionRecord }> & Pick<Beginning, "root">;

/** The content of a new session, before it is known which one it replaces. */
export type NewCreation = Omit<Creation, "replaces">;

/** Creates sessions. */
export class SessionCreator {
  readonly #options: CreatorOptions;
  readonly #adoptions: Adoptions;

  constructor(options: CreatorOptions) {
    this.#options = options;
    this.#adoptions = new Adoptions(options);
  }

  /**
   * Creates a session that continues one of another system, unless that was done before.
   *
   * @param makeRoom ends former sessions, and returns the one that ends with the beginning of the new one.
   * Receives the session of a former trade, if that has to end
   * @throws SessionError `unauthorized` if it was done before, or the other session is too old; else as
   * `create` does
   * @throws TypeError also if a time lies in the future
   */
  adopt(
    creation: NewCreation,
    foreign: ForeignTimes,
    makeRoom: (retakes: string | null) => Promise<string | null>,
  ): Promise<Created> {
    const { userId, tenantId, externalId, life, boundKey = null } = creation;
    const { issuer = "", sid = "" } = externalId ?? {};
    const absolute = life?.absolute ?? this.#options.lifetimes.absolute;
    const session = { ...foreign, issuer, sid, userId, tenantId, boundKey, absolute };
    return this.#adoptions.once(session, async (adopted) => {
      const replaces = await makeRoom(adopted.retakes);
      return this.create({ ...creation, adopted, replaces });
    });
  }

  /**
   * Creates a session and its first tokens.
   *
   * @throws TypeError if its tokens would not fit their transport; nothing is stored then
   * @throws SessionError `forbidden` if the user has reached the limit; `unauthorized` if the
   * session that it comes from is over, or is bound to a key that the request has not proven
   */
  create(creation: Creation): Promise<Created> {
    const { telemetry = noTelemetry } = this.#options;
    const name = operationOf(creation);
    const facts = (created: Created | undefined): OperationFacts => ({
      sessionId: created?.record.id,
      userId: creation.userId,
    });
    return telemetry.run({ name, facts }, () => this.#create(creation));
  }

  async #create(creation: Creation): Promise<Created> {
    const { store, accessTokens, refreshTokens, shownLength, emit, audit } = this.#options;

    // 1. A copy of a bound session needs a proof by its key, and is bound too.
    await this.#assertProven(creation);

    // 2. Refuse claims that could outgrow their transport, before anything is stored.
    accessTokens.assertFits({
      ...creation,
      shownLength: (await shownLength?.(creation.claims)) ?? 0,
    });

    // 3. Insert the session. The same transaction ends the sessions that it replaces or evicts.
    const inserted = await this.#insert(creation);

    // 4. Make those ends known in this process.
    this.#announceEnds(creation, inserted);

    try {
      // 5. A derived session takes over what has changed in its original meanwhile.
      const stored = await this.#caughtUp(creation, inserted);
      const { record, now } = stored;

      // 6. Create both tokens.
      const access = await accessTokens.mint(stored);
      const refreshToken = await refreshTokens.mint(record, inserted.root);

      emit({ type: "created", sessionId: record.id, userId: record.userId });
      if (audit !== undefined) {
        const { id: session, userId, tenantId } = record;
        const owner = { userId, tenantId };
        audit.add({ event: eventOf(creation), session, owner, detail: detailOf(creation) });
        await audit.written();
      }
      return { record, now, access, refreshToken };
    } catch (error) {
      // Nobody will ever hold its tokens, so do not leave the session behind.
      await store.revoke(inserted.record.id, "revoked").catch(() => {});
      throw error;
    }
  }

  /** @throws SessionError `unauthorized` */
  async #assertProven({ from, replaces, provenKey, boundKey = null }: Creation): Promise<void> {
    const { nonces, revocations } = this.#options;
    if (from === undefined || (from.boundKey === null && !from.mustBind)) {
      return;
    }
    if (from.transport === "cookie") {
      // A browser proves its key for refreshes alone. A replacement keeps the key, so it loosens nothing.
      if (replaces === from.session && boundKey === from.boundKey) {
        return;
      }
      throw new SessionError("forbidden", "PROOF_REQUIRED", {
        message:
          'a session that is, or has to be, bound to a browser (DBSC) cannot be forked: a copied cookie could make itself a session that lasts; sign users in with bind: "off" where you fork their sessions',
        sessionId: from.session,
      });
    }
    if (from.boundKey !== provenKey) {
      const nonce = await nonces.mint(revocations.storeNow());
      throw unprovenError(from.session, provenKey, nonce);
    }
    if (boundKey === null) {
      throw new TypeError("a session that comes from a bound one must be bound to a key, too");
    }
  }

  async #insert(creation: Creation): Promise<Kept> {
    const { store, secrets, refreshTokens, lifetimes, limit = null } = this.#options;
    const { life, from, adopted, provenKey: _, boundKey = null, ...content } = creation;
    const id = adopted?.id ?? randomId(16);
    const namesKey = boundKey !== null || hasToBeBound(creation);
    const { root, ...proof } = await refreshTokens.begin(namesKey);
    const inserted = await store
      .insert({
        ...content,
        id,
        ...proof,
        boundKey,
        secretId: secrets.current.id,
        idle: life?.idleLife ?? lifetimes.idle,
        absolute: life?.absolute ?? lifetimes.absolute,
        accessLife: life?.accessLife ?? null,
        idleLife: life?.idleLife ?? null,
        externalId: creation.externalId ?? null,
        authentication: creation.authentication ?? null,
        lineage: from === undefined ? null : lineageOf(creation, from, id),
        endsBy: from?.endsBy ?? adopted?.endsBy ?? null,
        createdAt: adopted?.createdAt ?? null,
        authTime: from?.authTime ?? adopted?.authTime ?? null,
        requires: from?.session ?? adopted?.retakes ?? null,
        limit,
      })
      .catch(storeFailed);
    if (inserted.record !== undefined) {
      await this.#assertKept(inserted.record, creation);
      return { ...inserted, root };
    }
    if (inserted.refused === "notLive" && from === undefined) {
      throw adoptedBefore();
    }
    if (inserted.refused === "notLive" && from !== undefined) {
      liveOf(from.session, await store.load(from.session).catch(storeFailed));
      throw unavailable("the original session kept changing while it was copied; try again");
    }
    throw new SessionError("forbidden", "SESSION_LIMIT", {
      message: `the user already has ${limit?.max} sessions, which is the limit; end one of them first`,
    });
  }

  /** @throws TypeError if the store has lost the key that the session is bound to, or when it began */
  async #assertKept(record: SessionRecord, { boundKey, adopted }: Creation): Promise<void> {
    const { store } = this.#options;
    const lost =
      (record.boundKey ?? null) !== (boundKey ?? null)
        ? 'boundKey, so no session can be bound to a key; update the store, or set bind: { mode: "off" }'
        : record.createdAt !== (adopted?.createdAt ?? record.createdAt)
          ? "createdAt, so no session of another system can be adopted; update the store"
          : undefined;
    if (lost !== undefined) {
      await store.revoke(record.id, "revoked").catch(() => {});
      throw new TypeError(`${store.name} does not keep ${lost}`);
    }
  }

  #announceEnds(creation: Creation, inserted: Kept): void {
    const { revocations, emit, audit } = this.#options;
    const { replaced, evicted, now: at, record } = inserted;
    const { replaces, userId, tenantId } = creation;
    const announce = (session: string, endedBy: EndedBy, endedByThisCall: boolean): void => {
      revocations.apply({ kind: "revoked", session, endedBy, at });
      if (endedByThisCall) {
        emit({ type: "revoked", sessionId: session, endedBy });
        // A client may replace a session of another user.
        const owner = endedBy === "evicted" ? { userId, tenantId } : undefined;
        void audit?.ended([session], { owner, endedBy, cause: { from: record.id } });
      }
    };
    if (replaces !== null) {
      // The replacement counts, even if something else had ended the session before.
      announce(replaces, "replaced", replaced);
    }
    for (const session of evicted) {
      announce(session, "evicted", true);
    }
  }

  /**
   * Copies claims and data that have changed in the original since they were read: a role that was
   * removed at that moment must not survive in the new session.
   */
  async #caughtUp(
    { from }: Creation,
    stored: Stored<SessionRecord>,
  ): Promise<Stored<SessionRecord>> {
    const { record } = stored;
    const { store, accessTokens, shownLength } = this.#options;
    if (from === undefined) {
      return stored;
    }
    // The original may have ended by now. An outage here must not cost the user both sessions.
    const origin = await store.load(from.session).then(
      (loaded) => loaded.record,
      () => undefined,
    );
    if (origin === undefined || origin.version === from.version) {
      return stored;
    }
    const { claims, data } = origin;
    accessTokens.assertFits({
      ...{ ...record, claims },
      shownLength: (await shownLength?.(claims)) ?? 0,
    });
    const written = await store
      .update({ id: record.id, version: record.version, claims, data })
      .catch(storeFailed);
    return { ...written, record: liveOf(record.id, written) };
  }
}

function operationOf({ from, replaces, adopted }: Creation): ObservedOperation {
  if (from === undefined) {
    return adopted === undefined ? "signIn" : "adopt";
  }
  return replaces === null ? "fork" : "reauthenticate";
}

function eventOf({ from, replaces, adopted }: Creation): AuditEvent {
  if (from === undefined) {
    return adopted === undefined ? "signedIn" : "adopted";
  }
  return replaces === from.session ? "reauthenticated" : "forked";
}

function detailOf({ device, from }: Creation): AuditDetail {
  return { device, ...(from === undefined ? {} : { from: from.session }) };
}

/** A replacement continues the line of its original; a fork begins a line below it. */
function lineageOf({ replaces }: Creation, from: Origin, id: string): string {
  return replaces === from.session ? from.lineage : `${from.lineage}.${id}`;
}
