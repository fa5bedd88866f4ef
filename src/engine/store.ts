import type { Clock } from "../base/clock.ts";
import type { EndedBy } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";

export type { EndedBy } from "../base/events.ts";

/** What a session says of the device it was created on. */
export interface Device {
  readonly userAgent?: string;
  readonly ip?: string;
  readonly label?: string;
}

/** A session as the store keeps it. All times are milliseconds since 1970 UTC by the store's clock. */
export interface SessionRecord {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | null;
  readonly transport: TokenTransport;
  /** Random, base64url; goes into every refresh token's MAC and never leaves the store otherwise. */
  readonly salt: string;
  /** The id of the secret that made the refresh token of `generation`. */
  readonly secretId: string;
  readonly generation: number;
  /** When the generation was first seen in use by a client that will not fall back; null before. */
  readonly confirmedAt: number | null;
  /** When the generation was first minted. */
  readonly rotatedAt: number;
  readonly createdAt: number;
  /** When the user last proved who they are. */
  readonly authTime: number;
  readonly idleExpiresAt: number;
  readonly expiresAt: number;
  /** Milliseconds an access token of this session lives at most; null where the service's span holds. */
  readonly accessLife: number | null;
  /** Milliseconds this session lives without a refresh at most; null where the service's span holds. */
  readonly idleLife: number | null;
  readonly claims: JsonObject;
  readonly claimsVersion: number;
  /** Private to the service. */
  readonly data: JsonObject;
  /** Raised by every change of claims or data. */
  readonly version: number;
  readonly device: Device;
  /** When the session was last refreshed. */
  readonly lastSeenAt: number;
  readonly revokedAt: number | null;
  readonly endedBy: EndedBy | null;
}

/** What `insert` is given; the store adds the times. */
export interface NewSession {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | null;
  readonly transport: TokenTransport;
  readonly salt: string;
  readonly secretId: string;
  readonly claims: JsonObject;
  readonly data: JsonObject;
  readonly device: Device;
  /** Milliseconds without a refresh after which the session ends. */
  readonly idle: number;
  /** Milliseconds after which the session ends in any case. */
  readonly absolute: number;
  /** When the session ends in any case, if that is before `absolute` is over; null where only that counts. */
  readonly endsBy: number | null;
  /** Kept as they are; see `SessionRecord`. */
  readonly accessLife: number | null;
  readonly idleLife: number | null;
  /** When the user last proved who they are; null for now. */
  readonly authTime: number | null;
  /** A session that ends, by `replaced`, in the transaction that inserts this one. */
  readonly replaces: string | null;
  /** A session that must be live in the transaction that inserts this one; null where none must. */
  readonly requires: string | null;
  /** How many live sessions the user may have, this one included; null for any number. */
  readonly limit: SessionLimit | null;
}

/** What happens to the session that would be one too many of its user's. */
export interface SessionLimit {
  /** At least 1. `replaces` does not count, for it ends first. */
  readonly max: number;
  /**
   * `reject`: it is not inserted. `evict`: the oldest by `createdAt` end by `evicted`, as many as it
   * takes; but never the one that the new session `requires`, and where that leaves too few it is
   * not inserted.
   */
  readonly overflow: "reject" | "evict";
}

/** The answer of an `insert`. */
export type Inserted =
  | (Stored<SessionRecord> & {
      /** Whether this call ended the session that was to be replaced. */
      readonly replaced: boolean;
      /** The sessions that this call evicted. */
      readonly evicted: readonly string[];
    })
  | {
      /** Nothing was inserted, and nothing changed. */
      readonly record: undefined;
      readonly now: number;
      /** The limit is reached, or the session that had to be live is not. */
      readonly refused: "limit" | "notLive";
    };

/** Other claims, private data or another label, for one session. */
export interface SessionUpdate {
  readonly id: string;
  /** Holds only while the record still has this `version`, is not revoked, and is before both its ends. */
  readonly version: number;
  /** The new claims, whole: raises `claimsVersion`, with an entry in the change log. Absent: as they are. */
  readonly claims?: JsonObject;
  /** The new private data, whole. Absent: as it is. */
  readonly data?: JsonObject;
}

/** Whose sessions: a user's, a tenant's, or a user's within a tenant. At least one is not null. */
export interface SessionOwner {
  readonly userId: string | null;
  readonly tenantId: string | null;
}

