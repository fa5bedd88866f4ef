import { sql } from "kysely";
import type {
  Inserted,
  SessionOwner,
  SessionPage,
  SessionStore,
  StoredSigningKey,
} from "../../engine/store.ts";
import {
  createWakes,
  cutPage,
  keepChanges,
  keepEnded,
  parseListCursor,
  type Wakes,
} from "../common.ts";
import { type Connection, connection, type SqlBackend } from "./connection.ts";
import { revokeSessions } from "./ends.ts";
import { insertSession } from "./inserts.ts";
import {
  idByBytes,
  isLive,
  ownedBy,
  type SqlDatabase,
  timeOf,
  toSession,
  toSigningKey,
} from "./schema.ts";
import {
  confirmSession,
  loadSession,
  refreshSession,
  revokeSession,
  updateSession,
} from "./sessions.ts";

/** Takes or renews a lease; see `SessionStore.lease`. One statement, so that one of many gets it. */
export async function takeLease(
  { db, now }: SqlDatabase,
  { name, holder, ttl }: { readonly name: string; readonly holder: string; readonly ttl: number },
): Promise<boolean> {
  const time = now();
  const expires = sql<number>`${time} + ${ttl}`;
  const taken = await db
    .insertInto("rpcsession_leases")
    .values({ name, holder, expires_at: expires })
    .onConflict((conflict) =>
      conflict
        .column("name")
        .doUpdateSet({ holder, expires_at: expires })
        .where((is) =>
          is.or([
            is("rpcsession_leases.holder", "=", holder),
            is("rpcsession_leases.expires_at", "<=", time),
          ]),
        ),
    )
    .returning("name")
    .executeTakeFirst();
  return taken !== undefined;
}

/** Which page of a list is asked for. */
export interface ListRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** Lists live sessions; see `SessionStore.list`. */
export async function listSessions(
  database: SqlDatabase,
  owner: SessionOwner,
  { store, cursor, limit }: ListRead,
): Promise<SessionPage> {
  const time = database.now();
  const id = idByBytes(database.dialect);
  let query = database.db
    .selectFrom("rpcsession_sessions")
    .selectAll()
    .select(time.as("store_now"))
    .where(ownedBy(owner))
    .where(isLive(time));
  if (cursor !== undefined) {
    const last = parseListCursor(store, cursor);
    query = query.where(sql<boolean>`(created_at, ${id}) < (${last.createdAt}, ${last.id})`);
  }
  const rows = await query
    .orderBy("created_at", "desc")
    .orderBy(id, "desc")
    .limit(limit + 1)
    .execute();
  const now = rows[0] === undefined ? await timeOf(database) : Number(rows[0].store_now);
  return { ...cutPage(rows.map(toSession), limit), now };
}

// Each select reads a few rows of an index; and on PostgreSQL past the rows that another transaction
// is removing or writing, so that nobody waits for anybody's cleaning.

/** Removes outdated sessions and log entries; see `SessionStore.prune`. */
export async function prune(database: SqlDatabase, limit: number): Promise<number> {
  return database.db.transaction().execute(async (trx) => {
    const within = { ...database, db: trx };
    const sessions = await pruneSessions(within, limit);
    return sessions + (await pruneChanges(within, limit));
  });
}

