import type { Clock } from "../base/clock.ts";
import type { EndedBy } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";

export type { EndedBy } from "../base/events.ts";

/** The device on which a session was created. */
export interface Device {
  /** The `User-Agent` header of the sign-in, cut to 512 characters. */
  readonly userAgent?: string;
  /** The address that the option `clientIp` returned. */
  readonly ip?: string;
  /** The label that was passed to the sign-in. */
  readonly label?: string;
  /** "required" if the sign-in demands that the session is bound to a key of the browser. */
  readonly bind?: "required";
  /**
   * How the session is bound to a key of the device: by DPoP or by DBSC. Absent if it is not. Shown by
   * `info()`, and not stored.
   */
  readonly bound?: "dpop" | "dbsc";
}

/**
 * The names of a session and its user in the system that authenticated the user, such as an OpenID
 * provider. At least one of `sid` and `sub` is present.
 */
export interface ExternalId {
  /**
   * The system: the `iss` of an OpenID provider, exactly as in its tokens, or another fixed name. 1 to
   * 255 characters without spaces.
   */
  readonly issuer: string;
  /** Its session: `sid` of the ID token. 1 to 255 characters. Default: not known. */
  readonly sid?: string | undefined;
  /** Its user: `sub` of the ID token. 1 to 255 characters. Default: not known. */
  readonly sub?: string | undefined;
}

/** How the user of a session authenticated last. A member that is not known is absent. */
export interface Authentication {
  /** The authentication context class (OpenID Connect Core section 2). */
  readonly acr?: string;
  /** The authentication methods (RFC 8176). */
  readonly amr?: readonly string[];
}

/** Selects the sessions of one issuer by one member of their {@link ExternalId}. */
export interface ExternalKey {
  /** `subWithoutSid`: by `sub`, and only those whose external id has no `sid`. */
  readonly by: "sid" | "sub" | "subWithoutSid";
  readonly issuer: string;
  /** The `sid` or the `sub`; compared exactly. */
  readonly id: string;
}

/** A session as the store keeps it. All times are milliseconds since 1970 UTC, by the store's clock. */
export interface SessionRecord {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | null;
  readonly transport: TokenTransport;
  /**
   * Random, base64url: part of the MAC of the session's tokens of format 1. Empty if it never had one,
   * or since its first token of format 2 advanced.
   */
  readonly salt: string;
  /**
   * The hash of the root, which every token of format 2 of the session carries. Null while its current
   * generation has format 1.
   */
  readonly rootHash: string | null;
  /**
   * The hash of the last token of format 1, written when its successor got format 2. It proves the
   * reuse of that token once the salt is gone. Null for none.
   */
  readonly lastSalted: string | null;
  /**
   * The public key that the session is bound to: its thumbprint (RFC 7638, SHA-256, base64url). Null if
   * it is bound to none.
   */
  readonly boundKey: string | null;
  /** The id of the secret under which the refresh token of `generation` was minted. */
  readonly secretId: string;
  /** The same of `generation` − 1; null if it is not known. */
  readonly formerSecretId: string | null;
  /** Number of the current refresh token, from 0. */
  readonly generation: number;
  /**
   * When the current generation was confirmed: the client has its refresh token and will not present
   * an older one. Null if it is not confirmed yet.
   */
  readonly confirmedAt: number | null;
  /** When the generation was first minted. */
  readonly rotatedAt: number;
  /**
   * When the refresh token of the generation was last sent, as far as that counts; see `RefreshWrite`.
   * Never before `rotatedAt`, so a row that an older version wrote has that time.
   */
  readonly sentAt: number;
  /** Milliseconds by which re-sends have prolonged the settling of the generation; 0 without one. */
  readonly prolonged: number;
  /** When the session began: in the other system, if it was adopted from there. */
  readonly createdAt: number;
  /** When the user last authenticated. */
  readonly authTime: number;
  /** When the session ends unless it is refreshed. */
  readonly idleExpiresAt: number;
  /** When the session ends at the latest. */
  readonly expiresAt: number;
  /** Maximum lifetime of the session's access tokens in milliseconds; null for the service's. */
  readonly accessLife: number | null;
  /** Maximum milliseconds that the session lives without a refresh; null for the service's. */
  readonly idleLife: number | null;
  /**
   * The ids of the sessions that this one was forked from, outermost first, and its own, joined by
   * dots. A session that replaces another one keeps its lineage. Null for the id alone.
   */
  readonly lineage: string | null;
  /** Null for none. A member that is not known is absent. Never changes. */
  readonly externalId: ExternalId | null;
  /** Null if nothing is known. Never changes. */
  readonly authentication: Authentication | null;
  readonly claims: JsonObject;
  /** Incremented by every change of claims. */
  readonly claimsVersion: number;
  /** Private to the service. */
  readonly data: JsonObject;
  /** Incremented by every change of claims or data. */
  readonly version: number;
  readonly device: Device;
  /** When the session was last refreshed. */
  readonly lastSeenAt: number;
  /** When the session was ended before its expiry; null if it was not. */
  readonly revokedAt: number | null;
  readonly endedBy: EndedBy | null;
}

