import type { SessionOwner, SessionRecord } from "../../engine/store.ts";

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
