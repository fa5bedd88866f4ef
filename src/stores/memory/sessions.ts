import type {
  NewSession,
  RefreshWrite,
  SessionOwner,
  SessionRecord,
  SessionUpdate,
} from "../../engine/store.ts";
import { keepEnded } from "../common.ts";

/** The ids of each user's and each tenant's sessions, so that nobody looks at all there are. */
export type MemoryOwners = Map<string, Set<string>>;

/** Notes whose a session is; once is enough. */
export function addToOwners(owners: MemoryOwners, record: SessionRecord): void {
  for (const key of keysOf(record)) {
    const ids = owners.get(key);
    if (ids === undefined) {
      owners.set(key, new Set([record.id]));
    } else {
      ids.add(record.id);
    }
  }
}

/** Forgets a session that is dropped. */
export function removeFromOwners(owners: MemoryOwners, record: SessionRecord): void {
  for (const key of keysOf(record)) {
    const ids = owners.get(key);
    ids?.delete(record.id);
    if (ids?.size === 0) {
      owners.delete(key);
    }
  }
}

/** All sessions of an owner, in no order, also those that are over. */
export function ownedBy(
  sessions: {
    readonly byId: ReadonlyMap<string, SessionRecord>;
    readonly byOwner: MemoryOwners;
  },
  { userId, tenantId }: SessionOwner,
): SessionRecord[] {
  const [key = ""] = keysOf({ userId, tenantId });
  return [...(sessions.byOwner.get(key) ?? [])].flatMap((id) => {
    const record = sessions.byId.get(id);
    // Of a user within a tenant, the user's are looked through: they are fewer than the tenant's.
    return record && (tenantId === null || record.tenantId === tenantId) ? [record] : [];
  });
}

function keysOf({ userId, tenantId }: SessionOwner): string[] {
  return [
    ...(userId === null ? [] : [`user:${userId}`]),
    ...(tenantId === null ? [] : [`tenant:${tenantId}`]),
  ];
}

/** The sessions of a memory store. Every function runs to its end in one go: that makes it atomic. */
export interface MemorySessions {
  readonly byId: Map<string, SessionRecord>;
  readonly byOwner: MemoryOwners;
  /** Where the walk that drops old sessions goes on. */
  walk: MapIterator<SessionRecord> | undefined;
}

/** The record of a session that begins now; it is not kept yet. */
export function beginSession(session: NewSession, now: number): SessionRecord {
  const { idle, absolute, endsBy, replaces: _p, requires: _q, limit: _l, ...given } = session;
  const expiresAt = Math.min(now + absolute, endsBy ?? Infinity);
  return {
    ...jsonCopy(given),
    generation: 0,
    confirmedAt: null,
    rotatedAt: now,
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

/** Keeps a record and returns it frozen, so that no reader can change what is kept. */
export function keepSession(sessions: MemorySessions, record: SessionRecord): SessionRecord {
  sessions.byId.set(record.id, Object.freeze(record));
  addToOwners(sessions.byOwner, record);
  return record;
}

/** Whether a session has neither been ended nor expired. */
export function isLive(record: SessionRecord, now: number): boolean {
  return record.revokedAt === null && record.idleExpiresAt > now && record.expiresAt > now;
}

/** Writes a refresh; undefined when its condition does not hold. */
export function refreshSession(
  sessions: MemorySessions,
  asked: RefreshWrite,
  now: number,
): SessionRecord | undefined {
  const old = sessions.byId.get(asked.id);
  if (old === undefined || old.generation !== asked.generation || !isLive(old, now)) {
    return undefined;
  }
  return keepSession(sessions, {
    ...old,
    ...refreshed(old, asked, now),
    lastSeenAt: now,
    idleExpiresAt: Math.min(now + asked.idle, old.expiresAt),
  });
}

/** Writes an update; undefined when its condition does not hold. */
export function updateSession(
  sessions: MemorySessions,
  { id, version, ...given }: SessionUpdate,
  now: number,
): SessionRecord | undefined {
  const old = sessions.byId.get(id);
  if (old === undefined || old.version !== version || !isLive(old, now)) {
    return undefined;
  }
  const { claims, data } = jsonCopy(given);
  return keepSession(sessions, {
    ...old,
    claims: claims ?? old.claims,
    claimsVersion: old.claimsVersion + (claims ? 1 : 0),
    data: data ?? old.data,
    version: version + (claims || data ? 1 : 0),
  });
}

/** Confirms a generation; see `SessionStore.confirm`. */
export function confirmSession(
  sessions: MemorySessions,
  use: { readonly id: string; readonly generation: number; readonly settle: number },
  now: number,
): boolean {
  const record = sessions.byId.get(use.id);
  if (record === undefined || record.revokedAt !== null || record.generation > use.generation) {
    return true;
  }
  // A generation ahead of the record was lost by the store; it may be current again one day.
  if (record.generation < use.generation) {
    return false;
  }
  if (record.confirmedAt === null && isSettled(record, use.settle, now)) {
    keepSession(sessions, { ...record, confirmedAt: now });
    return true;
  }
  return record.confirmedAt !== null;
}

/**
 * Drops sessions that ended long ago, at most `limit`, and returns how many. Each call looks at every
 * session once at most, and goes on where the last one stopped: many batches cost one walk together.
 */
export function pruneSessions(sessions: MemorySessions, limit: number, now: number): number {
  const { byId } = sessions;
  let dropped = 0;
  for (let left = byId.size; left > 0 && dropped < limit; ) {
    sessions.walk ??= byId.values();
    const { value: record, done } = sessions.walk.next();
    if (done) {
      sessions.walk = undefined;
      continue;
    }
    left--;
    if (
      Math.min(record.revokedAt ?? record.idleExpiresAt, record.idleExpiresAt) <
      now - keepEnded
    ) {
      byId.delete(record.id);
      removeFromOwners(sessions.byOwner, record);
      dropped++;
    }
  }
  return dropped;
}

function refreshed(old: SessionRecord, asked: RefreshWrite, now: number): Partial<SessionRecord> {
  if (asked.kind === "keep") {
    const settled = asked.settle !== null && isSettled(old, asked.settle, now);
    return { confirmedAt: old.confirmedAt ?? (settled ? now : null) };
  }
  const generation = asked.kind === "advance" ? old.generation + 1 : asked.to;
  return { generation, confirmedAt: null, rotatedAt: now, secretId: asked.secretId };
}

function isSettled(record: SessionRecord, settle: number, now: number): boolean {
  return Math.max(0, now - record.rotatedAt) >= settle;
}

/** What JSON keeps of a value, deeply frozen. */
function jsonCopy<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_key, part: unknown) => Object.freeze(part));
}