/** The argument of `insert`. The store adds the times. */
export interface NewSession {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | null;
  readonly transport: TokenTransport;
  readonly salt: string;
  readonly rootHash: string | null;
  /** Stored unchanged; see `SessionRecord`. */
  readonly boundKey: string | null;
  readonly secretId: string;
  readonly claims: JsonObject;
  readonly data: JsonObject;
  readonly device: Device;
  /** The session ends after this many milliseconds without a refresh. */
  readonly idle: number;
  /** The session ends after this many milliseconds at the latest. */
  readonly absolute: number;
  /** When the session ends at the latest, if that is before the end of `absolute`; null for none. */
  readonly endsBy: number | null;
  /** Stored unchanged; see `SessionRecord`. */
  readonly accessLife: number | null;
  readonly idleLife: number | null;
  readonly lineage: string | null;
  readonly externalId: ExternalId | null;
  readonly authentication: Authentication | null;
  /** When the session began, if another system began it; null for now. Changes no other time. */
  readonly createdAt: number | null;
  /** When the user last authenticated; null for now. */
  readonly authTime: number | null;
  /** The session to end, by `replaced`, in the transaction that inserts this one; null for none. */
  readonly replaces: string | null;
  /** A session that must be live in the transaction that inserts this one; null for none. */
  readonly requires: string | null;
  /**
   * How many live sessions the user may have within the tenant, including this one; null for any
   * number. Sessions without a tenant count by themselves.
   */
  readonly limit: SessionLimit | null;
}

/** A limit on the live sessions of one user within one tenant. */
export interface SessionLimit {
  /** At least 1. The session named by `replaces` does not count, because it ends first. */
  readonly max: number;
  /**
   * `reject`: the new session is not inserted. `evict`: as many of the oldest sessions by `createdAt`
   * as necessary are ended, by `evicted`. The session that the new one `requires` is never evicted;
   * if that leaves no room, the new one is not inserted.
   */
  readonly overflow: "reject" | "evict";
}

/** The result of `insert`. */
export type Inserted =
  | (Stored<SessionRecord> & {
      /** Whether this call ended the session named by `replaces`. */
      readonly replaced: boolean;
      /** The sessions that this call evicted. */
      readonly evicted: readonly string[];
    })
  | {
      /** Nothing was inserted, and nothing changed. */
      readonly record: undefined;
      readonly now: number;
      /** `limit`: the limit is reached. `notLive`: the session named by `requires` is not live. */
      readonly refused: "limit" | "notLive";
    };

/** The argument of `update`: new claims or private data for one session. */
export interface SessionUpdate {
  readonly id: string;
  /** Applied only if the record still has this `version`, is not revoked and has not expired. */
  readonly version: number;
  /**
   * All of the new claims. Increments `claimsVersion` and appends to the change log. Absent to keep
   * the current ones.
   */
  readonly claims?: JsonObject;
  /** All of the new private data. Absent to keep the current data. */
  readonly data?: JsonObject;
}

/** Selects the sessions of a user, of a tenant, or of a user within a tenant. At least one is not null. */
export interface SessionOwner {
  readonly userId: string | null;
  readonly tenantId: string | null;
}

/** Selects sessions by owner or by external id. */
export type SessionSelection = SessionOwner | { readonly external: ExternalKey };

/** One page of a list. */
export interface SessionPage {
  /** Live sessions, newest first by `createdAt`; by descending id if the times are equal. */
  readonly records: readonly SessionRecord[];
  readonly now: number;
  /** An opaque cursor at which the next page starts; absent on the last page. */
  readonly cursor?: string;
}

/** Selects the sessions that `revokeAll` ends. */
export type RevokeScope =
  | { readonly ids: readonly string[] }
  | (SessionOwner & {
      /** The id of one session to keep; null for none. */
      readonly except: string | null;
    })
  | { readonly external: ExternalKey };

