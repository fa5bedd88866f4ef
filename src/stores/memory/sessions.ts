import type {
  AdvanceWrite,
  GenerationUse,
  NewSession,
  RefreshWrite,
  SessionRecord,
  SessionSelection,
  SessionUpdate,
} from "../../engine/store.ts";
import { externalKeysOf, externalKeyText, keepEnded } from "../common.ts";

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
    const isNew = !this.#byId.has(record.id);
    this.#byId.set(record.id, Object.freeze(record));
    if (!isNew) {
      // No write changes what a session is found by.
      return record;
    }
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
    if (old === undefined || old.generation !== write.generation || !isLiveAt(old, now)) {
      return undefined;
    }
    return this.set({
      ...old,
      ...refreshed(old, write, now),
      boundKey: write.boundKey ?? old.boundKey,
      lastSeenAt: now,
      idleExpiresAt: Math.min(now + write.idle, old.expiresAt),
    });
  }

  /** Writes the common refresh; returns undefined when its condition does not hold. */
  advance(write: AdvanceWrite, now: number): SessionRecord | undefined {
    const old = this.#byId.get(write.id);
    const holds =
      old !== undefined &&
      old.generation === write.generation &&
      old.secretId === write.secretId &&
      old.rootHash === write.rootHash &&
      old.transport === write.transport &&
      old.boundKey === write.boundKey &&
      isLiveAt(old, now) &&
      old.confirmedAt !== null &&
      now - old.confirmedAt > write.overlap;
    if (!holds) {
      return undefined;
    }
    const idle = Math.min(write.idle, old.idleLife ?? write.idle);
    return this.set({
      ...old,
      ...newGeneration(old.generation + 1, now),
      salt: "",
      secretId: write.nextSecretId,
      formerSecretId: old.secretId,
      lastSeenAt: now,
      idleExpiresAt: Math.min(now + idle, old.expiresAt),
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
    if (old === undefined || old.version !== version || !isLiveAt(old, now)) {
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
    lastSalted: null,
    formerSecretId: null,
    generation: 0,
    confirmedAt: null,
    rotatedAt: now,
    sentAt: now,
    prolonged: 0,
    createdAt: given.createdAt ?? now,
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
export function isLiveAt(record: SessionRecord, now: number): boolean {
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
  const { secretId, proof } = write;
  const formerSecretId = write.kind === "advance" ? old.secretId : null;
  return { ...newGeneration(generation, now), secretId, formerSecretId, ...proof };
}

function newGeneration(generation: number, now: number) {
  return { generation, confirmedAt: null, rotatedAt: now, sentAt: now, prolonged: 0 };
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
