import type { JWK } from "jose";
import type { Clock } from "../base/clock.ts";
import {
  openSecretRing,
  readSecretOption,
  type SecretOption,
  type SecretRing,
} from "../base/crypto.ts";
import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import {
  type CacheLimits,
  createVerifiedCache,
  readCacheLimits,
  type VerifiedCache,
} from "../jwt/verified-cache.ts";
import { type AccessTokenVerifier, createAccessTokenVerifier } from "../jwt/verifier.ts";
import { createReissuer, mintAccessToken, type Reissuer } from "./access-tokens.ts";
import { type AntiCsrf, createAntiCsrf } from "./anti-csrf.ts";
import { createLifecycle, type Lifecycle, type LifecycleOptions } from "./create.ts";
import { createOwnKeys } from "./keys/own.ts";
import { type KeyPlan, readKeyPlan } from "./keys/plan.ts";
import { createSigningKeys, type SigningKeys, type SigningKeysOptions } from "./keys/stored.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { createRowReads, type RowReads, reach } from "./reach.ts";
import { createDirectory, createUpdates, type Directory, type Updates } from "./records.ts";
import { createConfirmations } from "./refresh/confirmations.ts";
import { createRefresher, type Refresher } from "./refresh/refresh.ts";
import type { RefreshRule } from "./refresh/rule.ts";
import { createRefreshTokens, type RefreshTokens } from "./refresh/token.ts";
import { readMaxStaleness } from "./revocation/check.ts";
import { healthOf, type SessionsHealth } from "./revocation/health.ts";
import { RevocationLog } from "./revocation/log.ts";
import { Restorer } from "./revocation/restore.ts";
import type { SessionLimit, SessionRecord, SessionStore } from "./store.ts";
import { createSweeper, type Sweeper } from "./sweeper.ts";

/**
 * Opens the keys of a plan.
 * @throws SessionError `unavailable`, with what stood in the way as its cause
 */
export async function openKeys(
  plan: KeyPlan,
  options: Omit<SigningKeysOptions, "algorithm" | "rotation">,
): Promise<SigningKeys> {
  const keys =
    plan.kind === "own" ? createOwnKeys(plan) : createSigningKeys({ ...options, ...plan });
  try {
    await keys.open();
  } catch (cause) {
    throw cause instanceof SessionError
      ? cause
      : unavailable("the signing keys could not be loaded; try again", cause);
  }
  return keys;
}

/** Where secrets come from. */
export interface SecretsSource {
  readonly issuer: string;
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
}

/** The secrets that were given, or else the one that the store keeps. */
export async function openSecrets({ issuer, store, secret }: SecretsSource): Promise<SecretRing> {
  const found = secret ?? (await store.secret?.());
  if (found === undefined) {
    throw new TypeError(`secret: ${store.name} keeps none; give one of at least 32 bytes`);
  }
  return openSecretRing(readSecretOption(found), issuer);
}

/** Ids of unknown secrets remembered; then it begins anew, so that invented ids silence nothing for good. */
const unknownSecretsMax = 100;

/** Lets every event through, but of each unknown secret the first one only. */
export function oncePerSecret(emit: SessionEventListener): SessionEventListener {
  const reported = new Set<string>();
  return (event) => {
    if (event.type !== "unknownSecret") {
      emit(event);
    } else if (!reported.has(event.secretId)) {
      if (reported.size >= unknownSecretsMax) {
        reported.clear();
      }
      reported.add(event.secretId);
      emit(event);
    }
  };
}

/** What an engine is made of; every option checked and resolved. */
export interface EngineOptions {
  readonly issuer: string;
  readonly audience: string;
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
  /** Default: ES256, generated, rotated every 30 days. */
  readonly keys?: KeyPlan;
  readonly lifetimes: Lifetimes;
  /** How many sessions a user may have. Default any number. */
  readonly limit?: SessionLimit | null;
  /** Milliseconds that `iat` and `nbf` may lie in the future. */
  readonly clockSkew: number;
  /** Milliseconds; default 5000. See `SessionsOptions`. */
  readonly maxStaleness?: number;
  /** Default: 50,000 entries. */
  readonly verifiedCache?: CacheLimits;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** For the model check alone; see `RefresherOptions`. */
  readonly decide?: RefreshRule;
}

/**
 * Sessions without any transport: what is a token, what is alive, what may be refreshed. Rejects
 * with SessionError, but for misuse; an outage is `unavailable`.
 */