/**
 * The write of a refresh. Applied only if the record still has `generation`, is not revoked and has
 * not expired by the store's clock.
 *
 * Every kind sets `lastSeenAt` to now, and `idleExpiresAt` to now + `idle` or to `expiresAt`,
 * whichever is earlier.
 */
export type RefreshWrite = {
  readonly id: string;
  readonly generation: number;
  readonly idle: number;
  /** Becomes the `boundKey` of the record; absent to keep that. */
  readonly boundKey?: string | undefined;
} & (
  | {
      /**
       * Moves to `generation` + 1: unconfirmed, `rotatedAt` and `sentAt` now, `prolonged` 0,
       * `formerSecretId` the present `secretId`, `secretId` as given. `proof` replaces how tokens are
       * proven; absent to keep it.
       */
      readonly kind: "advance";
      readonly secretId: string;
      readonly proof?: TokenProof | undefined;
    }
  | {
      /**
       * Keeps the generation. If `settle` is not null, an unconfirmed generation is confirmed now,
       * provided `sentAt` is at least that many milliseconds ago. A negative age counts as 0.
       */
      readonly kind: "keep";
      readonly settle: number | null;
    }
  | {
      /**
       * Keeps the generation, whose refresh token is sent again. If `prolonged` is not null, it is the
       * new value of the record, and `sentAt` becomes now.
       */
      readonly kind: "resend";
      readonly prolonged: number | null;
    }
  | {
      /**
       * Moves forward to generation `to`, which this store has lost: unconfirmed, `rotatedAt` and
       * `sentAt` now, `prolonged` 0, `formerSecretId` null, `secretId` as given; `proof` as above.
       */
      readonly kind: "forward";
      readonly to: number;
      readonly secretId: string;
      readonly proof?: TokenProof | undefined;
    }
);

/** The fields by which the refresh tokens of a session are proven. */
export type TokenProof = Pick<SessionRecord, "salt" | "rootHash" | "lastSalted">;

/**
 * The common refresh as one conditional write: the first line of the table of `decideRefresh`, for
 * tokens of format 2. Applied only if all of this holds by the store's clock:
 *
 * - the record has this `generation`, `secretId`, `rootHash`, `transport` and `boundKey`
 * - it is not revoked and has not expired
 * - its generation was confirmed more than `overlap` milliseconds ago
 *
 * It moves to `generation` + 1: unconfirmed, `rotatedAt`, `sentAt` and `lastSeenAt` now, `prolonged` 0,
 * `formerSecretId` the present `secretId`, `secretId` as `nextSecretId` says, and an empty `salt`.
 * `idleExpiresAt` is now + the smaller of `idle` and the record's `idleLife`, or `expiresAt`, whichever
 * is earlier.
 */
export interface AdvanceWrite {
  readonly id: string;
  readonly generation: number;
  readonly secretId: string;
  readonly rootHash: string;
  readonly transport: TokenTransport;
  /** The key that the request has proven and the token names; null for a record that is not bound. */
  readonly boundKey: string | null;
  readonly overlap: number;
  readonly idle: number;
  readonly nextSecretId: string;
}

/** The result of an {@link AdvanceWrite}. */
export interface Advanced extends Stored<SessionRecord | undefined> {
  /** Whether the write was applied. If not, `record` is the session as it is; undefined for none. */
  readonly advanced: boolean;
}

/**
 * The format of a refresh token. 1: its MAC contains the salt of the row. 2: it carries the root of its
 * session, and the store keeps only a hash of that.
 */
export type TokenFormat = 1 | 2;

/** A use of an access token that may confirm its generation; see `SessionStore.confirm`. */
export interface GenerationUse {
  readonly session: string;
  readonly generation: number;
  /** Milliseconds since the refresh token was sent, at least. */
  readonly settle: number;
}

/** A record and the store's time in the statement that read or wrote it. */
export interface Stored<T> {
  readonly record: T;
  readonly now: number;
  /**
   * The history that the statement read or wrote, with or without a record; see
   * {@link Changes.history}. Absent if the store names none.
   */
  readonly history?: string;
}

/** An entry of the change log that concerns a session. */
export type LogEntry = EndedEntry | ClaimsEntry;

/** A session ended. */
export interface EndedEntry {
  readonly kind: "revoked";
  readonly session: string;
  readonly endedBy: EndedBy;
  /** When it ended, by the store's clock. */
  readonly at: number;
}

