import type { SqlDatabase } from "./sql-schema.ts";

/**
 * Does a unit of work in one transaction. Whatever the default of the database is, on PostgreSQL
 * each statement sees all that was committed before it began: who waited for a lock must see what
 * was done under it. On SQLite the transaction holds the one write lock from its beginning.
 */
export function inTransaction<T>(
  database: SqlDatabase,
  work: (within: SqlDatabase) => Promise<T>,
): Promise<T> {
  const transaction = database.db.transaction();
  const { dialect } = database;
  return (
    dialect === "postgres" ? transaction.setIsolationLevel("read committed") : transaction
  ).execute((trx) => work({ ...database, db: trx }));
}
