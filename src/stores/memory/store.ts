import type { Clock } from "../../base/clock.ts";
import type {
  Changes,
  EndedBy,
  KeysEntry,
  LogEntry,
  NewSession,
  SessionRecord,
  SessionStore,
  StoredSigningKey,
} from "../../engine/store.ts";
import {
  cutPage,
  evictedBy,
  formatCursor,
  isAfter,
  keepChanges,
  newestFirst,
  parseCursor,
  parseListCursor,
  splitLog,
} from "../common.ts";
import { ChangeListeners } from "../push.ts";
import { MemoryAudit } from "./audit.ts";
import { MemorySecrets } from "./secrets.ts";
import { isLiveAt, MemorySessions, newRecord } from "./sessions.ts";

/** The methods are own properties, so that a store can be wrapped: `{ ...store, load }`. */
export class MemoryStore implements SessionStore {
  readonly name = "memoryStore";
  readonly #sessions = new MemorySessions();
  readonly #log = new MemoryLog();
  readonly #keys = new Map<number, StoredSigningKey>();
  readonly #secrets = new MemorySecrets();
  readonly #audit = new MemoryAudit();
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
      if (required === undefined || !isLiveAt(required, now)) {
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
      .filter((record) => record.id !== replaces && isLiveAt(record, now))
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

  readonly advance: NonNullable<SessionStore["advance"]> = async (write) => {
    const now = this.#now();
    const record = this.#sessions.advance(write, now);
    return record === undefined
      ? { now, record: this.#sessions.get(write.id), advanced: false }
      : { now, record, advanced: true };
  };

  // Nothing else ever used the sessions of this process.
  readonly tokenFormat: NonNullable<SessionStore["tokenFormat"]> = async () => 2;

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
      .filter((record) => isLiveAt(record, now) && (place === undefined || isAfter(record, place)))
      .sort(newestFirst);
    return { ...cutPage(found, limit), now };
  };

  readonly liveIds: SessionStore["liveIds"] = async (cursor, limit) => {
    const now = this.#now();
    const ids = this.#sessions
      .all()
      .filter((record) => isLiveAt(record, now) && (cursor === undefined || record.id > cursor))
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

  // The audit log.

  readonly appendAudit: NonNullable<SessionStore["appendAudit"]> = async (entries) =>
    this.#audit.append(entries, this.#now(), (id) => this.#sessions.get(id));

  readonly listAudit: NonNullable<SessionStore["listAudit"]> = async (user, page) =>
    this.#audit.list(user, page, this.#now());

  readonly forgetAudit: NonNullable<SessionStore["forgetAudit"]> = async (user) =>
    this.#audit.forget(user);

  // Upkeep.

  readonly prune: SessionStore["prune"] = async (limit) => {
    const now = this.#now();
    const rows = this.#log.prune(limit, now) + this.#sessions.prune(limit, now);
    return rows + this.#pruneLeases(limit, now) + this.#audit.prune(limit, now);
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

  #pruneLeases(limit: number, now: number): number {
    const over = [...this.#leases].filter(([, { until }]) => until <= now).slice(0, limit);
    for (const [name] of over) {
      this.#leases.delete(name);
    }
    return over.length;
  }
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
