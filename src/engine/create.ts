import { randomId, type SecretRing } from "../base/crypto.ts";
import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import { type AccessToken, type AccessTokenOptions, assertTokenFits } from "./access-tokens.ts";
import type { SessionLife } from "./lifetimes.ts";
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

/** What a new session is given. */
export interface Creation {
  readonly userId: string;
  readonly tenantId: string | null;
  readonly claims: JsonObject;
  readonly data: JsonObject;
  readonly device: Device;
  readonly transport: TokenTransport;
  /** Its own life; absent where the service's holds. */
  readonly life?: SessionLife;
  /** The id of a session that the new one takes the place of. */
  readonly replaces: string | null;
  /** The session that the new one comes from; absent where it begins with a sign-in of its own. */
  readonly from?: Origin;
}

/** Where a session comes from that does not begin with a sign-in. */
export interface Origin {
  /** The id of a session that must be live. */
  readonly session: string;
  /** Its `version` when what the new one inherits was read. */
  readonly version: number;
  /** When its user proved who they are; null for now. */
  readonly authTime: number | null;
  /** When the new session ends in any case; null where only its own life counts. */
  readonly endsBy: number | null;
}

/** A new session and its tokens. */
export interface Created {
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  readonly refreshToken: string;
}

/** How sessions begin and end. Rejects with SessionError, but for misuse. */
export interface Lifecycle {
  /**
   * @throws TypeError when its tokens would not fit their transport; then nothing was stored
   * @throws SessionError `forbidden` when its user has as many as are allowed; `unauthorized` when
   * the session it comes from is over
   */
  create(creation: Creation): Promise<Created>;
  /** Ends a session; resolves to whether this call did. Known in this process when it resolves. */
  revoke(id: string, endedBy: EndedBy): Promise<boolean>;
}

/** What a lifecycle is made of. */
export interface LifecycleOptions extends AccessTokenOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly revocations: RevocationLog;
  readonly refreshTokens: RefreshTokens;
  /** How many sessions a user may have; null for any number. */
  readonly limit: SessionLimit | null;
  readonly emit: SessionEventListener;
  readonly mintAccess: (stored: Stored<SessionRecord>) => Promise<AccessToken>;
}

export function createLifecycle(options: LifecycleOptions): Lifecycle {
  return {
    create: (creation) => create(options, creation),
    revoke: (id, endedBy) => revoke(options, id, endedBy),
  };
}

async function create(options: LifecycleOptions, creation: Creation): Promise<Created> {
  assertTokenFits(options, creation);
  const inserted = await insert(options, creation);
  announceEnds(options, creation, inserted);
  const { record } = inserted;
  try {
    const stored = await caughtUp(options, creation, inserted);
    const { now } = stored;
    const access = await options.mintAccess(stored);
    const refreshToken = await options.refreshTokens.mint(record);
    options.emit({ type: "created", sessionId: record.id, userId: record.userId });
    return { record: stored.record, now, access, refreshToken };
  } catch (error) {
    // Nobody will ever hold its tokens: do not leave it behind.
    await options.store.revoke(record.id, "revoked").catch(() => {});
    throw error;
  }
}

type Kept = Extract<Inserted, { readonly record: SessionRecord }>;

async function insert(options: LifecycleOptions, creation: Creation): Promise<Kept> {
  const { life, from, ...given } = creation;
  const { lifetimes } = options;
  const inserted = await reach(
    options.store.insert({
      ...given,
      id: randomId(16),
      salt: randomId(32),
      secretId: options.secrets.current.id,
      idle: life?.idleLife ?? lifetimes.idle,
      absolute: life?.absolute ?? lifetimes.absolute,
      accessLife: life?.accessLife ?? null,
      idleLife: life?.idleLife ?? null,
      endsBy: from?.endsBy ?? null,
      authTime: from?.authTime ?? null,
      requires: from?.session ?? null,
      limit: options.limit,
    }),
  );
  if (inserted.record !== undefined) {
    return inserted;
  }
  if (inserted.refused === "notLive" && from !== undefined) {
    liveOf(from.session, await reach(options.store.load(from.session)));
    throw unavailable("the original session kept changing while it was copied; try again");
  }
  throw tooMany(options.limit);
}

/**
 * The new session with what was changed in the one it comes from since that was read: a role that
 * was taken away in this very moment must not live on.
 */
async function caughtUp(
  options: LifecycleOptions,
  { from }: Creation,
  { record, now }: Stored<SessionRecord>,
): Promise<Stored<SessionRecord>> {
  if (from === undefined) {
    return { record, now };
  }
  const { store } = options;
  // The former session has ended by now: an outage must not take the new one as well.
  const origin = await store.load(from.session).then(
    (loaded) => loaded.record,
    () => undefined,
  );
  if (origin === undefined || origin.version === from.version) {
    return { record, now };
  }
  const { claims, data } = origin;
  assertTokenFits(options, { ...record, claims });
  const written = await reach(
    store.update({ id: record.id, version: record.version, claims, data }),
  );
  return { record: liveOf(record.id, written), now: written.now };
}

function tooMany(limit: SessionLimit | null): SessionError {
  return new SessionError("forbidden", "SESSION_LIMIT", {
    message: `the user has ${limit?.max} sessions already; end one of them first`,
  });
}

/** Makes known what a new session ended. */
function announceEnds(
  { revocations, emit }: LifecycleOptions,
  { replaces }: Creation,
  kept: Kept,
): void {
  const { replaced, evicted, now: at } = kept;
  const announce = (session: string, endedBy: EndedBy, byThis: boolean): void => {
    revocations.apply({ kind: "revoked", session, endedBy, at });
    if (byThis) {
      emit({ type: "revoked", sessionId: session, endedBy });
    }
  };
  if (replaces !== null) {
    // Its own end counts, also where something else had ended it before.
    announce(replaces, "replaced", replaced);
  }
  for (const session of evicted) {
    announce(session, "evicted", true);
  }
}

async function revoke(
  { store, revocations, emit }: LifecycleOptions,
  id: string,
  endedBy: EndedBy,
): Promise<boolean> {
  const { record, revoked, now } = await reach(store.revoke(id, endedBy));
  if (record !== undefined) {
    const { endedBy: recorded, revokedAt } = record;
    revocations.apply({
      kind: "revoked",
      session: id,
      endedBy: recorded ?? endedBy,
      at: revokedAt ?? now,
    });
    // Its own end counts from now, also where something else had ended it before.
    revocations.apply({ kind: "revoked", session: id, endedBy, at: now });
  }
  if (revoked) {
    emit({ type: "revoked", sessionId: id, endedBy });
  }
  return revoked;
}
