import { sql } from "kysely";
import type { SessionRecord, SessionUpdate, Stored } from "../../engine/store.ts";
import { appendClaims } from "./sql-changes.ts";
import { isLive, noRecord, type SqlDatabase, toStored } from "./sql-schema.ts";
import { inTransaction } from "./sql-transaction.ts";

/** Writes an update; see `SessionStore.update`. */
export async function updateSession(
  database: SqlDatabase,
  change: SessionUpdate,
): Promise<Stored<SessionRecord | undefined>> {
  if (change.claims === undefined) {
    return write(database, change);
  }
  return inTransaction(database, async (within) => {
    const stored = await write(within, change);
    if (stored.record !== undefined) {
      await appendClaims(within, stored.record, stored.now);
    }
    return stored;
  });
}

async function write(
  database: SqlDatabase,
  { id, version, claims, data, device }: SessionUpdate,
): Promise<Stored<SessionRecord | undefined>> {
  const time = database.now();
  const raised = claims !== undefined || data !== undefined;
  const row = await database.db
    .updateTable("rpcsession_sessions")
    .set({
      version: raised ? version + 1 : version,
      ...(claims && {
        claims: JSON.stringify(claims),
        claims_version: sql<number>`claims_version + 1`,
      }),
      ...(data && { data: JSON.stringify(data) }),
      ...(device && { device: JSON.stringify(device) }),
    })
    .where("id", "=", id)
    .where("version", "=", version)
    .where(isLive(time))
    .returningAll()
    .returning(time.as("store_now"))
    .executeTakeFirst();
  return row === undefined ? noRecord(database) : toStored(row);
}
