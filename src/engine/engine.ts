import type { JWK } from "jose";
import type { AcceptedIssuer } from "../base/checks.ts";
import type { Clock } from "../base/clock.ts";
import type { DeadSecrets, SecretOption } from "../base/crypto.ts";
import { unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import { noTelemetry, type SessionTelemetry, type TelemetryReadings } from "../base/telemetry.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import {
  type CacheLimits,
  createVerifiedCache,
  readCacheLimits,
  type VerifiedCache,
} from "../jwt/verified-cache.ts";
import { type AccessTokenVerifier, createAccessTokenVerifier } from "../jwt/verifier.ts";
import { AccessTokens, type Reissued, Reissuer } from "./access-tokens.ts";
import { type AuditLog, type AuditLogOptions, createAuditLog, type EndCause } from "./audit/log.ts";
import type { ShownLength } from "./claims.ts";
import { SessionCreator } from "./create.ts";
import { OwnSigningKeys } from "./keys/own.ts";
import { type KeyPlan, readKeyPlan } from "./keys/plan.ts";
import { EngineSecrets, oncePerSecret, type TrustedSecrets } from "./keys/secrets.ts";
import { openKeys, type SigningKeys, StoredSigningKeys } from "./keys/stored.ts";
import { type Lifetimes, maxAccessLife } from "./lifetimes.ts";
import { isLive, livePages } from "./liveness.ts";
import { AntiCsrf } from "./macs/anti-csrf.ts";
import { Tickets } from "./macs/tickets.ts";
import { RowReads, storeFailed } from "./reach.ts";
import { RecordUpdates } from "./records.ts";
import { Confirmations } from "./refresh/confirmations.ts";
import { DeviceValues } from "./refresh/device.ts";
import { Nonces } from "./refresh/nonces.ts";
import { type OnMismatch, Refresher } from "./refresh/refresh.ts";
import { RefreshTokens } from "./refresh/token.ts";
import { readMaxStaleness } from "./revocation/check.ts";
import { closedHealth, healthOf, type SessionsHealth } from "./revocation/health.ts";
import { RevocationLog } from "./revocation/log.ts";
import { Restorer } from "./revocation/restore.ts";
import type {
  AuditedUser,
  AuditRecords,
  EndedBy,
  KeysEntry,
  RevokeScope,
  SessionLimit,
  SessionPage,
  SessionRecord,
  SessionSelection,
  SessionStore,
  Stored,
} from "./store.ts";
import { Sweeper } from "./sweeper.ts";

/** Options that have been checked and resolved. All durations are milliseconds. */
export interface EngineOptions {
  readonly issuer: string;
  readonly audience: string;
  /** Issuers whose tokens are accepted as well. Default: none. */
  readonly older?: readonly AcceptedIssuer[];
  readonly store: SessionStore;
  /** Undefined to use the secret that the store keeps. */
  readonly secret: SecretOption | undefined;
  /** Secrets that must not be trusted, whatever the store says. Default: none. */
  readonly dead?: DeadSecrets;
  /** Default: generated ES256 keys, rotated every 30 days. */
  readonly keys?: KeyPlan;
  readonly lifetimes: Lifetimes;
  /** Sessions per user. Default: unlimited. */
  readonly limit?: SessionLimit | null;
  /** Default "refuse". */
  readonly onMismatch?: OnMismatch;
  /** Whether sessions in cookies may have to be bound. Default false. */
  readonly mayRequire?: boolean;
  /** How far `iat` and `nbf` may lie in the future. */
  readonly clockSkew: number;
  /** Default 5000. */
  readonly maxStaleness?: number;
  /** Default: 50,000 entries. */
  readonly verifiedCache?: CacheLimits;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Default: the client may read no claims. */
  readonly shownLength?: ShownLength;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
  /** Default: no audit log. */
  readonly auditLog?: AuditLogOptions | undefined;
}