/** A page of a list. */
export interface SessionPage {
  /** Live sessions, the newest by `createdAt` first; equal times by id, descending. */
  readonly records: readonly SessionRecord[];
  readonly now: number;
  /** Where the next page begins; opaque. Absent after the last. */
  readonly cursor?: string;
}

/** Which sessions a `revokeAll` ends. */
export type RevokeScope =
  | { readonly ids: readonly string[] }
  | (SessionOwner & {
      /** One session that stays; null for none. */
      readonly except: string | null;
    });

/**
 * The one write of a refresh. Each kind holds only while the record still has `generation`, is not
 * revoked, and is before both of its ends by the store's clock.
 *
 * Every kind sets `lastSeenAt` to now and `idleExpiresAt` to the smaller of now + `idle` and `expiresAt`.
 */
export type RefreshWrite = {
  readonly id: string;
  readonly generation: number;
  readonly idle: number;
} & (
  | {
      /** To the next generation: `generation` + 1, unconfirmed, `rotatedAt` now, `secretId` as given. */
      readonly kind: "advance";
      readonly secretId: string;
    }
  | {
      /**
       * The same generation again. With `settle`, an unconfirmed generation is confirmed now if
       * `rotatedAt` is at least that many milliseconds ago; a negative age counts as 0.
       */
      readonly kind: "keep";
      readonly settle: number | null;
    }
  | {
      /** Forward to a generation that this store has lost: unconfirmed, `rotatedAt` now. */
      readonly kind: "forward";
      readonly to: number;
      readonly secretId: string;
    }
);

/** A record, or none, and the store's clock in the statement that read or wrote it. */
export interface Stored<T> {
  readonly record: T;
  readonly now: number;
}

/** An entry of the change log. */
export type LogEntry = EndedEntry | ClaimsEntry;

/** A session ended. */
export interface EndedEntry {
  readonly kind: "revoked";
  readonly session: string;
  readonly endedBy: EndedBy;
  /** When, by the store's clock. */
  readonly at: number;
}

/** A session has other claims: access tokens of a lower `claimsVersion` say what is no longer so. */
export interface ClaimsEntry {
  readonly kind: "claims";
  readonly session: string;
  readonly claimsVersion: number;
  /** When, by the store's clock. */
  readonly at: number;
}

/** What a read of the change log returns. */
export interface Changes {
  readonly entries: readonly LogEntry[];
  /** Where the next read goes on; opaque. */
  readonly cursor: string;
  readonly now: number;
  /**
   * Since when the store may lack changes that it had acknowledged, by its clock: it was failed
   * over, restarted without its disk, or restored. Absent where that never was or cannot be.
   */
  readonly lostAt?: number;
}

/** A signing key as the store keeps it. */
export interface StoredSigningKey {
  /** The key's place in the order of rotation, from 0; unique. */
  readonly slot: number;
  readonly kid: string;
  readonly alg: string;
  /** The public JWK (RFC 7517), JSON. */
  readonly publicJwk: string;
  /** The private JWK, encrypted; opaque to the store. */
  readonly privateJwk: string;
  readonly createdAt: number;
}

/** What a store is told when it is opened. */
export interface StoreContext {
  readonly clock: Clock;
}

/**
 * Where sessions live. A store keeps, compares and counts; every rule is the engine's.
 *
 * - Every method is atomic: it happens wholly or not at all, also against other processes.
 * - Missing, ended and expired records are answers, never errors. `load` returns ended and expired
 *   records as long as they are kept.
 * - A promise rejects only when the store could not do its work (out of reach, disk full, corrupt);
 *   then nothing was changed, or the change is as if its answer was lost.
 * - A change that was acknowledged is durable, and every later read by anyone sees it.
 * - Times are the store's own, taken in the statement that uses them.
 */
export interface SessionStore {
  /** For messages: "memoryStore", "sqliteStore". */
  readonly name: string;

  /**
   * Opens the store and brings its schema up to date. Called before anything else; called again
   * after it rejected. A second engine may open the same store; the first one's clock stays.
   */
  open(context: StoreContext): Promise<void>;

  /**
   * Takes back one `open`: connections and timers end with the last one. Called once by every
   * engine that opened the store; more often does nothing.
   */
  close(): Promise<void>;

