import { type AcceptedIssuer, isAnyOf } from "../base/checks.ts";
import type { Clock } from "../base/clock.ts";
import type { DeadSecrets, SecretOption } from "../base/crypto.ts";
import type { SessionEventListener } from "../base/events.ts";
import { whenKnown } from "../base/promises.ts";
import type { SessionTelemetry } from "../base/telemetry.ts";
import {
  type CacheLimits,
  createVerifiedCache,
  readCacheLimits,
  type VerifiedCache,
} from "../jwt/verified-cache.ts";
import {
  type AccessTokenVerifier,
  createAccessTokenVerifier,
  type VerifiedToken,
} from "../jwt/verifier.ts";
import { type AuditLog, type AuditLogOptions, createAuditLog } from "./audit/log.ts";
import { OwnSigningKeys } from "./keys/own.ts";
import { type KeyPlan, readKeyPlan } from "./keys/plan.ts";
import { EngineSecrets, oncePerSecret, type TrustedSecrets } from "./keys/secrets.ts";
import { type SigningKeys, StoredSigningKeys } from "./keys/stored.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { RowReads } from "./reach.ts";
import { Confirmations } from "./refresh/confirmations.ts";
import { Nonces } from "./refresh/nonces.ts";
import { readMaxStaleness } from "./revocation/check.ts";
import { RevocationLog } from "./revocation/log.ts";
import { Restorer } from "./revocation/restore.ts";
import type { KeysEntry, SessionStore } from "./store.ts";
import { Sweeper } from "./sweeper.ts";

/** The options of what engines share. All durations are milliseconds. */
export interface SharedOptions {
  readonly issuer: string;
  readonly audience: string;
  /** Issuers whose tokens are accepted as well. Default: none. */
  readonly older?: readonly AcceptedIssuer[];
  /** The issuers of the engines that `forHost` creates. Default: none. */
  readonly hosts?: readonly AcceptedIssuer[];
  readonly store: SessionStore;
  /** Undefined to use the secret that the store keeps. */
  readonly secret: SecretOption | undefined;
  /** Secrets that must not be trusted, whatever the store says. Default: none. */
  readonly dead?: DeadSecrets;
  /** Default: generated ES256 keys, rotated every 30 days. */
  readonly keys?: KeyPlan;
  readonly lifetimes: Lifetimes;
  /** How far `iat` and `nbf` may lie in the future. */
  readonly clockSkew: number;
  /** Default 5000. */
  readonly maxStaleness?: number;
  /** Default: 50,000 entries. */
  readonly verifiedCache?: CacheLimits;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
  /** Default: no audit log. */
  readonly auditLog?: AuditLogOptions | undefined;
}

/** The parts that an engine shares with those of its hosts: all that belongs to the store or the process. */
export interface SharedParts {
  readonly secrets: EngineSecrets;
  readonly keys: SigningKeys;
  readonly revocations: RevocationLog;
  readonly nonces: Nonces;
  readonly audit: AuditLog | undefined;
  readonly verified: VerifiedCache | undefined;
  /** Accepts the tokens of every host. */
  readonly verify: AccessTokenVerifier;
  readonly counts: { warm: number; cold: number };
  readonly restorer: Restorer;
  readonly sweeper: Sweeper;
  readonly confirmations: Confirmations;
  readonly rowReads: RowReads;
  readonly emitOnce: SessionEventListener;
}

/** Milliseconds that an entry of the change log matters beyond `lifetimes.access`. */
const logMargin = 60_000;

/**
 * Creates the parts of an engine that its hosts share. Connects them only; `Engine.open` starts them.
 * @param onKeys called when the change log says that secrets or signing keys changed
 */
export function createShared(
  options: SharedOptions,
  onKeys: (entries: readonly KeysEntry[]) => Promise<void>,
): SharedParts {
  const { store, clock, emit, lifetimes } = options;
  const emitOnce = oncePerSecret(emit);
  const secrets = new EngineSecrets(options);
  const { maxStaleness = readMaxStaleness(undefined) } = options;
  const keys = signingKeysOf({ ...options, maxStaleness, emit: emitOnce }, secrets);
  const verified = createVerifiedCache(options.verifiedCache ?? readCacheLimits(), clock);
  const counts = { warm: 0, cold: 0 };
  const revocations: RevocationLog = new RevocationLog({
    store,
    clock,
    emit,
    // A token of a server with longer lifetimes is accepted no longer either; see `acceptedFor` below.
    window: lifetimes.access + logMargin,
    maxStaleness,
    onKeys,
    onEnd: verified?.evictSession.bind(verified),
    onLoss: () => restorer.begin(),
    ...(options.telemetry && { telemetry: options.telemetry }),
  });
  const restorer = new Restorer({ store, revocations, secrets, keys, clock });
  const verify = createAccessTokenVerifier({
    issuer: options.issuer,
    audience: options.audience,
    older: [...(options.older ?? []), ...(options.hosts ?? [])],
    maxLife: maxAccessLife / 1000,
    acceptedFor: Math.ceil(lifetimes.access / 1000),
    clockSkew: options.clockSkew / 1000,
    keys,
    cache: verified,
    counts,
  });
  return {
    ...{ secrets, keys, revocations, verified, verify, counts, restorer, emitOnce },
    nonces: new Nonces(secrets),
    audit: createAuditLog(options.auditLog, options),
    sweeper: new Sweeper({ store, keys, clock }),
    confirmations: new Confirmations({ store, clock, settle: lifetimes.settle }),
    rowReads: new RowReads(store),
  };
}

/** Verifies the tokens of one host. Those of the other hosts count as tokens of another issuer. */
export function verifierOfHost(
  { issuer, older = [] }: Pick<SharedOptions, "issuer" | "older">,
  verify: AccessTokenVerifier,
): AccessTokenVerifier {
  const isOwn = isAnyOf([issuer, ...older.map((one) => one.issuer)]);
  const own = (verified: VerifiedToken): VerifiedToken =>
    "claims" in verified && !isOwn(verified.claims.iss) ? { status: "foreign" } : verified;
  return (token, now) => whenKnown(verify(token, now), own);
}

function signingKeysOf(
  options: SharedOptions & { readonly maxStaleness: number },
  secrets: TrustedSecrets,
): SigningKeys {
  const plan = options.keys ?? readKeyPlan();
  if (plan.kind === "own") {
    return new OwnSigningKeys(plan);
  }
  const { store, clock, emit, maxStaleness, telemetry } = options;
  const retention = maxAccessLife + options.clockSkew;
  return new StoredSigningKeys({
    ...{ ...plan, store, secrets, clock, emit, retention, maxStaleness },
    ...(telemetry && { telemetry }),
  });
}