/** The claims of a session changed: access tokens with a lower `claimsVersion` are outdated. */
export interface ClaimsEntry {
  readonly kind: "claims";
  readonly session: string;
  readonly claimsVersion: number;
  /** When they changed, by the store's clock. */
  readonly at: number;
}

/** An entry of the change log: secrets or signing keys changed, and every server reads them again. */
export interface KeysEntry {
  readonly kind: "keys";
  /** `rotate` also asks the servers to create the next signing key, unless it is newer than this. */
  readonly change: "changed" | "rotate";
  /** When they changed, by the store's clock. */
  readonly at: number;
}

/** The result of reading the change log. */
export interface Changes {
  readonly entries: readonly LogEntry[];
  /** The entries about secrets and signing keys; absent if there are none. */
  readonly keys?: readonly KeysEntry[];
  /** The opaque position at which the next read continues. */
  readonly cursor: string;
  readonly now: number;
  /**
   * The time, by the store's clock, since which acknowledged changes may be missing because the
   * store failed over, restarted without its disk or was restored. Absent if that has not happened.
   */
  readonly lostAt?: number;
  /**
   * A random name, at most 8 characters in base64url, of what the store has committed since its data began, or since it
   * last lost changes. Access tokens carry the name of the history whose row they were issued for, and
   * only those of another history are doubted. Absent if the store names none: after a loss, all tokens
   * are doubted until those from before have expired.
   */
  readonly history?: string;
}

/** What an entry of the audit log is about. */
export type AuditEvent =
  | "signedIn"
  | "adopted"
  | "reauthenticated"
  | "forked"
  | "refreshed"
  | "claimsChanged"
  | "ended";

/** The particulars of an entry of the audit log: JSON without secrets and without values of claims. */
export interface AuditDetail {
  /** Of `signedIn`, `adopted`, `reauthenticated` and `forked`: the device. */
  readonly device?: Device;
  /** The session that this one came from, or that ended it. */
  readonly from?: string;
  /** Of `claimsChanged`: the names of the claims that have another value now. */
  readonly claims?: readonly string[];
  /** Of `ended`. */
  readonly endedBy?: EndedBy;
  /** Of `ended`: who did it, in the words of the service. */
  readonly by?: string;
  /** Of `ended`: why, in the words of the service. */
  readonly reason?: string;
}

/** An entry to append to the audit log. */
export interface NewAuditEntry {
  /** Unique. An entry with an id that is there already is not appended again. */
  readonly id: string;
  readonly event: AuditEvent;
  readonly session: string;
  /** Null if it is not known. The store then takes user and tenant from the session, if that is there. */
  readonly userId: string | null;
  readonly tenantId: string | null;
  /** How many milliseconds ago it happened. */
  readonly age: number;
  /** For how many milliseconds from then on it is kept. */
  readonly keep: number;
  readonly detail: AuditDetail;
}

/** An entry of the audit log. */
export interface AuditRecord extends Omit<NewAuditEntry, "age" | "keep" | "userId"> {
  readonly userId: string;
  /** When it happened, by the store's clock. */
  readonly at: number;
}

/** A user, and a tenant if only its entries count. */
export interface AuditedUser {
  readonly userId: string;
  readonly tenantId: string | null;
}

/** A page of the audit log: newest first, and by descending id at equal times. */
export interface AuditRecords {
  readonly records: readonly AuditRecord[];
  /** An opaque cursor at which the next page starts; absent on the last page. */
  readonly cursor?: string;
}

/** A signing key as the store keeps it. */
export interface StoredSigningKey {
  /** The unique position of the key in the order of rotation, from 0. */
  readonly slot: number;
  readonly kid: string;
  readonly alg: string;
  /** The public JWK (RFC 7517) as JSON. */
  readonly publicJwk: string;
  /** The private JWK, encrypted; opaque to the store. */
  readonly privateJwk: string;
  readonly createdAt: number;
}

/** Names a secret without revealing it. */
export interface SecretName {
  /** Derived from the secret and the issuer: 8 characters in base64url. */
  readonly id: string;
  /** The issuer for which the id was derived. */
  readonly issuer: string;
}

/** A secret that servers have used, or that was declared dead. All times are by the store's clock. */
export interface RecordedSecret extends SecretName {
  /** When a server with this secret started last, or when it was declared dead without that. */
  readonly seenAt: number;
  /** Since when nothing under this secret may be accepted; null if it is not dead. */
  readonly deadAt: number | null;
}

/** The secrets that a store has recorded, and the store's time. */
export interface RecordedSecrets {
  /** Ordered by id. */
  readonly secrets: readonly RecordedSecret[];
  readonly now: number;
}

