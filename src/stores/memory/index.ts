import type { Clock } from "../../base/clock.ts";
import type {
  Changes,
  EndedBy,
  Inserted,
  LogEntry,
  NewSession,
  RevokeScope,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  Stored,
  StoredSigningKey,
} from "../../engine/store.ts";
import {
  ChangeListeners,
  cutPage,
  evictedBy,
  formatCursor,
  isAfter,
  keepChanges,
  newestFirst,
  parseCursor,
  parseListCursor,
} from "../common.ts";
import {
  beginSession,
  confirmSession,
  isLive,
  keepSession,
  type MemorySessions,
  ownedBy,
  pruneSessions,
  refreshSession,
  updateSession,
} from "./sessions.ts";

/** The change log of a memory store. */
export interface MemoryChanges {
  readonly entries: { readonly number: number; readonly change: LogEntry }[];
  lastNumber: number;
  readonly wakes: ChangeListeners;
}

/** A change log without entries. */
export function createChanges(): MemoryChanges {
  return { entries: [], lastNumber: 0, wakes: new ChangeListeners() };
}

/** Appends an entry, and wakes who waits for one. */
export function appendChange(changes: MemoryChanges, change: LogEntry): void {
  changes.lastNumber += 1;
  changes.entries.push({ number: changes.lastNumber, change: Object.freeze(change) });
  changes.wakes.call();
}

/** Reads the log; see `SessionStore.changes`. */
export function readChanges(
  changes: MemoryChanges,
  read: { readonly cursor: string | undefined; readonly window: number },
  now: number,
): Changes {
  const { cursor, window } = read;
  const seen = cursor === undefined ? 0 : parseCursor("memoryStore", cursor);
  const wanted = changes.entries.filter(({ number, change }) =>
    cursor === undefined ? change.at >= now - window : number > seen,
  );
  const entries = wanted.map(({ change }) => change);
  return { entries, cursor: formatCursor(changes.lastNumber), now };
}

/** Drops outdated entries, at most `limit`, and returns how many. */
export function pruneChanges({ entries }: MemoryChanges, limit: number, now: number): number {
  const fresh = entries.findIndex(({ change }) => change.at >= now - keepChanges);
  const old = fresh < 0 ? entries.length : fresh;
  return entries.splice(0, Math.min(old, limit)).length;
}

/**
 * Sessions in the memory of this process: for tests, demos and single servers whose users may be
 * signed out by a restart.
 *
 * - Several engines may share one store. Its clock is that of the first engine that opens it.
 * - `close` ends nothing: there is nothing to end, and other engines may go on.
 * - `secret` gives 32 random bytes, made once per store.
 * - Sessions are dropped 24 h after their end, entries of the change log after 2 h.
 */
export function memoryStore(): SessionStore {
  const memory: Memory = {
    clock: undefined,
    sessions: { byId: new Map(), byOwner: new Map(), walk: undefined },
    changes: createChanges(),
    keys: new Map(),
    leases: new Map(),
  };
  const secret = crypto.getRandomValues(new Uint8Array(32));
  return {
    name: "memoryStore",
    async open(context) {
      memory.clock ??= context.clock;
    },
    async close() {},
    secret: async () => secret.slice(),
    insert: async (session) => insert(memory, session),
    load: async (id) => ({ now: timeOf(memory), record: memory.sessions.byId.get(id) }),
    async refresh(write) {
      const now = timeOf(memory);
      return { now, record: refreshSession(memory.sessions, write, now) };
    },
    confirm: async (id, generation, settle) =>
      confirmSession(memory.sessions, { id, generation, settle }, timeOf(memory)),
    revoke: async (id, endedBy) => revoke(memory, id, endedBy),
    revokeAll: async (scope, endedBy) => revokeAll(memory, scope, endedBy),
    update: async (change) => update(memory, change),
    list: async (owner, page) => list(memory, owner, page),
    changes: async (cursor, window) =>
      readChanges(memory.changes, { cursor, window }, timeOf(memory)),
    onChange: (wake) => memory.changes.wakes.add(wake),
    // There are no others: every engine on it is in this process.
    pushed: () => true,
    signingKeys: async () => signingKeys(memory),
    addSigningKey: async (key) => addSigningKey(memory, key),
    removeSigningKeysBelow: async (slot) => removeSigningKeysBelow(memory, slot),
    prune: async (limit) => prune(memory, limit),
    lease: async (name, holder, ttl) => lease(memory, { name, holder, ttl }),
  };
}

interface Memory {
  clock: Clock | undefined;
  readonly sessions: MemorySessions;
  readonly changes: MemoryChanges;
  readonly keys: Map<number, StoredSigningKey>;
  readonly leases: Map<string, { readonly holder: string; readonly until: number }>;
}