  /**
   * The secret that an embedded store keeps beside its sessions; made when there is none. Rejects
   * when sessions or signing keys exist and their secret is gone, so it is called before any is added.
   * A store without this method needs the option `secret`.
   */
  secret?(): Promise<Uint8Array>;

  /**
   * Adds a session with generation 0 (unconfirmed, `rotatedAt` now), claims version 0 and version 0.
   * In the same transaction, each with its entry in the change log: `replaces` is revoked, if it is
   * there and had not ended, and so is whatever `limit` evicts. One of `requires` and `replaces` may
   * name the same session: it must be live before it is replaced. Rejects when the id is taken.
   *
   * Whichever of this and a `revokeAll` that covers its user or tenant comes first, no session is
   * left over: either it is seen and ended, or it began after.
   */
  insert(session: NewSession): Promise<Inserted>;

  /** Reads a session; `record` is undefined when there is none. */
  load(id: string): Promise<Stored<SessionRecord | undefined>>;

  /** Writes a refresh; `record` is undefined when its condition does not hold, and nothing changed. */
  refresh(write: RefreshWrite): Promise<Stored<SessionRecord | undefined>>;

  /**
   * Confirms a generation that is still current, not revoked and at least `settle` milliseconds old
   * (a negative age counts as 0). Returns false when it is too young, or ahead of a store that went
   * back; true when it is confirmed, by whomever, or can never be.
   */
  confirm(id: string, generation: number, settle: number): Promise<boolean>;

  /**
   * Ends a session and appends to the change log in the same transaction. `record` is the session
   * as it is after the call, undefined when there is none; `revoked` tells whether this call ended it.
   */
  revoke(
    id: string,
    endedBy: EndedBy,
  ): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }>;

  /**
   * Ends sessions and appends an entry for each to the change log, in one transaction; see `insert`
   * for what that means to sessions that begin meanwhile. Of `ids` at most 1000. `revoked`: those
   * that this call ended.
   */
  revokeAll(
    scope: RevokeScope,
    endedBy: EndedBy,
  ): Promise<{ readonly revoked: readonly string[]; readonly now: number }>;

  /** Updates a session; `record` is undefined when its condition does not hold, and nothing changed. */
  update(change: SessionUpdate): Promise<Stored<SessionRecord | undefined>>;

  /** Lists live sessions, `limit` a page, from a cursor of the same owner on, or from the first. */
  list(
    owner: SessionOwner,
    page: { readonly cursor: string | undefined; readonly limit: number },
  ): Promise<SessionPage>;

  /**
   * Reads the change log from a cursor on, oldest first. Without a cursor: every entry that is no
   * older than `window` milliseconds. An entry may come twice; none is left out, except that entries
   * older than 2 h may be dropped: no access token lives that long. A cursor of before the store lost
   * changes (`lostAt`) is good for as much as none.
   */
  changes(cursor: string | undefined, window: number): Promise<Changes>;

  /**
   * Calls `wake` soon after entries were appended by this process or, where the store can tell,
   * by others. A hint only: the log is the truth.
   * @returns a function that ends it
   */
  onChange(wake: () => void): () => void;

  /**
   * Whether `onChange` is told at once of what other processes append, at this moment; undefined
   * where it never is.
   */
  pushed?(): boolean | undefined;

  /** All signing keys, by slot. */
  signingKeys(): Promise<{ readonly keys: readonly StoredSigningKey[]; readonly now: number }>;

  /** Adds a signing key; false when its slot is taken, and nothing changed. */
  addSigningKey(key: Omit<StoredSigningKey, "createdAt">): Promise<boolean>;

  /** Removes the signing keys of all slots below `slot`. */
  removeSigningKeysBelow(slot: number): Promise<void>;

  /**
   * Drops what is outdated, at most `limit` of each kind: sessions that ended (by a revoke, the idle
   * or the absolute end) more than 24 h ago, and entries of the change log older than 2 h. Nothing
   * else. Waits for no one: what others are writing is left for later. Returns how many went, of
   * both kinds together; from `limit` on there may be more. What a store drops by itself at its
   * time does not count.
   */
  prune(limit: number): Promise<number>;

  /**
   * Takes, or renews, the lease `name` for `holder` for `ttl` milliseconds from now; false while it
   * is another's. A store that loses changes may lose a lease, so two may believe they hold it.
   */
  lease(name: string, holder: string, ttl: number): Promise<boolean>;
}
