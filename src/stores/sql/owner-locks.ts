// Why there are locks on owners.
//
// Ending all sessions of a user or a tenant is a single update. It would not see a session that is
// being inserted; nor would a count for a limit. They have no common row to lock, because the first
// session of a user has no other row.
//
// So an insert holds its tenant and its user, shared, until it has committed. A revocation or a count
// of all sessions of an owner holds that owner exclusively, and reads in a later statement: by then
// every earlier insert has committed, and every later one waits.
//
// On PostgreSQL these are advisory locks of the transaction. They leave nothing in the connection, so
// they work behind a pooler that shares connections between transactions. SQLite has one writer at a
// time and needs no such locks.
//
// No deadlock is possible between them. Each transaction takes at most one tenant lock and then at
// most one user lock, never the other way round, and the two kinds have key spaces of their own. Two
// owners with the same hash, or in two schemas, share a lock; that costs time and nothing else. Row
// locks are taken afterwards.

import type { SessionOwner } from "../../engine/store.ts";
import { type Hold, join, type Sql, type SqlDatabase, sql } from "./database.ts";

/**
 * Holds an owner until the transaction ends.
 *
 * @param hold `shared` for an insert, `exclusive` to end or count all sessions of the owner
 */
export async function holdOwner(
  database: SqlDatabase,
  { userId, tenantId }: SessionOwner,
  hold: Hold,
): Promise<void> {
  const lock = database.dialect.ownerLock;
  if (lock === undefined) {
    return;
  }
  // For a user within a tenant the user's lock is enough, since every insert takes that one, too.
  const tenantHold = userId === null ? "exclusive" : "shared";
  const locks = [
    ...(tenantId === null ? [] : [lock("tenant", tenantId, tenantHold)]),
    ...(userId === null ? [] : [lock("user", userId, hold)]),
  ];
  await database.rows`select ${afterLocks(locks, "")}`;
}

/**
 * A value for an insert that takes the owner's locks, shared, before it is inserted: in the same
 * statement, which saves a round trip.
 */
export function valueHolding(
  { dialect }: SqlDatabase,
  { userId, tenantId }: SessionOwner & { readonly userId: string },
  value: string,
): Sql {
  const lock = dialect.ownerLock;
  if (lock === undefined) {
    return sql`${value}`;
  }
  return afterLocks(
    [
      ...(tenantId === null ? [] : [lock("tenant", tenantId, "shared")]),
      lock("user", userId, "shared"),
    ],
    value,
  );
}

/** `case` evaluates its conditions in order, and the value after them. No lock is ever null. */
function afterLocks(locks: readonly Sql[], value: string): Sql {
  const conditions = locks.map((lock) => sql`when ${lock} is null then null`);
  return sql`case ${join(conditions, " ")} else ${value} end`;
}
