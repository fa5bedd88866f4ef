// Why there are locks on owners.
//
// Ending all sessions of a user or a tenant is a single update. It would not see a session that is
// being inserted; nor would a count for a limit. They have no common row to lock, because the first
// session of a user has no other row. The same is true of external ids.
//
// So an insert holds its tenant, its user and its external ids, shared, until it has committed. A
// revocation or a count of all sessions of an owner holds that owner exclusively, and reads in a later
// statement: by then every earlier insert has committed, and every later one waits.
//
// On PostgreSQL these are advisory locks of the transaction. They leave nothing in the connection, so
// they work behind a pooler that shares connections between transactions. SQLite has one writer at a
// time and needs no such locks.
//
// No deadlock is possible between them. Each transaction takes at most one tenant lock, then at most
// one user lock, then those of external ids, and each kind has a key space of its own. An insert takes
// several locks of external ids, all of them shared; a revocation takes one and no other lock. Two
// owners with the same hash, or in two schemas, share a lock; that costs time and nothing else. Row
// locks are taken afterwards.

import type { ExternalKey, NewSession, RevokeScope, SessionOwner } from "../../engine/store.ts";
import { externalKeysOf } from "../common.ts";
import type { Hold, SqlDatabase } from "./database.ts";
import { join, type Sql, sql } from "./statement.ts";

/**
 * Holds what a new session belongs to until the transaction ends.
 *
 * @param hold `exclusive` to count all sessions of the user
 */
export async function holdNew(
  database: SqlDatabase,
  session: NewSession,
  hold: Hold,
): Promise<void> {
  await take(database, (lock) => [
    ...ownerLocks(lock, session, hold),
    ...externalLocks(lock, session),
  ]);
}

/** Holds the owner or the external id whose sessions are to end, until the transaction ends. */
export async function holdSelected(
  database: SqlDatabase,
  scope: Exclude<RevokeScope, { readonly ids: readonly string[] }>,
): Promise<void> {
  await take(database, (lock) =>
    "external" in scope
      ? [lock("externalId", lockedText(scope.external), "exclusive")]
      : ownerLocks(lock, scope, "exclusive"),
  );
}

type Lock = NonNullable<SqlDatabase["dialect"]["ownerLock"]>;

async function take(database: SqlDatabase, locks: (lock: Lock) => readonly Sql[]): Promise<void> {
  const lock = database.dialect.ownerLock;
  if (lock !== undefined) {
    await database.rows`select ${afterLocks(locks(lock), "")}`;
  }
}

function ownerLocks(lock: Lock, { userId, tenantId }: SessionOwner, hold: Hold): readonly Sql[] {
  // For a user within a tenant the user's lock is enough, since every insert takes that one, too.
  const tenantHold = userId === null ? "exclusive" : "shared";
  return [
    ...(tenantId === null ? [] : [lock("tenant", tenantId, tenantHold)]),
    ...(userId === null ? [] : [lock("user", userId, hold)]),
  ];
}

function externalLocks(lock: Lock, { externalId }: NewSession): readonly Sql[] {
  return externalKeysOf(externalId)
    .filter(({ by }) => by !== "subWithoutSid")
    .map((key) => lock("externalId", lockedText(key), "shared"));
}

/** The sessions without a `sid` are among those of their `sub`. */
function lockedText({ by, issuer, id }: ExternalKey): string {
  return `${by === "sid" ? "sid" : "sub"} ${issuer} ${id}`;
}

/**
 * The id of a new session as a value that takes its locks, shared, before it is inserted: in the same
 * statement, which saves a round trip.
 */
export function idHolding({ dialect }: SqlDatabase, session: NewSession): Sql {
  const lock = dialect.ownerLock;
  return lock === undefined
    ? sql`${session.id}`
    : afterLocks(
        [...ownerLocks(lock, session, "shared"), ...externalLocks(lock, session)],
        session.id,
      );
}

/** `case` evaluates its conditions in order, and the value after them. No lock is ever null. */
function afterLocks(locks: readonly Sql[], value: string): Sql {
  const conditions = locks.map((lock) => sql`when ${lock} is null then null`);
  return sql`case ${join(conditions, " ")} else ${value} end`;
}