function timeOf(memory: Memory): number {
  if (memory.clock === undefined) {
    throw new Error("memoryStore: open() has not been called");
  }
  return memory.clock.now();
}

function insert(memory: Memory, session: NewSession): Inserted {
  const now = timeOf(memory);
  const { byId } = memory.sessions;
  if (byId.has(session.id)) {
    throw new Error("memoryStore: the session id is taken");
  }
  const required = session.requires === null ? undefined : byId.get(session.requires);
  if (session.requires !== null && !(required && isLive(required, now))) {
    return { record: undefined, now, refused: "notLive" };
  }
  const evicted = evictedBy(session, othersOf(memory, session, now));
  if (evicted === undefined) {
    return { record: undefined, now, refused: "limit" };
  }
  // First, because it throws on claims that are no JSON, and then nothing may have changed.
  const record = beginSession(session, now);
  const { replaces } = session;
  const replaced = replaces !== null && revoke(memory, replaces, "replaced").revoked;
  for (const id of evicted) {
    revoke(memory, id, "evicted");
  }
  return { record: keepSession(memory.sessions, record), now, replaced, evicted };
}

/** The sessions that count for a new one's limit, the oldest first. */
function othersOf(memory: Memory, session: NewSession, now: number): SessionRecord[] {
  if (session.limit === null) {
    return [];
  }
  const owner = { userId: session.userId, tenantId: null };
  return ownedBy(memory.sessions, owner)
    .filter((record) => record.id !== session.replaces && isLive(record, now))
    .sort(newestFirst)
    .reverse();
}

function revoke(memory: Memory, id: string, endedBy: EndedBy) {
  const now = timeOf(memory);
  const old = memory.sessions.byId.get(id);
  if (old === undefined || old.revokedAt !== null) {
    return { record: old, now, revoked: false };
  }
  const record = keepSession(memory.sessions, { ...old, revokedAt: now, endedBy });
  appendChange(memory.changes, { kind: "revoked", session: id, endedBy, at: now });
  return { record, now, revoked: true };
}

function revokeAll(memory: Memory, scope: RevokeScope, endedBy: EndedBy) {
  const now = timeOf(memory);
  const ids =
    "ids" in scope
      ? scope.ids
      : ownedBy(memory.sessions, scope)
          .map(({ id }) => id)
          .filter((id) => id !== scope.except);
  return { revoked: ids.filter((id) => revoke(memory, id, endedBy).revoked), now };
}

function update(memory: Memory, change: SessionUpdate): Stored<SessionRecord | undefined> {
  const now = timeOf(memory);
  const record = updateSession(memory.sessions, change, now);
  if (record !== undefined && change.claims !== undefined) {
    const { id: session, claimsVersion } = record;
    appendChange(memory.changes, { kind: "claims", session, claimsVersion, at: now });
  }
  return { record, now };
}

function list(
  memory: Memory,
  owner: SessionOwner,
  { cursor, limit }: { readonly cursor: string | undefined; readonly limit: number },
): SessionPage {
  const now = timeOf(memory);
  const place = cursor === undefined ? undefined : parseListCursor("memoryStore", cursor);
  const found = ownedBy(memory.sessions, owner)
    .filter((record) => isLive(record, now) && (place === undefined || isAfter(record, place)))
    .sort(newestFirst);
  return { ...cutPage(found, limit), now };
}

function signingKeys(memory: Memory) {
  const keys = [...memory.keys.values()].sort((a, b) => a.slot - b.slot);
  return { keys, now: timeOf(memory) };
}

function addSigningKey(memory: Memory, key: Omit<StoredSigningKey, "createdAt">): boolean {
  const createdAt = timeOf(memory);
  if (memory.keys.has(key.slot)) {
    return false;
  }
  memory.keys.set(key.slot, Object.freeze({ ...key, createdAt }));
  return true;
}

function removeSigningKeysBelow(memory: Memory, slot: number): void {
  for (const taken of memory.keys.keys()) {
    if (taken < slot) {
      memory.keys.delete(taken);
    }
  }
}

function prune(memory: Memory, limit: number): number {
  const now = timeOf(memory);
  return pruneChanges(memory.changes, limit, now) + pruneSessions(memory.sessions, limit, now);
}

function lease(
  memory: Memory,
  { name, holder, ttl }: { readonly name: string; readonly holder: string; readonly ttl: number },
): boolean {
  const now = timeOf(memory);
  const held = memory.leases.get(name);
  if (held !== undefined && held.holder !== holder && held.until > now) {
    return false;
  }
  memory.leases.set(name, { holder, until: now + ttl });
  return true;
}
