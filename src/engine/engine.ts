import type { JWK } from "jose";
import type { AcceptedIssuer } from "../base/checks.ts";
import type { DeadSecrets } from "../base/crypto.ts";
import { unavailable } from "../base/errors.ts";
import { noTelemetry, type TelemetryReadings } from "../base/telemetry.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { AccessTokenVerifier } from "../jwt/verifier.ts";
import { AccessTokens, type Reissued, Reissuer } from "./access-tokens.ts";
import type { EndCause } from "./audit/log.ts";
import type { ShownLength } from "./claims.ts";
import { SessionCreator } from "./create.ts";
import { type EngineSecrets, HostSecrets } from "./keys/secrets.ts";
import { openKeys, type SigningKeys } from "./keys/stored.ts";
import { isLive, livePages } from "./liveness.ts";
import { AntiCsrf } from "./macs/anti-csrf.ts";
import { Tickets } from "./macs/tickets.ts";
import { storeFailed } from "./reach.ts";
import { RecordUpdates } from "./records.ts";
import { DbscValues } from "./refresh/dbsc.ts";
import type { Nonces } from "./refresh/nonces.ts";
import { type OnMismatch, Refresher } from "./refresh/refresh.ts";
import { RefreshTokens } from "./refresh/token.ts";
import { closedHealth, healthOf, type SessionsHealth } from "./revocation/health.ts";
import type { RevocationLog } from "./revocation/log.ts";
import { createShared, type SharedOptions, type SharedParts, verifierOfHost } from "./shared.ts";
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

/** Options that have been checked and resolved. All durations are milliseconds. */
export interface EngineOptions extends SharedOptions {
  /** Sessions per user. Default: unlimited. */
  readonly limit?: SessionLimit | null;
  /** Default "refuse". */
  readonly onMismatch?: OnMismatch;
  /** Default: the client may read no claims. */
  readonly shownLength?: ShownLength;
}

/** Sessions that `revokeWhere` reads at the same time, which leaves the store to calls. */
const readsAtOnce = 8;

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
  readonly dbsc: DbscValues;
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
  readonly #shared: SharedParts;
  readonly #reissuer: Reissuer;
  /** The engine that opens and closes what this engine of a host shares; undefined if it does so itself. */
  readonly #home: Engine | undefined;
  readonly #hosts: Engine[] = [];
  #state: "closed" | "open" | "ended" = "closed";
  #opening: Promise<this> | undefined;
  #closing: Promise<void> | undefined;

  /** @param home the engine whose parts this one shares; see `forHost` */
  constructor(options: EngineOptions, home?: Engine) {
    const { store, clock, lifetimes, issuer } = options;
    const shared =
      home === undefined ? createShared(options, (all) => this.#keysChanged(all)) : home.#shared;
    const { keys, revocations, nonces, audit } = shared;
    const isOfHome = home === undefined || home.#options.issuer === issuer;
    const secrets = isOfHome ? shared.secrets : new HostSecrets(shared.secrets, issuer);
    const format = lifetimes.tokenFormat;
    const refreshTokens = new RefreshTokens({ store, secrets, emit: shared.emitOnce, format });
    const accessTokens = new AccessTokens({ ...options, keys, refreshTokens });
    this.revocations = revocations;
    this.antiCsrf = new AntiCsrf(secrets);
    this.nonces = nonces;
    this.dbsc = new DbscValues(secrets);
    this.tickets = new Tickets({ secrets, store, load: (id) => this.load(id) });
    this.refreshTokens = refreshTokens;
    const parts = { secrets, revocations, accessTokens, refreshTokens, audit, nonces };
    this.creator = new SessionCreator({ ...options, ...parts });
    this.refresher = new Refresher({ ...options, ...parts });
    this.updates = new RecordUpdates({ ...options, revocations, accessTokens, audit });
    this.verify = home === undefined ? shared.verify : verifierOfHost(options, shared.verify);
    this.#options = options;
    this.#shared = shared;
    this.#home = home;
    this.secrets = shared.secrets;
    this.keys = keys;
    this.#reissuer = new Reissuer({ store, clock, revocations, accessTokens });
  }

  /**
   * Creates the engine of a host: it has the store, the keys and the change log of this one, and tokens of
   * another issuer. Neither accepts the tokens of the other. It opens and closes with this engine.
   * @param accepted one of the option `hosts`, or the issuer of this engine
   */
  forHost(accepted: AcceptedIssuer): Engine {
    const { older = [], issuer } = this.#options;
    const own = { ...accepted, older: accepted.issuer === issuer ? older : [] };
    const engine = new Engine({ ...this.#options, ...own }, this);
    this.#hosts.push(engine);
    return engine;
  }

  /**
   * Returns the engine itself once it is open. Until then, opens the store, secrets, keys and change
   * log; concurrent callers share one attempt, and a failed attempt is retried by the next call.
   * @throws SessionError `unavailable`, with the cause
   */
  open(): this | Promise<this> {
    if (this.#home !== undefined) {
      const opened = this.#home.open();
      return opened === this.#home ? this : Promise.resolve(opened).then(() => this);
    }
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
      await Promise.all([this, ...this.#hosts].map((one) => one.refreshTokens.open()));
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
    this.#shared.sweeper.start();
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
    this.#closing ??= this.#home?.close() ?? this.#close();
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
    const restorerClosed = this.#shared.restorer.close();
    await this.settled();
    await this.#shared.audit?.close();
    // 2. Stop following the change log.
    this.revocations.close();
    this.#shared.verified?.close();
    // 3. Let background work end its last write, then close the connections.
    await restorerClosed;
    await this.#shared.sweeper.close();
    await this.#options.store.close();
  }

  /** Waits for background writes. */
  async settled(): Promise<void> {
    await Promise.all([this.#shared.confirmations.settled(), this.keys.settled()]);
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
    const { warm, cold } = this.#shared.counts;
    return {
      verifications: { warm, cold },
      cachedTokens: this.#shared.verified?.size ?? 0,
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
      await this.#shared.audit?.ended([id], { owner: record, endedBy, cause });
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
    await this.#shared.audit?.ended(revoked, { endedBy, cause });
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
    const stored = await this.#shared.rowReads.load(id);
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
    await this.#shared.audit?.flush();
    return (await store.listAudit?.(user, page).catch(storeFailed)) ?? noAuditLog(store);
  }

  /** Removes the audit log of a user. */
  async forgetAudit(user: AuditedUser): Promise<void> {
    const { store } = this.#options;
    if (store.forgetAudit === undefined) {
      noAuditLog(store);
    }
    await this.#shared.audit?.forget(user);
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
   * `showsReceipt`. A session with tokens in headers that is bound to a key is confirmed by refreshes
   * alone, because they need a proof. Otherwise somebody who has copied an access token could end it: the
   * owner may have lost that generation in a crash, and the token before it would count as stolen.
   * @param refreshCookies the refresh cookies of the same request, verified or not
   * @param now milliseconds since 1970; default `revocations.storeNow()`
   */
  used(
    claims: TokenClaims,
    refreshCookies: readonly string[] = [],
    now: number = this.revocations.storeNow(),
  ): void {
    const needsProof = claims.jkt !== undefined && claims.transport === "header";
    if (!needsProof && now - claims.gat * 1000 >= this.#options.lifetimes.settle) {
      this.#shared.confirmations.used(claims, refreshCookies);
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
