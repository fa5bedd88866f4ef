import type { Clock } from "../../base/clock.ts";
import type {
  Changes,
  EndedBy,
  GenerationUse,
  KeysEntry,
  LogEntry,
  NewSession,
  RefreshWrite,
  SessionRecord,
  SessionSelection,
  SessionStore,
  SessionUpdate,
  StoredSigningKey,
} from "../../engine/store.ts";
import {
  cutPage,
  evictedBy,
  externalKeysOf,
  externalKeyText,
  formatCursor,
  isAfter,
  keepChanges,
  keepEnded,
  newestFirst,
  parseCursor,
  parseListCursor,
  splitLog,
} from "../common.ts";
import { ChangeListeners } from "../push.ts";
import { MemorySecrets } from "./secrets.ts";

/** The methods are own properties, so that a store can be wrapped: `{ ...store, load }`. */
export class MemoryStore implements SessionStore {
  readonly name = "memoryStore";
  readonly #sessions = new MemorySessions();
  readonly #log = new MemoryLog();
  readonly #keys = new Map<number, StoredSigningKey>();
  readonly #secrets = new MemorySecrets();
  readonly #leases = new Map<string, { readonly holder: string; readonly until: number }>();
  readonly #secret = crypto.getRandomValues(new Uint8Array(32));
  #clock: Clock | undefined;