/** The argument of `SessionStore.open`. */
export interface StoreContext {
  readonly clock: Clock;
}

/**
 * Stores sessions, signing keys and the change log. The store guarantees atomicity; the engine makes
 * all decisions.
 *
 * - Every method is atomic, also with respect to other processes.
 * - Missing, ended and expired records are results, not errors. `load` returns ended and expired
 *   records for as long as they are kept.
 * - A promise rejects only if the store could not do its work, because it was unreachable, its disk
 *   full or its data corrupt. Then either nothing has changed, or the change took place and only its
 *   response was lost.
 * - An acknowledged change is durable, and visible to every later read in every process.
 * - Times are read from the store's own clock, in the statement that uses them.
 *
 * `describeSessionStore` tests an implementation against this contract.
 */
export interface SessionStore {
  /** The name for messages, such as "sqliteStore". */
  readonly name: string;

  /**
   * Opens the store and updates its schema. Called before any other method, and again after it has
   * rejected. Several engines may open the same store; the clock of the first one stays in use.
   */
  open(context: StoreContext): Promise<void>;

  /**
   * Undoes one `open`. The last call closes connections and timers. Every engine that opened the
   * store calls it once; further calls have no effect.
   */
  close(): Promise<void>;

  /**
   * Returns the secret that an embedded store keeps next to its sessions; creates one if there is
   * none. Rejects if sessions or signing keys exist but their secret is gone, so the engine calls it
   * before it adds any. A store without this method requires the option `secret`.
   */
  secret?(): Promise<Uint8Array>;

  /**
   * Adds a session with generation 0 (unconfirmed, `rotatedAt` and `sentAt` now, `prolonged` 0),
   * claims version 0 and version 0. Rejects if the id is taken.
   *
   * The same transaction ends the session named by `replaces`, if it exists and has not ended, and
   * the sessions that `limit` evicts. Each of these ends is appended to the change log. `requires` and
   * `replaces` may name the same session, which must then be live before it is replaced.
   *
   * A concurrent `revokeAll` for the same user, tenant or external id leaves no session behind: either it ends the
   * new session too, or the new session begins after it.
   */
  insert(session: NewSession): Promise<Inserted>;

  /** Reads a session; `record` is undefined if there is none. */
  load(id: string): Promise<Stored<SessionRecord | undefined>>;

  /** Writes a refresh. If its condition does not hold, nothing changes and `record` is undefined. */
  refresh(write: RefreshWrite): Promise<Stored<SessionRecord | undefined>>;

  /**
   * Writes the common refresh without reading first; see {@link AdvanceWrite}. Without this method, the
   * engine loads the session, decides and calls `refresh`.
   */
  advance?: ((write: AdvanceWrite) => Promise<Advanced>) | undefined;

  /**
   * The newest format of refresh tokens that every server on this store can read: 2 if the store was
   * created by a version that reads both, 1 if servers of an older version may still use it. A store
   * without this method does not keep `rootHash`, `lastSalted` and `formerSecretId`, and its sessions
   * have tokens of format 1.
   */
  tokenFormat?(): Promise<TokenFormat>;

  /**
   * Confirms generations: each that is current, not revoked, and whose `sentAt` is at least `settle`
   * milliseconds ago. A negative age counts as 0. Returns one answer for each use, in their order: true
   * if the generation is confirmed now or was before, or can never be confirmed; false if it is too
   * young, or newer than the one in the store. Each session occurs once, and there are 500 at most.
   */
  confirm(uses: readonly GenerationUse[]): Promise<readonly boolean[]>;

