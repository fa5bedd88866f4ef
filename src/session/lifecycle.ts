import type { SessionEventListener } from "../events.ts";
import type { JsonObject } from "../json.ts";
import { randomId, type SecretRing } from "../secrets.ts";
import type { TokenTransport } from "../transport.ts";
import { type AccessToken, type AccessTokenOptions, assertTokenFits } from "./access.ts";
import type { Feed } from "./feed.ts";
import { reach } from "./reach.ts";
import type { RefreshTokens } from "./refresh-tokens.ts";
import type { Device, EndedBy, SessionRecord, SessionStore, Stored } from "./store.ts";

/** What a new session is given. */
export interface Creation {
  readonly userId: string;
  readonly tenantId: string | null;
  readonly claims: JsonObject;
  readonly data: JsonObject;
  readonly device: Device;
  readonly transport: TokenTransport;
  /** The id of a session that the new one takes the place of. */
  readonly replaces: string | null;
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
  /** @throws TypeError when its tokens would not fit their transport; then nothing was stored */
  create(creation: Creation): Promise<Created>;
  /** Ends a session; resolves to whether this call did. Known in this process when it resolves. */
  revoke(id: string, endedBy: EndedBy): Promise<boolean>;
}

/** What a lifecycle is made of. */
export interface LifecycleOptions extends AccessTokenOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly feed: Feed;
  readonly refreshTokens: RefreshTokens;
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
  const { store, secrets, lifetimes, emit } = options;
  assertTokenFits(options, creation);
  const stored = await reach(
    store.insert({
      ...creation,
      id: randomId(16),
      salt: randomId(32),
      secretId: secrets.current.id,
      idle: lifetimes.idle,
      absolute: lifetimes.absolute,
    }),
  );
  const { record, now, replaced } = stored;
  const { replaces } = creation;
  if (replaces !== null) {
    options.feed.apply({ kind: "revoked", session: replaces, endedBy: "replaced", at: now });
  }
  if (replaces !== null && replaced) {
    emit({ type: "revoked", session: replaces, endedBy: "replaced" });
  }
  try {
    const access = await options.mintAccess(stored);
    const refreshToken = await options.refreshTokens.mint(record);
    emit({ type: "created", session: record.id, userId: record.userId });
    return { record, now, access, refreshToken };
  } catch (error) {
    // Nobody will ever hold its tokens: do not leave it behind.
    await store.revoke(record.id, "revoked").catch(() => {});
    throw error;
  }
}

async function revoke(
  { store, feed, emit }: LifecycleOptions,
  id: string,
  endedBy: EndedBy,
): Promise<boolean> {
  const { record, revoked, now } = await reach(store.revoke(id, endedBy));
  if (record !== undefined) {
    const { endedBy: recorded, revokedAt } = record;
    feed.apply({
      kind: "revoked",
      session: id,
      endedBy: recorded ?? endedBy,
      at: revokedAt ?? now,
    });
    // Its own end counts from now, also where something else had ended it before.
    feed.apply({ kind: "revoked", session: id, endedBy, at: now });
  }
  if (revoked) {
    emit({ type: "revoked", session: id, endedBy });
  }
  return revoked;
}