export interface Engine extends Lifecycle, Directory, Reissuer {
  readonly updates: Updates;
  readonly refresh: Refresher;
  readonly refreshTokens: RefreshTokens;
  readonly antiCsrf: AntiCsrf;
  readonly revocations: RevocationLog;
  /** Checks form, signature, issuer, audience, type and time; not revocation. */
  readonly verify: AccessTokenVerifier;
  /** The public keys of all tokens that may be alive, and of those to come. */
  publicKeys(): Promise<readonly JWK[]>;
  /**
   * Takes note that a live access token was used.
   * @param now milliseconds since 1970; default `revocations.storeNow()`
   */
  used(claims: TokenClaims, now?: number): void;
  load(id: string): Promise<{ readonly record: SessionRecord | undefined; readonly now: number }>;
  /** Reads a session because `revocations` are unsure; of too many at a time some reject. */
  readonly loadUnsure: RowReads;
  /** Does no I/O. */
  health(): SessionsHealth;
  /** Waits for background writes. */
  settled(): Promise<void>;
  /** Ends feed and sweeper, and closes the store for this engine. */
  close(): Promise<void>;
}

/** How long an entry of the change log matters beyond the life of an access token. */
const logMargin = 60_000;

/** Opens store, secrets, keys and feed. Rejects with what stood in the way; may be tried again. */
export async function openEngine(given: EngineOptions): Promise<Engine> {
  const options = { ...given, emit: oncePerSecret(given.emit) };
  const { store, clock } = options;
  await store.open({ clock });
  try {
    return assemble(options, await openParts(options));
  } catch (error) {
    // Another try opens the store again.
    await store.close();
    throw error;
  }
}

async function openParts(options: EngineOptions): Promise<Opened> {
  const { store, clock } = options;
  const secrets = await openSecrets(options);
  const keys = await openKeys(options.keys ?? readKeyPlan(), {
    store,
    secrets,
    clock,
    emit: options.emit,
    retention: maxAccessLife + options.clockSkew,
  });
  const window = maxAccessLife + logMargin;
  const verified = createVerifiedCache(options.verifiedCache ?? readCacheLimits(), clock);
  const onEnd = (session: string): void => verified?.evictSession(session);
  const revocations = new RevocationLog({
    store,
    clock,
    window,
    emit: options.emit,
    maxStaleness: options.maxStaleness ?? readMaxStaleness(undefined),
    onEnd,
    onLoss: () => restorer.begin(),
  });
  const restorer = new Restorer({ store, revocations, keys, clock });
  await revocations.open();
  const sweeper = createSweeper({ store, keys, clock });
  return { secrets, keys, verified, revocations, restorer, sweeper };
}

/** What is open once the engine is. */
interface Opened {
  readonly secrets: SecretRing;
  readonly keys: SigningKeys;
  readonly verified: VerifiedCache | undefined;
  readonly revocations: RevocationLog;
  readonly restorer: Restorer;
  readonly sweeper: Sweeper;
}

function assemble(options: EngineOptions, opened: Opened): Engine {
  const { store, lifetimes, clock, emit, limit = null } = options;
  const { secrets, keys, revocations } = opened;
  const complete = options.secret === undefined;
  const refreshTokens = createRefreshTokens({ store, secrets, emit, complete });
  const mintAccess: LifecycleOptions["mintAccess"] = (stored) =>
    mintAccessToken({ ...options, keys }, stored);
  const confirmations = createConfirmations({ store, clock, settle: lifetimes.settle });
  return {
    revocations,
    ...knowledgeOf(options, opened),
    refreshTokens,
    antiCsrf: createAntiCsrf(secrets),
    verify: verifierOf(options, opened),
    refresh: createRefresher({
      ...options,
      secrets,
      tokens: refreshTokens,
      mintAccess,
      announce: (change) => revocations.apply(change),
      isRevoked: (session) => revocations.get(session) !== undefined,
    }),
    ...createLifecycle({
      ...options,
      limit,
      secrets,
      keys,
      revocations,
      refreshTokens,
      mintAccess,
    }),
    ...createDirectory({ store, revocations, emit }),
    updates: createUpdates({ ...options, keys, revocations }),
    close: () => closeAll(store, opened),
    publicKeys: () => keys.published(),
    used(claims, now = revocations.storeNow()) {
      if (now - claims.gat * 1000 >= lifetimes.settle) {
        confirmations.used(claims.sid, claims.gen);
      }
    },
    load: (id) => reach(store.load(id)),
    async settled() {
      await Promise.all([confirmations.settled(), keys.settled()]);
    },
  };
}

/** What is known of sessions beside their tokens, and how to know more. */
function knowledgeOf({ store, clock }: EngineOptions, { revocations, keys }: Opened) {
  return {
    health: () => healthOf(revocations, store),
    ...createReissuer({ store, revocations, clock, keys }),
    loadUnsure: createRowReads(store),
  };
}

async function closeAll(store: SessionStore, opened: Opened): Promise<void> {
  const { revocations, restorer, sweeper, verified } = opened;
  revocations.close();
  verified?.close();
  await restorer.close();
  await sweeper.close();
  await store.close();
}

function verifierOf(options: EngineOptions, { keys, verified }: Opened): AccessTokenVerifier {
  return createAccessTokenVerifier({
    issuer: options.issuer,
    audience: options.audience,
    maxLife: maxAccessLife / 1000,
    clockSkew: options.clockSkew / 1000,
    findKey: (kid, issuedAt) => keys.find(kid, issuedAt),
    cache: verified,
  });
}
