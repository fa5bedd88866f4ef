import { type RawBuilder, sql } from "kysely";
import type {
  EndedBy,
  RefreshWrite,
  SessionRecord,
  SessionUpdate,
  Stored,
} from "../../engine/store.ts";
import { appendClaims, appendRevoked } from "./changes.ts";
import { prepared } from "./prepared.ts";
import { inTransaction, isLive, noRecord, type SqlDatabase, smaller, toStored } from "./schema.ts";

/** Reads a session; see `SessionStore.load`. */
export async function loadSession(
  database: SqlDatabase,
  id: string,
): Promise<Stored<SessionRecord | undefined>> {
  const [row] = await load(database, "", { id });
  return row === undefined ? noRecord(database) : toStored(row);
}

/** Writes a refresh; see `SessionStore.refresh`. */
export async function refreshSession(
  database: SqlDatabase,
  write: RefreshWrite,
): Promise<Stored<SessionRecord | undefined>> {
  const [row] =
    write.kind === "keep" && write.settle !== null
      ? await refresh(database, "confirm", { ...write, settle: ageOf(write.settle) })
      : await refresh(database, write.kind, write);
  return row === undefined ? noRecord(database) : toStored(row);
}

/** Confirms a generation; see `SessionStore.confirm`. */
export async function confirmSession(
  database: SqlDatabase,
  use: { readonly id: string; readonly generation: number; readonly settle: number },
): Promise<boolean> {
  const { id, generation } = use;
  const [confirmed] = await confirm(database, "", { id, generation, settle: ageOf(use.settle) });
  if (confirmed !== undefined) {
    return true;
  }
  const row = await database.db
    .selectFrom("rpcsession_sessions")
    .where("id", "=", id)
    .select(["generation", "confirmed_at", "revoked_at"])
    .executeTakeFirst();
  if (row === undefined || row.revoked_at !== null || Number(row.generation) > generation) {
    return true;
  }
  // A generation ahead of the row was lost by the store; it may be current again one day.
  return Number(row.generation) === generation && row.confirmed_at !== null;
}

/** Ends a session; see `SessionStore.revoke`. */
export async function revokeSession(
  database: SqlDatabase,
  id: string,
  endedBy: EndedBy,
): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }> {
  return inTransaction(database, async (within) => {
    const ended = await end(within, id, endedBy);
    return ended === undefined
      ? { ...(await loadSession(within, id)), revoked: false }
      : { ...ended, revoked: true };
  });
}

const load = prepared((database, _form: "", { id }: { readonly id: string }) =>
  database.db
    .selectFrom("rpcsession_sessions")
    .where("id", "=", id)
    .selectAll()
    .select(database.now().as("store_now")),
);

/** What refreshes bind; each form reads its own part of it. */
type RefreshValues = Pick<RefreshWrite, "id" | "generation" | "idle"> & {
  readonly secretId?: string;
  readonly to?: number;
  readonly settle?: number | null;
};

const refresh = prepared(
  (database, form: RefreshWrite["kind"] | "confirm", write: RefreshValues) => {
    const now = database.now();
    return database.db
      .updateTable("rpcsession_sessions")
      .set({
        ...refreshed(form, write, now),
        last_seen_at: now,
        idle_expires_at: smaller(sql<number>`${now} + ${write.idle}`, sql<number>`expires_at`),
      })
      .where("id", "=", write.id)
      .where("generation", "=", write.generation)
      .where(isLive(now))
      .returningAll()
      .returning(now.as("store_now"));
  },
);

function refreshed(
  form: RefreshWrite["kind"] | "confirm",
  { to, secretId, settle }: RefreshValues,
  now: RawBuilder<number>,
) {
  switch (form) {
    case "keep":
      return {};
    case "confirm": {
      const settled = sql`rotated_at <= ${now} - ${settle}`;
      return {
        confirmed_at: sql<number>`coalesce(confirmed_at, case when ${settled} then ${now} end)`,
      };
    }
    case "advance":
    case "forward":
      return {
        generation: form === "advance" ? sql<number>`generation + 1` : to,
        confirmed_at: null,
        rotated_at: now,
        secret_id: secretId,
      };
  }
}

const confirm = prepared(
  (
    { db, now },
    _form: "",
    use: { readonly id: string; readonly generation: number; readonly settle: number },
  ) => {
    const time = now();
    return db
      .updateTable("rpcsession_sessions")
      .set({ confirmed_at: time })
      .where("id", "=", use.id)
      .where("generation", "=", use.generation)
      .where("revoked_at", "is", null)
      .where("confirmed_at", "is", null)
      .where(sql<boolean>`rotated_at <= ${time} - ${use.settle}`)
      .returning("id");
  },
);

/** A negative age counts as 0, and 0 is enough where nothing is asked for: any age will do. */
function ageOf(settle: number): number {
  return settle <= 0 ? -Number.MAX_SAFE_INTEGER : settle;
}

async function end(database: SqlDatabase, id: string, endedBy: EndedBy) {
  const time = database.now();
  const row = await database.db
    .updateTable("rpcsession_sessions")
    .set({ revoked_at: time, ended_by: endedBy })
    .where("id", "=", id)
    .where("revoked_at", "is", null)
    .returningAll()
    .returning(time.as("store_now"))
    .executeTakeFirst();
  if (row === undefined) {
    return undefined;
  }
  await appendRevoked(database, [id], { endedBy, at: Number(row.revoked_at) });
  return toStored(row);
}

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
  { id, version, claims, data }: SessionUpdate,
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
    })
    .where("id", "=", id)
    .where("version", "=", version)
    .where(isLive(time))
    .returningAll()
    .returning(time.as("store_now"))
    .executeTakeFirst();
  return row === undefined ? noRecord(database) : toStored(row);
}