  #now(): number {
    if (this.#clock === undefined) {
      throw new Error("memoryStore: the store is not open; call open() first");
    }
    return this.#clock.now();
  }

  readonly open: SessionStore["open"] = async ({ clock }) => {
    this.#clock ??= clock;
  };

  readonly close: SessionStore["close"] = async () => {};

  readonly secret = async (): Promise<Uint8Array> => this.#secret.slice();

  // One session.

  readonly insert: SessionStore["insert"] = async (session) => {
    const now = this.#now();
    if (this.#sessions.get(session.id) !== undefined) {
      throw new Error("memoryStore: a session with this id already exists");
    }
    if (session.requires !== null) {
      const required = this.#sessions.get(session.requires);
      if (required === undefined || !isLive(required, now)) {
        return { record: undefined, now, refused: "notLive" };
      }
    }
    const evicted =
      session.limit === null ? [] : evictedBy(session, this.#countedByLimit(session, now));
    if (evicted === undefined) {
      return { record: undefined, now, refused: "limit" };
    }
    // Before any write, because it throws on claims that are not JSON.
    const record = newRecord(session, now);
    const replaced = session.replaces !== null && this.#end(session.replaces, "replaced", now);
    for (const id of evicted) {
      this.#end(id, "evicted", now);
    }
    return { record: this.#sessions.set(record), now, replaced, evicted };
  };

  /** Returns the user's live sessions in the tenant, oldest first, without the session to replace. */
  #countedByLimit({ userId, tenantId, replaces }: NewSession, now: number): SessionRecord[] {
    return this.#sessions
      .selectedBy({ userId, tenantId })
      .filter((record) => record.tenantId === tenantId)
      .filter((record) => record.id !== replaces && isLive(record, now))
      .sort(newestFirst)
      .reverse();
  }

  readonly load: SessionStore["load"] = async (id) => ({
    now: this.#now(),
    record: this.#sessions.get(id),
  });

  readonly refresh: SessionStore["refresh"] = async (write) => {
    const now = this.#now();
    return { now, record: this.#sessions.refresh(write, now) };
  };

  readonly confirm: SessionStore["confirm"] = async (uses) => {
    const now = this.#now();
    return uses.map((use) => this.#sessions.confirm(use, now));
  };

  readonly revoke: SessionStore["revoke"] = async (id, endedBy) => {
    const now = this.#now();
    const revoked = this.#end(id, endedBy, now);
    return { record: this.#sessions.get(id), now, revoked };
  };

  /** Ends a session and logs it; returns false if it is missing or has already ended. */
  #end(id: string, endedBy: EndedBy, now: number): boolean {
    const old = this.#sessions.get(id);
    if (old === undefined || old.revokedAt !== null) {
      return false;
    }
    this.#sessions.set({ ...old, revokedAt: now, endedBy });
    this.#log.append({ kind: "revoked", session: id, endedBy, at: now });
    return true;
  }

  readonly update: SessionStore["update"] = async (change) => {
    const now = this.#now();
    const record = this.#sessions.update(change, now);
    if (record !== undefined && change.claims !== undefined) {
      const { id: session, claimsVersion } = record;
      this.#log.append({ kind: "claims", session, claimsVersion, at: now });
    }
    return { record, now };
  };

  // Many sessions.

  readonly list: SessionStore["list"] = async (selection, { cursor, limit }) => {
    const now = this.#now();
    const place = cursor === undefined ? undefined : parseListCursor("memoryStore", cursor);
    const found = this.#sessions
      .selectedBy(selection)
      .filter((record) => isLive(record, now) && (place === undefined || isAfter(record, place)))
      .sort(newestFirst);
    return { ...cutPage(found, limit), now };
  };

  readonly liveIds: SessionStore["liveIds"] = async (cursor, limit) => {
    const now = this.#now();
    const ids = this.#sessions
      .all()
      .filter((record) => isLive(record, now) && (cursor === undefined || record.id > cursor))
      .map(({ id }) => id)
      .sort();
    const last = ids[limit - 1];
    return { ids: ids.slice(0, limit), ...(last === undefined ? {} : { cursor: last }) };
  };

  readonly revokeAll: SessionStore["revokeAll"] = async (scope, endedBy) => {
    const now = this.#now();
    const except = "except" in scope ? scope.except : null;
    const ids =
      "ids" in scope
        ? scope.ids
        : this.#sessions
            .selectedBy(scope)
            .map(({ id }) => id)
            .filter((id) => id !== except);
    return { revoked: ids.filter((id) => this.#end(id, endedBy, now)), now };
  };

  // The change log.

  readonly changes: SessionStore["changes"] = async (cursor, window) =>
    this.#log.read(cursor, window, this.#now());

  readonly onChange: SessionStore["onChange"] = (wake) => this.#log.onChange(wake);

  // Every engine that shares the store is in this process.
  readonly pushed = (): boolean => true;

  // Signing keys.

  readonly signingKeys: SessionStore["signingKeys"] = async () => {
    const keys = [...this.#keys.values()].sort((a, b) => a.slot - b.slot);
    return { keys, now: this.#now() };
  };

  readonly addSigningKey: SessionStore["addSigningKey"] = async (key) => {
    const createdAt = this.#now();
    if (this.#keys.has(key.slot)) {
      return false;
    }
    this.#keys.set(key.slot, Object.freeze({ ...key, createdAt }));
    return true;
  };

  readonly removeSigningKeysBelow: SessionStore["removeSigningKeysBelow"] = async (slot) => {
    for (const taken of this.#keys.keys()) {
      if (taken < slot) {
        this.#keys.delete(taken);
      }
    }
  };

  readonly retireSigningKeys: SessionStore["retireSigningKeys"] = async (kids) => {
    const retired: string[] = [];
    for (const { slot, kid } of [...this.#keys.values()]) {
      if (kids.includes(kid)) {
        this.#keys.delete(slot);
        retired.push(kid);
      }
    }
    if (retired.length > 0) {
      await this.announceKeys("changed");
    }
    return retired;
  };

  readonly announceKeys: SessionStore["announceKeys"] = async (change) =>
    this.#log.append({ kind: "keys", change, at: this.#now() });

  // Secrets.

  readonly recordSecrets: SessionStore["recordSecrets"] = async (given) =>
    this.#secrets.record(given, this.#now());

  readonly retireSecrets: SessionStore["retireSecrets"] = async (given) => {
    const recorded = this.#secrets.retire(given, this.#now());
    await this.announceKeys("changed");
    return recorded;
  };

  // Upkeep.

  readonly prune: SessionStore["prune"] = async (limit) => {
    const now = this.#now();
    return this.#log.prune(limit, now) + this.#sessions.prune(limit, now);
  };

  readonly lease: SessionStore["lease"] = async (name, holder, ttl) => {
    const now = this.#now();
    const held = this.#leases.get(name);
    if (held !== undefined && held.holder !== holder && held.until > now) {
      return false;
    }
    this.#leases.set(name, { holder, until: now + ttl });
    return true;
  };
}

/** The change log of a memory store: entries numbered from 1. */
class MemoryLog {
  readonly #entries: { readonly number: number; readonly entry: LogEntry | KeysEntry }[] = [];
  readonly #listeners = new ChangeListeners();
  #lastNumber = 0;

  onChange(wake: () => void): () => void {
    return this.#listeners.add(wake);
  }

  append(entry: LogEntry | KeysEntry): void {
    this.#lastNumber += 1;
    this.#entries.push({ number: this.#lastNumber, entry: Object.freeze(entry) });
    this.#listeners.call();
  }

  /** See `SessionStore.changes`. */
  read(cursor: string | undefined, window: number, now: number): Changes {
    const seen = cursor === undefined ? 0 : parseCursor("memoryStore", cursor);
    const found = this.#entries
      .filter(({ number, entry }) =>
        cursor === undefined ? entry.at >= now - window : number > seen,
      )
      .map(({ entry }) => entry);
    return { ...splitLog(found), cursor: formatCursor(this.#lastNumber), now };
  }

  /** Drops outdated entries, at most `limit`, and returns how many. */
  prune(limit: number, now: number): number {
    const fresh = this.#entries.findIndex(({ entry }) => entry.at >= now - keepChanges);
    const old = fresh < 0 ? this.#entries.length : fresh;
    return this.#entries.splice(0, Math.min(old, limit)).length;
  }
}

/** The sessions of a memory store. Every method is synchronous, and therefore atomic. */
export class MemorySessions {
  readonly #byId = new Map<string, SessionRecord>();
  /** The ids of sessions by user, tenant and external id, so that no call scans all sessions. */
  readonly #index = new Map<string, Set<string>>();
  /** Where the next `prune` continues. */
  #walk: MapIterator<SessionRecord> | undefined;

  get(id: string): SessionRecord | undefined {
    return this.#byId.get(id);
  }

  all(): SessionRecord[] {
    return [...this.#byId.values()];
  }

  /** The number of ids under each key of the index. Tests check that no id is left behind. */
  get indexSizes(): number[] {
    return [...this.#index.values()].map(({ size }) => size);
  }

  /** Stores a record and returns it frozen, so that no reader can change the stored one. */
  set(record: SessionRecord): SessionRecord {
    this.#byId.set(record.id, Object.freeze(record));
    for (const key of indexKeys(record)) {
      const ids = this.#index.get(key);
      if (ids === undefined) {
        this.#index.set(key, new Set([record.id]));
      } else {
        ids.add(record.id);
      }
    }
    return record;
  }

  /** Returns all selected sessions, including ended ones, in no particular order. */
  selectedBy(selection: SessionSelection): SessionRecord[] {
    const tenantId = "external" in selection ? null : selection.tenantId;
    const [key = ""] =
      "external" in selection
        ? [externalKeyText(selection.external)]
        : indexKeys({ ...selection, externalId: null });
    return [...(this.#index.get(key) ?? [])].flatMap((id) => {
      const record = this.#byId.get(id);
      // For a user within a tenant, `key` is the user's, because a user has fewer sessions than a tenant.
      return record && (tenantId === null || record.tenantId === tenantId) ? [record] : [];
    });
  }

  /** Writes a refresh; returns undefined when its condition does not hold. */
  refresh(write: RefreshWrite, now: number): SessionRecord | undefined {
    const old = this.#byId.get(write.id);
    if (old === undefined || old.generation !== write.generation || !isLive(old, now)) {
      return undefined;
    }
    return this.set({
      ...old,
      ...refreshed(old, write, now),
      lastSeenAt: now,
      idleExpiresAt: Math.min(now + write.idle, old.expiresAt),
    });
  }

  /** Confirms a generation; see `SessionStore.confirm`. */
  confirm(use: GenerationUse, now: number): boolean {
    const record = this.#byId.get(use.session);
    if (record === undefined || record.revokedAt !== null || record.generation > use.generation) {
      return true;
    }
    // The store has lost this generation, which may become current again.
    if (record.generation < use.generation) {
      return false;
    }
    if (record.confirmedAt === null && isSettled(record, use.settle, now)) {
      this.set({ ...record, confirmedAt: now });
      return true;
    }
    return record.confirmedAt !== null;
  }

  /** Writes an update; returns undefined when its condition does not hold. */
  update({ id, version, ...given }: SessionUpdate, now: number): SessionRecord | undefined {
    const old = this.#byId.get(id);
    if (old === undefined || old.version !== version || !isLive(old, now)) {
      return undefined;
    }
    const { claims, data } = jsonCopy(given);
    return this.set({
      ...old,
      claims: claims ?? old.claims,
      claimsVersion: old.claimsVersion + (claims ? 1 : 0),
      data: data ?? old.data,
      version: version + (claims || data ? 1 : 0),
    });
  }

  /**
   * Drops sessions that ended more than 24 h ago, at most `limit`, and returns how many. A call looks
   * at each session at most once, and continues where the previous call stopped, so that many batches
   * together visit each session once.
   */
  prune(limit: number, now: number): number {
    let dropped = 0;
    for (let left = this.#byId.size; left > 0 && dropped < limit; ) {
      this.#walk ??= this.#byId.values();
      const { value: record, done } = this.#walk.next();
      if (done) {
        this.#walk = undefined;
        continue;
      }
      left--;
      const endedAt = Math.min(record.revokedAt ?? record.idleExpiresAt, record.idleExpiresAt);
      if (endedAt < now - keepEnded) {
        this.#delete(record);
        dropped++;
      }
    }
    return dropped;
  }

  #delete(record: SessionRecord): void {
    this.#byId.delete(record.id);
    for (const key of indexKeys(record)) {
      const ids = this.#index.get(key);
      ids?.delete(record.id);
      if (ids?.size === 0) {
        this.#index.delete(key);
      }
    }
  }
}

/** Returns the record of a session that begins now, without storing it. */
export function newRecord(session: NewSession, now: number): SessionRecord {
  const { idle, absolute, endsBy, replaces: _p, requires: _q, limit: _l, ...given } = session;
  const expiresAt = Math.min(now + absolute, endsBy ?? Infinity);
  return {
    ...jsonCopy(given),
    generation: 0,
    confirmedAt: null,
    rotatedAt: now,
    sentAt: now,
    prolonged: 0,
    createdAt: now,
    authTime: given.authTime ?? now,
    idleExpiresAt: Math.min(now + idle, expiresAt),
    expiresAt,
    claimsVersion: 0,
    version: 0,
    lastSeenAt: now,
    revokedAt: null,
    endedBy: null,
  };
}

/** Whether a session has neither been revoked nor expired. */
function isLive(record: SessionRecord, now: number): boolean {
  return record.revokedAt === null && record.idleExpiresAt > now && record.expiresAt > now;
}

function refreshed(old: SessionRecord, write: RefreshWrite, now: number): Partial<SessionRecord> {
  if (write.kind === "keep") {
    const settled = write.settle !== null && isSettled(old, write.settle, now);
    return { confirmedAt: old.confirmedAt ?? (settled ? now : null) };
  }
  if (write.kind === "resend") {
    const { prolonged } = write;
    return prolonged === null ? {} : { sentAt: Math.max(now, old.rotatedAt), prolonged };
  }
  const generation = write.kind === "advance" ? old.generation + 1 : write.to;
  const { secretId } = write;
  return { generation, confirmedAt: null, rotatedAt: now, sentAt: now, prolonged: 0, secretId };
}

function isSettled(record: SessionRecord, settle: number, now: number): boolean {
  return Math.max(0, now - record.sentAt) >= settle;
}

/** The texts of external keys begin with another word than those of owners. */
function indexKeys({ userId, tenantId, externalId }: IndexedFacts): string[] {
  return [
    ...(userId === null ? [] : [`user:${userId}`]),
    ...(tenantId === null ? [] : [`tenant:${tenantId}`]),
    ...externalKeysOf(externalId).map(externalKeyText),
  ];
}

/** The facts by which a session is found. */
interface IndexedFacts extends Pick<SessionRecord, "tenantId" | "externalId"> {
  readonly userId: string | null;
}

/** Copies a value through JSON, deeply frozen. */
function jsonCopy<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_key, part: unknown) => Object.freeze(part));
}