/** Sessions that `revokeWhere` reads at the same time, which leaves the store to calls. */
const readsAtOnce = 8;
/** Milliseconds that an entry of the change log matters beyond `lifetimes.access`. */
const logMargin = 60_000;

/**
 * Sessions without a transport: creates, verifies, refreshes, changes and revokes them.
 *
 * The constructor only connects the parts; `open` starts them. Methods reject with a SessionError:
 * `unavailable` if the store cannot be reached, `unauthorized` if the session is over.
 */
export class Engine {
  readonly revocations: RevocationLog;
  readonly antiCsrf: AntiCsrf;
  /** The nonces of proofs of possession. */
  readonly nonces: Nonces;
  /** The challenges and proofs of device bound sessions. */
  readonly device: DeviceValues;
  readonly tickets: Tickets;
  readonly refreshTokens: RefreshTokens;
  readonly creator: SessionCreator;
  readonly refresher: Refresher;
  readonly updates: RecordUpdates;
  /** The state of all secrets. */
  readonly secrets: EngineSecrets;
  readonly keys: SigningKeys;
  /** Verifies format, signature, issuer, audience, type and lifetime, but not revocation. */
  readonly verify: AccessTokenVerifier;

  readonly #options: EngineOptions;
  readonly #audit: AuditLog | undefined;
  readonly #verified: VerifiedCache | undefined;
  readonly #restorer: Restorer;
  readonly #sweeper: Sweeper;
  readonly #confirmations: Confirmations;
  readonly #reissuer: Reissuer;
  readonly #rowReads: RowReads;
  readonly #counts = { warm: 0, cold: 0 };
  #state: "closed" | "open" | "ended" = "closed";
  #opening: Promise<this> | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: EngineOptions) {
    const { store, clock, emit, lifetimes } = options;
    const emitOnce = oncePerSecret(emit);
    const secrets = new EngineSecrets(options);
    const { maxStaleness = readMaxStaleness(undefined) } = options;
    const keys = signingKeysOf({ ...options, maxStaleness, emit: emitOnce }, secrets);
    const verified = createVerifiedCache(options.verifiedCache ?? readCacheLimits(), clock);
    const revocations = new RevocationLog({
      store,
      clock,
      emit,
      // A token of a server with longer lifetimes is accepted no longer either; see `acceptedFor` below.
      window: lifetimes.access + logMargin,
      maxStaleness,
      onKeys: (entries) => this.#keysChanged(entries),
      onEnd: verified?.evictSession.bind(verified),
      onLoss: () => this.#restorer.begin(),
      ...(options.telemetry && { telemetry: options.telemetry }),
    });
    const format = lifetimes.tokenFormat;
    const refreshTokens = new RefreshTokens({ store, secrets, emit: emitOnce, format });
    const accessTokens = new AccessTokens({ ...options, keys, refreshTokens });
    this.revocations = revocations;
    this.antiCsrf = new AntiCsrf(secrets);
    this.nonces = new Nonces(secrets);
    this.device = new DeviceValues(secrets);
    this.tickets = new Tickets({ secrets, store, load: (id) => this.load(id) });
    this.refreshTokens = refreshTokens;
    const audit = createAuditLog(options.auditLog, options);
    const parts = { secrets, revocations, accessTokens, refreshTokens, audit, nonces: this.nonces };
    this.creator = new SessionCreator({ ...options, ...parts });
    this.refresher = new Refresher({ ...options, ...parts });
    this.updates = new RecordUpdates({ ...options, revocations, accessTokens, audit });
    this.verify = createAccessTokenVerifier({
      issuer: options.issuer,
      audience: options.audience,
      older: options.older ?? [],
      maxLife: maxAccessLife / 1000,
      acceptedFor: Math.ceil(lifetimes.access / 1000),
      clockSkew: options.clockSkew / 1000,
      keys,
      cache: verified,
      counts: this.#counts,
    });
    this.#options = options;
    this.#audit = audit;
    this.secrets = secrets;
    this.keys = keys;
    this.#verified = verified;
    this.#restorer = new Restorer({ store, revocations, secrets, keys, clock });
    this.#sweeper = new Sweeper({ store, keys, clock });
    this.#confirmations = new Confirmations({ store, clock, settle: lifetimes.settle });
    this.#reissuer = new Reissuer({ store, clock, revocations, accessTokens });
    this.#rowReads = new RowReads(store);
  }

  /**
   * Returns the engine itself once it is open. Until then, opens the store, secrets, keys and change
   * log; concurrent callers share one attempt, and a failed attempt is retried by the next call.
   * @throws SessionError `unavailable`, with the cause
   */
  open(): this | Promise<this> {
    if (this.#state === "open") {
      return this;
    }
    if (this.#state === "ended") {
      return Promise.reject(
        unavailable("the sessions of this server are closed; try another server"),
      );
    }
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening.catch(storeFailed);
  }

  async #open(): Promise<this> {
    const { store, clock } = this.#options;
    // 1. Open the store: connect, and bring its tables up to date.
    await store.open({ clock });
    try {
      // 2. Load the secrets: those of the options, or the one that the store keeps.
      await this.secrets.open();
      await this.refreshTokens.open();
      // 3. Load the signing keys. The first server creates one.
      await openKeys(this.keys);
      // 4. Read the revocations that still matter, and follow the change log from here on.
      await this.revocations.open();
    } catch (error) {
      // The next attempt opens the store again.
      await store.close();
      throw error;
    }
    // 5. Remove outdated rows in the background.
    this.#sweeper.start();
    if (this.#state === "closed") {
      this.#state = "open";
    }
    return this;
  }

  /**
   * Waits for background writes, stops the timers, and closes the store for this engine. Later calls
   * of `open` reject.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const wasOpen = this.#state === "open";
    this.#state = "ended";
    // An attempt to open that is in progress may still succeed.
    if (!wasOpen && (await this.#opening?.catch(() => undefined)) === undefined) {
      return;
    }
    // 1. Write what waits.
    const restorerClosed = this.#restorer.close();
    await this.settled();
    await this.#audit?.close();
    // 2. Stop following the change log.
    this.revocations.close();
    this.#verified?.close();
    // 3. Let background work end its last write, then close the connections.
    await restorerClosed;
    await this.#sweeper.close();
    await this.#options.store.close();
  }

  /** Waits for background writes. */
  async settled(): Promise<void> {
    await Promise.all([this.#confirmations.settled(), this.keys.settled()]);
  }

  /**
   * Does no I/O.
   * @param isClosing whether the server has begun to close
   */
  health(isClosing = false): SessionsHealth {
    return this.#state === "open" && !isClosing
      ? healthOf(this.revocations, this.#options.store)
      : closedHealth;
  }

  /** The readings for telemetry. Does no I/O. */
  get readings(): Omit<TelemetryReadings, "feed"> {
    const { warm, cold } = this.#counts;
    return {
      verifications: { warm, cold },
      cachedTokens: this.#verified?.size ?? 0,
      streams: this.revocations.watching,
    };
  }

  /** The public keys of all tokens that may be alive, and the keys that will sign next. */
  publicKeys(): Promise<readonly JWK[]> {
    return this.keys.published();
  }

  /** The change log says that secrets or signing keys changed: reads both again. */
  async #keysChanged(entries: readonly KeysEntry[]): Promise<void> {
    await this.secrets.reload();
    const rotations = entries.filter(({ change }) => change === "rotate").map(({ at }) => at);
    await this.keys.reload(Math.max(...rotations, Number.NEGATIVE_INFINITY));
  }

  /**
   * Declares a secret dead on every server: its refresh tokens are refused, and the signing keys that
   * it encrypts are retired. This server has done so when the call resolves, every other one has within
   * its `maxStaleness`.
   * @returns the ids that are dead now
   * @throws TypeError if the secret is unknown, or the only one of this server
   */
  async retireSecret(given: string | DeadSecrets): Promise<readonly string[]> {
    const ids = await this.secrets.retire(given);
    await this.keys.reload();
    return ids;
  }

  /** Ends every session that began before the call; resolves to how many this call ended. */
  async revokeEverybody(): Promise<number> {
    let count = 0;
    for await (const ids of this.#livePages()) {
      count += (await this.revokeAll({ ids }, "revoked")).length;
    }
    return count;
  }

  /** Ends the live sessions that match; resolves to how many this call ended. */
  async revokeWhere(
    matches: (record: SessionRecord) => Promise<boolean>,
    cause: EndCause,
  ): Promise<number> {
    let count = 0;
    for await (const page of this.#livePages()) {
      const ids: string[] = [];
      for (let start = 0; start < page.length; start += readsAtOnce) {
        const part = page.slice(start, start + readsAtOnce);
        for (const { record } of await Promise.all(part.map((id) => this.load(id)))) {
          if (record !== undefined && (await matches(record))) {
            ids.push(record.id);
          }
        }
      }
      count += ids.length === 0 ? 0 : (await this.revokeAll({ ids }, "revoked", cause)).length;
    }
    return count;
  }

  async *#livePages(): AsyncGenerator<readonly string[]> {
    try {
      yield* livePages(this.#options.store);
    } catch (error) {
      storeFailed(error);
    }
  }

  /** Ends a session; resolves to whether this call ended it. */
  revoke(id: string, endedBy: EndedBy, cause: EndCause = {}): Promise<boolean> {
    const { telemetry = noTelemetry } = this.#options;
    const facts = () => ({ sessionId: id });
    return telemetry.run({ name: "revoke", facts }, () => this.#revoke(id, endedBy, cause));
  }

  async #revoke(id: string, endedBy: EndedBy, cause: EndCause): Promise<boolean> {
    const { store, emit } = this.#options;

    // 1. End the session in the store. The same transaction appends to the change log, which every
    // other server follows.
    const { record, revoked, now } = await store.revoke(id, endedBy).catch(storeFailed);

    // 2. Remember it in this process before the call resolves: from here on calls are refused,
    // cached tokens are dropped, and open streams end.
    if (record !== undefined) {
      this.revocations.apply({
        kind: "revoked",
        session: id,
        endedBy: record.endedBy ?? endedBy,
        at: record.revokedAt ?? now,
      });
    }
    if (record !== undefined && !revoked) {
      // A sign-out counts from now, even if something else had ended the session before.
      this.revocations.apply({ kind: "revoked", session: id, endedBy, at: now });
    }

    // 3. Only the call that ended the session reports it.
    if (revoked) {
      emit({ type: "revoked", sessionId: id, endedBy, ...saidOf(cause) });
      await this.#audit?.ended([id], { owner: record, endedBy, cause });
    }
    return revoked;
  }

  /** Ends several sessions; resolves to the ids of those that this call ended. */
  revokeAll(
    scope: RevokeScope,
    endedBy: EndedBy,
    cause: EndCause = {},
  ): Promise<readonly string[]> {
    const { telemetry = noTelemetry } = this.#options;
    const facts = (ended: readonly string[] = []) => ({ count: ended.length });
    return telemetry.run({ name: "revoke", facts }, () => this.#revokeAll(scope, endedBy, cause));
  }

  async #revokeAll(
    scope: RevokeScope,
    endedBy: EndedBy,
    cause: EndCause,
  ): Promise<readonly string[]> {
    const { store, emit } = this.#options;
    const { revoked, now } = await store.revokeAll(scope, endedBy).catch(storeFailed);
    for (const session of revoked) {
      this.revocations.apply({ kind: "revoked", session, endedBy, at: now });
      emit({ type: "revoked", sessionId: session, endedBy, ...saidOf(cause) });
    }
    await this.#audit?.ended(revoked, { endedBy, cause });
    return revoked;
  }

  /**
   * Reads a session, whether it is live or not. A former primary that still answers is not believed.
   * @throws SessionError `unavailable`
   */
  async load(id: string): Promise<Stored<SessionRecord | undefined>> {
    const stored = await this.#options.store.load(id).catch(storeFailed);
    await this.revocations.catchUpTo(stored.history);
    return stored;
  }

  /** The same for a session that `revocations` is unsure of. Limits concurrent reads; see `RowReads`. */
  async loadUnsure(id: string): Promise<Stored<SessionRecord | undefined>> {
    const stored = await this.#rowReads.load(id);
    await this.revocations.catchUpTo(stored.history);
    return stored;
  }

  /** Whether a session is live by the store's word. Limits concurrent reads; see `RowReads`. */
  async standingOf(id: string): Promise<"live" | "over"> {
    return isLive(await this.loadUnsure(id)) ? "live" : "over";
  }

  /** See `RefreshTokens.namesOwnSecret`. */
  namesOwnSecret(refreshToken: string): boolean {
    return this.refreshTokens.namesOwnSecret(refreshToken);
  }

  /** Reads a live session; undefined if there is none. */
  async find(id: string): Promise<Stored<SessionRecord> | undefined> {
    const stored = await this.load(id);
    return isLive(stored) ? stored : undefined;
  }

  /** Lists live sessions. */
  list(
    selection: SessionSelection,
    page: { readonly cursor: string | undefined; readonly limit: number },
  ): Promise<SessionPage> {
    return this.#options.store.list(selection, page).catch(storeFailed);
  }

  /** Lists the audit log of a user. */
  async listAudit(
    user: AuditedUser,
    page: { readonly cursor: string | undefined; readonly limit: number },
  ): Promise<AuditRecords> {
    const { store } = this.#options;
    // What this process has just recorded is there, too.
    await this.#audit?.flush();
    return (await store.listAudit?.(user, page).catch(storeFailed)) ?? noAuditLog(store);
  }

  /** Removes the audit log of a user. */
  async forgetAudit(user: AuditedUser): Promise<void> {
    const { store } = this.#options;
    if (store.forgetAudit === undefined) {
      noAuditLog(store);
    }
    await this.#audit?.forget(user);
    await store.forgetAudit(user).catch(storeFailed);
  }

  /** See `Reissuer.reissue`. */
  reissue(presented: TokenClaims): Promise<Reissued | undefined> {
    return this.#reissuer.reissue(presented);
  }

  /** See `Reissuer.reissueFrom`. */
  reissueFrom(
    presented: TokenClaims,
    stored: Stored<SessionRecord>,
  ): Promise<Reissued | undefined> {
    return this.#reissuer.reissueFrom(presented, stored);
  }

  /**
   * Notes that a live access token was used, which confirms its generation in the background; see
   * `showsReceipt`.
   * @param refreshCookies the refresh cookies of the same request, verified or not
   * @param now milliseconds since 1970; default `revocations.storeNow()`
   */
  used(
    claims: TokenClaims,
    refreshCookies: readonly string[] = [],
    now: number = this.revocations.storeNow(),
  ): void {
    if (now - claims.gat * 1000 >= this.#options.lifetimes.settle) {
      this.#confirmations.used(claims, refreshCookies);
    }
  }
}

function noAuditLog({ name }: SessionStore): never {
  throw new TypeError(`${name} has no audit log; use another store`);
}

/** What the event of an end says about its cause. */
function saidOf({ by, reason }: EndCause): { by?: string; reason?: string } {
  return { ...(by === undefined ? {} : { by }), ...(reason === undefined ? {} : { reason }) };
}

function signingKeysOf(
  options: EngineOptions & { readonly maxStaleness: number },
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
