import type { JWK } from "jose";
import type { Clock } from "../clock.ts";
import type { SessionEventListener } from "../events.ts";
import type { JsonObject } from "../json.ts";
import { createAccessTokenVerifier, type VerifiedToken } from "../jwt/access-token.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { randomId, type SecretOption, type SecretRing } from "../secrets.ts";
import type { TokenTransport } from "../transport.ts";
import { type AccessToken, mintAccessToken } from "./access.ts";
import { type AntiCsrf, createAntiCsrf } from "./anti-csrf.ts";
import { createConfirmations } from "./confirmations.ts";
import { createFeed, type Feed } from "./feed.ts";
import { type KeyPlan, readKeyPlan } from "./key-plan.ts";
import { openKeys } from "./keys.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { openSecrets } from "./open-secrets.ts";
import { reach } from "./reach.ts";
import { createRefreshTokens, type RefreshTokens } from "./refresh-tokens.ts";
import { createRefresher, type Refresher } from "./refresher.ts";
import { restoreStore } from "./restore.ts";
import { createRevocations, type Revocations } from "./revocations.ts";
import { oncePerSecret } from "./secret-alarm.ts";
import type { SigningKeys } from "./signing-keys.ts";
import type { Device, EndedBy, SessionRecord, SessionStore, Stored } from "./store.ts";

/** What an engine is made of; every option checked and resolved. */
export interface EngineOptions {
  readonly issuer: string;
  readonly audience: string;
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
  readonly lifetimes: Lifetimes;
  /** Default: ES256, generated, rotated every 30 days. */
  readonly keys?: KeyPlan;
  /** Milliseconds that `iat` and `nbf` may lie in the future. */
  readonly clockSkew: number;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
}

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

/**
 * Sessions without any transport: what is a token, what is alive, what may be refreshed. Rejects
 * with SessionError only; an outage is `unavailable`.
 */
export interface Engine {
  readonly refresh: Refresher;
  readonly refreshTokens: RefreshTokens;
  readonly antiCsrf: AntiCsrf;
  readonly revocations: Revocations;
  create(creation: Creation): Promise<Created>;
  /** Checks form, signature, issuer, audience, type and time; not revocation. */
  verify(token: string, now: number): Promise<VerifiedToken>;
  /** The public keys of all tokens that may be alive, and of those to come. */
  publicKeys(): Promise<readonly JWK[]>;
  /** Takes note that a live access token was used. */
  used(claims: AccessClaims, now: number): void;
  load(id: string): Promise<{ readonly record: SessionRecord | undefined; readonly now: number }>;
  /** Ends a session; resolves to whether this call did. Known in this process when it resolves. */
  revoke(id: string, endedBy: EndedBy): Promise<boolean>;
  /** Waits for background writes. */
  settled(): Promise<void>;
  close(): void;
}

/** How long an entry of the change log matters beyond the life of an access token. */
const logMargin = 60_000;

/** Opens store, secrets, keys and feed. Rejects with what stood in the way; may be tried again. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { store, clock } = options;
  const emit = oncePerSecret(options.emit);
  await store.open({ clock });
  const secrets = await openSecrets(options);
  const keys = await openKeys(options.keys ?? readKeyPlan(), {
    store,
    secrets,
    clock,
    emit,
    retention: maxAccessLife + options.clockSkew,
  });
  const window = maxAccessLife + logMargin;
  const revocations = createRevocations(window);
  const restore = () => restoreStore({ store, revocations, keys });
  const feed = createFeed({ store, revocations, clock, window, restore });
  await feed.open();
  return assemble({ ...options, emit }, { secrets, keys, revocations, feed });
}

/** What is open once the engine is. */
interface Opened {
  readonly secrets: SecretRing;
  readonly keys: SigningKeys;
  readonly revocations: Revocations;
  readonly feed: Feed;
}

function assemble(options: EngineOptions, opened: Opened): Engine {
  const { store, lifetimes, clock, emit } = options;
  const { secrets, keys, revocations, feed } = opened;
  const refreshTokens = createRefreshTokens({ store, secrets, emit });
  const mint: MintAccess = (stored) => mintAccessToken({ ...options, keys }, stored);
  const confirmations = createConfirmations({ store, clock, settle: lifetimes.settle });
  return {
    revocations,
    refreshTokens,
    antiCsrf: createAntiCsrf(secrets),
    verify: createAccessTokenVerifier({
      issuer: options.issuer,
      audience: options.audience,
      maxLife: maxAccessLife / 1000,
      clockSkew: options.clockSkew / 1000,
      findKey: (kid, issuedAt) => keys.find(kid, issuedAt),
    }),
    refresh: createRefresher({
      ...options,
      secrets,
      tokens: refreshTokens,
      mintAccess: mint,
      announce: (change) => feed.apply(change),
      isRevoked: (session) => revocations.get(session) !== undefined,
    }),
    publicKeys: () => keys.published(),
    create: (creation) => create(options, opened, { creation, mint, refreshTokens }),
    used(claims, now) {
      if (now - claims.gat * 1000 >= lifetimes.settle) {
        confirmations.used(claims.sid, claims.gen);
      }
    },
    load: (id) => reach(store.load(id)),
    revoke: (id, endedBy) => revoke(options, opened, { id, endedBy }),
    async settled() {
      await Promise.all([confirmations.settled(), keys.settled()]);
    },
    close: () => feed.close(),
  };
}

type MintAccess = (stored: Stored<SessionRecord>) => Promise<AccessToken>;

async function revoke(
  { store, emit }: EngineOptions,
  { feed }: Opened,
  { id, endedBy }: { readonly id: string; readonly endedBy: EndedBy },
): Promise<boolean> {
  const { record, revoked, now } = await reach(store.revoke(id, endedBy));
  if (record !== undefined) {
    feed.apply({
      kind: "revoked",
      session: id,
      endedBy: record.endedBy ?? endedBy,
      at: record.revokedAt ?? now,
    });
  }
  if (revoked) {
    emit({ type: "revoked", session: id, endedBy });
  }
  return revoked;
}

async function create(
  { store, lifetimes, emit }: EngineOptions,
  { secrets, feed }: Opened,
  {
    creation,
    mint,
    refreshTokens,
  }: {
    readonly creation: Creation;
    readonly mint: MintAccess;
    readonly refreshTokens: RefreshTokens;
  },
): Promise<Created> {
  const { replaces } = creation;
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
  const { record, now } = stored;
  if (replaces !== null) {
    feed.apply({ kind: "revoked", session: replaces, endedBy: "replaced", at: now });
    emit({ type: "revoked", session: replaces, endedBy: "replaced" });
  }
  try {
    const access = await mint(stored);
    const refreshToken = await refreshTokens.mint(record);
    emit({ type: "created", session: record.id, userId: record.userId });
    return { record, now, access, refreshToken };
  } catch (error) {
    // Nobody will ever hold its tokens: do not leave it behind.
    await store.revoke(record.id, "revoked").catch(() => {});
    throw error;
  }
}