  /**
   * Ends a session and appends to the change log in the same transaction. `record` is the session
   * after the call, undefined if there is none; `revoked` is whether this call ended it.
   */
  revoke(
    id: string,
    endedBy: EndedBy,
  ): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }>;

  /**
   * Ends sessions and appends an entry for each to the change log, in one transaction. `ids` holds at
   * most 1000. `revoked` lists the sessions that this call ended. See `insert` for sessions that
   * begin concurrently.
   */
  revokeAll(
    scope: RevokeScope,
    endedBy: EndedBy,
  ): Promise<{ readonly revoked: readonly string[]; readonly now: number }>;

  /** Updates a session. If its condition does not hold, nothing changes and `record` is undefined. */
  update(change: SessionUpdate): Promise<Stored<SessionRecord | undefined>>;

  /** Lists live sessions, at most `limit`, from a cursor of the same selection, or from the first one. */
  list(
    selection: SessionSelection,
    page: { readonly cursor: string | undefined; readonly limit: number },
  ): Promise<SessionPage>;

  /**
   * Reads the change log from a cursor, oldest entry first; without a cursor, every entry of the last
   * `window` milliseconds. An entry may be returned twice, but none may be skipped. Entries older than
   * 2 h may be dropped, because no access token lives that long. A cursor from before a loss of
   * changes (`lostAt`) is treated like no cursor.
   *
   * A store that names histories begins a new one whenever it may have lost changes. It rejects a read
   * that reaches data which an earlier read has left behind, such as a former primary.
   */
  changes(cursor: string | undefined, window: number): Promise<Changes>;

  /**
   * Calls `wake` soon after this process has appended entries or, if the store can notice it, other
   * processes have. Only a hint: the engine also polls the log.
   * @returns a function that removes `wake`
   */
  onChange(wake: () => void): () => void;

  /**
   * Whether entries of other processes currently cause an immediate `wake`; undefined if this store
   * never does that.
   */
  pushed?(): boolean | undefined;

  /** Returns all signing keys, ordered by slot. */
  signingKeys(): Promise<{ readonly keys: readonly StoredSigningKey[]; readonly now: number }>;

  /** Adds a signing key. If its slot is taken, nothing changes and the result is false. */
  addSigningKey(key: Omit<StoredSigningKey, "createdAt">): Promise<boolean>;

  /** Removes all signing keys whose slot is lower than `slot`. */
  removeSigningKeysBelow(slot: number): Promise<void>;

  /**
   * Removes signing keys by their ids, and appends `changed` to the change log in the same
   * transaction if there was one. Returns the ids of the removed keys.
   */
  retireSigningKeys(kids: readonly string[]): Promise<readonly string[]>;

  /** Appends a {@link KeysEntry} to the change log. */
  announceKeys(change: KeysEntry["change"]): Promise<void>;

  /**
   * Records secrets as seen now, and returns all that are recorded. A dead secret stays dead.
   *
   * At most 256 are kept. Those that were not seen for longest are dropped first; dead ones are
   * dropped only if nothing else is left, the longest dead first.
   */
  recordSecrets(secrets: readonly SecretName[]): Promise<RecordedSecrets>;

  /**
   * Declares secrets dead, whether they are recorded or not, and appends `changed` to the change log
   * in the same transaction. A secret that is dead already keeps its `deadAt`. Returns all secrets.
   */
  retireSecrets(secrets: readonly SecretName[]): Promise<RecordedSecrets>;

  /**
   * Returns ids of live sessions of all users, about `limit` at a time, in any order. Every session
   * that is live from the first page to the last is returned at least once.
   * @param cursor the opaque cursor of the previous page; undefined for the first page
   */
  liveIds(
    cursor: string | undefined,
    limit: number,
  ): Promise<{ readonly ids: readonly string[]; readonly cursor?: string }>;

  /**
   * Appends entries to the audit log, in a table of its own; 500 at most. A store without the three
   * methods of the audit log does not support the option `auditLog`.
   */
  appendAudit?: ((entries: readonly NewAuditEntry[]) => Promise<void>) | undefined;

  /** Lists the entries of a user that are still kept, at most `limit`, from a cursor or the newest one. */
  listAudit?:
    | ((
        user: AuditedUser,
        page: { readonly cursor: string | undefined; readonly limit: number },
      ) => Promise<AuditRecords>)
    | undefined;

  /** Removes all entries of a user. */
  forgetAudit?: ((user: AuditedUser) => Promise<void>) | undefined;

  /**
   * Removes sessions that were revoked more than 24 h ago, sessions that expired more than 24 h ago,
   * entries of the change log that are older than 2 h, leases that have ended, and entries of the audit
   * log whose time to be kept is over: at most `limit` of each, and nothing else.
   * An expired session may stay for another 4 h. Does not wait for locks; rows that others are
   * writing are left for later.
   *
   * Returns the number of rows of all kinds that it removed or prepared for a later removal. A number
   * of at least `limit` means that there may be more. Rows that a store expires by itself do not
   * count.
   */
  prune(limit: number): Promise<number>;

  /**
   * Takes or renews the lease `name` for `holder`, for `ttl` milliseconds from now. Returns false
   * while another holder has it. A store that loses changes may lose a lease, so two holders may
   * believe that they have it.
   */
  lease(name: string, holder: string, ttl: number): Promise<boolean>;
}
