import type {
  AuditedUser,
  AuditRecord,
  AuditRecords,
  NewAuditEntry,
  SessionRecord,
} from "../../engine/store.ts";
import { cutPage, isAfter, newestFirst, parseListCursor } from "../common.ts";

type Kept = AuditRecord & { readonly createdAt: number; readonly endsAt: number };

/** The audit log of a memory store. Every method is synchronous, and therefore atomic. */
export class MemoryAudit {
  readonly #byId = new Map<string, Kept>();

  /** See `SessionStore.appendAudit`. An entry whose user nobody knows is not kept: nobody could list it. */
  append(
    entries: readonly NewAuditEntry[],
    now: number,
    sessionOf: (id: string) => SessionRecord | undefined,
  ): void {
    for (const { age, keep, ...entry } of entries) {
      const owner = entry.userId === null ? sessionOf(entry.session) : entry;
      const at = now - Math.max(0, Math.round(age));
      if (owner?.userId != null && !this.#byId.has(entry.id)) {
        const { userId, tenantId } = owner;
        const detail = structuredClone(entry.detail);
        const times = { at, createdAt: at, endsAt: at + Math.round(keep) };
        this.#byId.set(entry.id, Object.freeze({ ...entry, userId, tenantId, detail, ...times }));
      }
    }
  }

  /** See `SessionStore.listAudit`. */
  list(
    user: AuditedUser,
    { cursor, limit }: { readonly cursor: string | undefined; readonly limit: number },
    now: number,
  ): AuditRecords {
    const place = cursor === undefined ? undefined : parseListCursor("memoryStore", cursor);
    const found = [...this.#byId.values()]
      .filter((entry) => isOf(entry, user) && entry.endsAt > now)
      .filter((entry) => place === undefined || isAfter(entry, place))
      .sort(newestFirst);
    const { records, ...rest } = cutPage(found, limit);
    return { records: records.map(toRecord), ...rest };
  }

  /** See `SessionStore.forgetAudit`. */
  forget(user: AuditedUser): void {
    for (const entry of [...this.#byId.values()]) {
      if (isOf(entry, user)) {
        this.#byId.delete(entry.id);
      }
    }
  }

  /** Drops entries that are no longer to be kept, at most `limit`, and returns how many. */
  prune(limit: number, now: number): number {
    const old = [...this.#byId.values()].filter(({ endsAt }) => endsAt <= now).slice(0, limit);
    for (const { id } of old) {
      this.#byId.delete(id);
    }
    return old.length;
  }
}

function isOf(entry: AuditRecord, { userId, tenantId }: AuditedUser): boolean {
  return entry.userId === userId && (tenantId === null || entry.tenantId === tenantId);
}

function toRecord({ id, at, event, session, userId, tenantId, detail }: Kept): AuditRecord {
  return { id, at, event, session, userId, tenantId, detail };
}
