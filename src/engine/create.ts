import { randomId, type SecretRing } from "../base/crypto.ts";
import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { AccessToken, AccessTokens } from "./access-tokens.ts";
import type { Lifetimes, SessionLife } from "./lifetimes.ts";
import { liveOf } from "./liveness.ts";
import { reach } from "./reach.ts";
import type { RefreshTokens } from "./refresh/token.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type {
  Device,
  EndedBy,
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
  /** Lifetimes of its own; absent to use the service's. */
  readonly life?: SessionLife;
  /** The id of the session that it replaces. */
  readonly replaces: string | null;
  /** The session that it was derived from; absent if it starts with a sign-in. */
  readonly from?: Origin;
}

/** The session from which another one is derived. */
export interface Origin {
  /** Its id; it must be live. */
  readonly session: string;
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

interface CreateParts {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly revocations: RevocationLog;
  readonly accessTokens: AccessTokens;
  readonly refreshTokens: RefreshTokens;
  readonly lifetimes: Lifetimes;
  /** Sessions per user; null or absent for any number. */
  readonly limit?: SessionLimit | null;
  readonly emit: SessionEventListener;
}

/** See `Engine.create`. */
export async function createSession(parts: CreateParts, creation: Creation): Promise<Created> {
  const { store, accessTokens, refreshTokens, emit } = parts;

  // 1. Refuse claims that could outgrow their transport, before anything is stored.
  accessTokens.assertFits(creation);

  // 2. Insert the session. The same transaction ends the sessions that it replaces or evicts.
  const inserted = await insert(parts, creation);

  // 3. Make those ends known in this process.
  announceEnds(parts, creation, inserted);

  try {
    // 4. A derived session takes over what has changed in its original meanwhile.
    const { record, now } = await caughtUp(parts, creation, inserted);

    // 5. Create both tokens.
    const access = await accessTokens.mint({ record, now });
    const refreshToken = await refreshTokens.mint(record);

    emit({ type: "created", sessionId: record.id, userId: record.userId });
    return { record, now, access, refreshToken };
  } catch (error) {
    // Nobody will ever hold its tokens, so do not leave the session behind.
    await store.revoke(inserted.record.id, "revoked").catch(() => {});
    throw error;
  }
}

type Kept = Extract<Inserted, { readonly record: SessionRecord }>;

async function insert(parts: CreateParts, creation: Creation): Promise<Kept> {
  const { store, secrets, lifetimes, limit = null } = parts;
  const { life, from, ...content } = creation;
  const inserted = await reach(
    store.insert({
      ...content,
      id: randomId(16),
      salt: randomId(32),
      secretId: secrets.current.id,
      idle: life?.idleLife ?? lifetimes.idle,
      absolute: life?.absolute ?? lifetimes.absolute,
      accessLife: life?.accessLife ?? null,
      idleLife: life?.idleLife ?? null,
      endsBy: from?.endsBy ?? null,
      authTime: from?.authTime ?? null,
      requires: from?.session ?? null,
      limit,
    }),
  );
  if (inserted.record !== undefined) {
    return inserted;
  }
  if (inserted.refused === "notLive" && from !== undefined) {
    liveOf(from.session, await reach(store.load(from.session)));
    throw unavailable("the original session kept changing while it was copied; try again");
  }
  throw new SessionError("forbidden", "SESSION_LIMIT", {
    message: `the user already has ${limit?.max} sessions, which is the limit; end one of them first`,
  });
}

function announceEnds(parts: CreateParts, { replaces }: Creation, inserted: Kept): void {
  const { replaced, evicted, now: at } = inserted;
  const announce = (session: string, endedBy: EndedBy, endedByThisCall: boolean): void => {
    parts.revocations.apply({ kind: "revoked", session, endedBy, at });
    if (endedByThisCall) {
      parts.emit({ type: "revoked", sessionId: session, endedBy });
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
async function caughtUp(
  { store, accessTokens }: CreateParts,
  { from }: Creation,
  { record, now }: Stored<SessionRecord>,
): Promise<Stored<SessionRecord>> {
  if (from === undefined) {
    return { record, now };
  }
  // The original may have ended by now. An outage here must not cost the user both sessions.
  const origin = await store.load(from.session).then(
    (loaded) => loaded.record,
    () => undefined,
  );
  if (origin === undefined || origin.version === from.version) {
    return { record, now };
  }
  const { claims, data } = origin;
  accessTokens.assertFits({ ...record, claims });
  const written = await reach(
    store.update({ id: record.id, version: record.version, claims, data }),
  );
  return { record: liveOf(record.id, written), now: written.now };
}
