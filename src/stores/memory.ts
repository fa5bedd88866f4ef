import type { Clock } from "../clock.ts";
import type {
  Change,
  Changes,
  EndedBy,
  NewSession,
  SessionRecord,
  SessionStore,
  Stored,
  StoredSigningKey,
} from "../session/store.ts";
import { formatCursor, parseCursor } from "./change-cursor.ts";
import {
  beginSession,
  confirmSession,
  keepSession,
  type MemorySessions,
  pruneSessions,
  refreshSession,
} from "./memory-sessions.ts";
import { keepChanges } from "./retention.ts";
import { createWakes, type Wakes } from "./wakes.ts";

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
    sessions: { byId: new Map(), walk: undefined },
    changes: [],
    lastChange: 0,
    keys: new Map(),
    leases: new Map(),
    wakes: createWakes(),
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
    changes: async (cursor, window) => changes(memory, cursor, window),
    onChange: (wake) => memory.wakes.add(wake),
    signingKeys: async () => ({
      now: timeOf(memory),
      keys: [...memory.keys.values()].sort((a, b) => a.slot - b.slot),
    }),
    addSigningKey: async (key) => addSigningKey(memory, key),
    removeSigningKeysBelow: async (slot) => removeSigningKeysBelow(memory, slot),
    prune: async (limit) => prune(memory, limit),
    lease: async (name, holder, ttl) => lease(memory, { name, holder, ttl }),
  };
}

interface Memory {
  clock: Clock | undefined;
  readonly sessions: MemorySessions;
  readonly changes: { readonly number: number; readonly change: Change }[];
  lastChange: number;
  readonly keys: Map<number, StoredSigningKey>;
  readonly leases: Map<string, { readonly holder: string; readonly until: number }>;
  readonly wakes: Wakes;
}

function timeOf(memory: Memory): number {
  if (memory.clock === undefined) {
    throw new Error("memoryStore: open() has not been called");
  }
  return memory.clock.now();
}

function insert(
  memory: Memory,
  session: NewSession,
): Stored<SessionRecord> & { readonly replaced: boolean } {
  const now = timeOf(memory);
  if (memory.sessions.byId.has(session.id)) {
    throw new Error("memoryStore: the session id is taken");
  }
  // First, because it throws on claims that are no JSON, and then nothing may have changed.
  const record = beginSession(session, now);
  const { replaces } = session;
  const replaced = replaces !== null && revoke(memory, replaces, "replaced").revoked;
  return { record: keepSession(memory.sessions, record), now, replaced };
}

function revoke(memory: Memory, id: string, endedBy: EndedBy) {
  const now = timeOf(memory);
  const old = memory.sessions.byId.get(id);
  if (old === undefined || old.revokedAt !== null) {
    return { record: old, now, revoked: false };
  }
  const record = keepSession(memory.sessions, { ...old, revokedAt: now, endedBy });
  memory.lastChange += 1;
  const change: Change = Object.freeze({ kind: "revoked", session: id, endedBy, at: now });
  memory.changes.push({ number: memory.lastChange, change });
  memory.wakes.call();
  return { record, now, revoked: true };
}

function changes(memory: Memory, cursor: string | undefined, window: number): Changes {
  const now = timeOf(memory);
  const seen = cursor === undefined ? 0 : parseCursor("memoryStore", cursor);
  const wanted = memory.changes.filter(({ number, change }) =>
    cursor === undefined ? change.at >= now - window : number > seen,
  );
  const entries = wanted.map(({ change }) => change);
  return { entries, cursor: formatCursor(memory.lastChange), now };
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
  const fresh = memory.changes.findIndex(({ change }) => change.at >= now - keepChanges);
  const old = fresh < 0 ? memory.changes.length : fresh;
  const { length } = memory.changes.splice(0, Math.min(old, limit));
  return length + pruneSessions(memory.sessions, limit, now);
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
