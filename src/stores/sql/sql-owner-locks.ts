import { type RawBuilder, sql } from "kysely";
import type { SessionOwner } from "../../engine/store.ts";
import type { SqlDatabase } from "./sql-schema.ts";

// Why there are locks: the end of all sessions of a user or a tenant, as a single update, would not
// see a session that is being inserted, and a count for a limit neither. There is no row that both
// could lock, for a user's first session has none beside it. So an insert holds its tenant and its
// user, shared, until it has committed; and who is about to end or count all of an owner's sessions
// holds the owner alone, and looks in a statement after that: by then every insert that came first is
// committed, and every other one waits.
//
// They are PostgreSQL's advisory locks of a transaction: nothing of them stays in the connection, so
// they work behind a pooler that shares it between transactions. SQLite has one writer at a time.
//
// No two transactions wait for each other: each takes at most one tenant and then at most one user,
// never the other way round, and the two kinds have numbers of their own. Two owners of the same
// hash, or of two schemas, share a lock: that costs time and nothing else. Rows are locked after.

/** Holds an owner until the transaction ends: an insert `shared`, who ends or counts all alone. */
export async function holdOwner(
  { db, dialect }: SqlDatabase,
  { userId, tenantId }: SessionOwner,
  user: Hold,
): Promise<void> {
  if (dialect !== "postgres") {
    return;
  }
  // Of a user within a tenant every insert holds the user, so to hold that one alone is enough.
  const tenant = userId === null ? "exclusive" : "shared";
  await sql`select ${onceHeld([
    ...(tenantId === null ? [] : [lockOf("tenant", tenantId, tenant)]),
    ...(userId === null ? [] : [lockOf("user", userId, user)]),
  ])}`.execute(db);
}

/** A value of an insert that is there once its owner is held, shared: in the same round trip. */
export function heldValue(
  { dialect }: SqlDatabase,
  { userId, tenantId }: SessionOwner & { readonly userId: string },
  value: string,
): RawBuilder<string> {
  return dialect === "postgres"
    ? onceHeld(
        [
          ...(tenantId === null ? [] : [lockOf("tenant", tenantId, "shared")]),
          lockOf("user", userId, "shared"),
        ],
        value,
      )
    : sql<string>`${value}`;
}

type Hold = "shared" | "exclusive";

// They mean nothing, and are this package's alone.
const numbers = { tenant: 1_850_417_267, user: 1_850_417_268 };

function lockOf(kind: keyof typeof numbers, id: string, hold: Hold): RawBuilder<unknown> {
  const key = sql`cast(${numbers[kind]} as integer), hashtext(${id})`;
  return hold === "shared"
    ? sql`pg_advisory_xact_lock_shared(${key})`
    : sql`pg_advisory_xact_lock(${key})`;
}

/** `case` evaluates its conditions in their order, and the value after them; none is ever null. */
function onceHeld(locks: readonly RawBuilder<unknown>[], value = ""): RawBuilder<string> {
  const conditions = locks.map((lock) => sql`when ${lock} is null then null`);
  return sql<string>`case ${sql.join(conditions, sql` `)} else ${value} end`;
}