async function pruneSessions({ db, dialect, now }: SqlDatabase, limit: number): Promise<number> {
  const before = sql<number>`${now()} - ${keepEnded}`;
  const some = db.selectFrom("rpcsession_sessions").select("id").limit(limit);
  const expired = some.where("idle_expires_at", "<", before).orderBy("idle_expires_at");
  const revoked = some.where("revoked_at", "<", before).orderBy("revoked_at");
  const gone = await db
    .with("expired", () => expired.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .with("revoked", () => revoked.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_sessions")
    .where("id", "in", (query) =>
      query
        .selectFrom("expired")
        .select("id")
        .union(query.selectFrom("revoked").select("id"))
        .limit(limit),
    )
    .returning("id")
    .execute();
  return gone.length;
}

async function pruneChanges({ db, dialect, now }: SqlDatabase, limit: number): Promise<number> {
  const old = db
    .selectFrom("rpcsession_changes")
    .select("number")
    .where("at", "<", sql<number>`${now()} - ${keepChanges}`)
    .orderBy("at")
    .limit(limit);
  const gone = await db
    .with("old", () => old.$if(dialect === "postgres", (q) => q.forUpdate().skipLocked()))
    .deleteFrom("rpcsession_changes")
    .where("number", "in", (query) => query.selectFrom("old").select("number"))
    .returning("number")
    .execute();
  return gone.length;
}

/**
 * A session store on a SQL database: the same statements for every dialect that knows `returning`.
 * It is opened once, with the clock of the first engine that opens it, and may be opened again
 * after it was closed.
 */
export function sqlStore(backend: SqlBackend): SessionStore {
  const wakes = createWakes();
  const connected = connection(backend, () => wakes.call());
  const use: Connection["use"] = (work) => connected.use(work);
  const { secret } = backend;
  return {
    name: backend.name,
    open: (context) => connected.open(context),
    close: () => connected.close(),
    ...(secret && { secret: () => use((database) => secret(database)) }),
    ...loggedWrites(use, wakes),
    load: (id) => use((database) => loadSession(database, id)),
    refresh: (write) => use((database) => refreshSession(database, write)),
    confirm: (id, generation, settle) =>
      use((database) => confirmSession(database, { id, generation, settle })),
    list: (owner, page) =>
      use((database) => listSessions(database, owner, { ...page, store: backend.name })),
    changes: (cursor, window) =>
      use((database) => backend.readChanges(database, { store: backend.name, cursor, window })),
    onChange(wake) {
      void connected.listen();
      return wakes.add(wake);
    },
    pushed: () => connected.pushed(),
    signingKeys: () => use(signingKeys),
    addSigningKey: (key) => use((database) => addSigningKey(database, key)),
    removeSigningKeysBelow: (slot) => use((database) => removeSigningKeysBelow(database, slot)),
    prune: (limit) => use((database) => prune(database, limit)),
    lease: (name, holder, ttl) => use((database) => takeLease(database, { name, holder, ttl })),
  };
}

/** The writes that may append to the change log; then they wake who waits for that. */
function loggedWrites(
  use: Connection["use"],
  wakes: Wakes,
): Pick<SessionStore, "insert" | "revoke" | "revokeAll" | "update"> {
  const write = async <T>(
    work: (database: SqlDatabase) => Promise<T>,
    logged: (answer: T) => boolean,
  ): Promise<T> => {
    const answer = await use(work);
    if (logged(answer)) {
      wakes.call();
    }
    return answer;
  };
  return {
    insert: (session) => write((database) => insertSession(database, session), endedAny),
    revoke: (id, endedBy) =>
      write(
        (database) => revokeSession(database, id, endedBy),
        ({ revoked }) => revoked,
      ),
    revokeAll: (scope, endedBy) =>
      write(
        (database) => revokeSessions(database, scope, endedBy),
        ({ revoked }) => revoked.length > 0,
      ),
    update: (change) =>
      write(
        (database) => updateSession(database, change),
        ({ record }) => record !== undefined && change.claims !== undefined,
      ),
  };
}

function endedAny(inserted: Inserted): boolean {
  return inserted.record !== undefined && (inserted.replaced || inserted.evicted.length > 0);
}

async function signingKeys(database: SqlDatabase) {
  const rows = await database.db
    .selectFrom("rpcsession_signing_keys")
    .selectAll()
    .orderBy("slot")
    .execute();
  return { keys: rows.map(toSigningKey), now: await timeOf(database) };
}

async function addSigningKey(
  { db, now }: SqlDatabase,
  key: Omit<StoredSigningKey, "createdAt">,
): Promise<boolean> {
  const added = await db
    .insertInto("rpcsession_signing_keys")
    .values({
      slot: key.slot,
      kid: key.kid,
      alg: key.alg,
      public_jwk: key.publicJwk,
      private_jwk: key.privateJwk,
      created_at: now(),
    })
    .onConflict((conflict) => conflict.column("slot").doNothing())
    .returning("slot")
    .executeTakeFirst();
  return added !== undefined;
}

async function removeSigningKeysBelow({ db }: SqlDatabase, slot: number): Promise<void> {
  await db.deleteFrom("rpcsession_signing_keys").where("slot", "<", slot).execute();
}
