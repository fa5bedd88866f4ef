import type { Inserted, SessionStore, StoredSigningKey } from "../../engine/store.ts";
import { type Connection, connection, type SqlBackend } from "./sql-connection.ts";
import { revokeSessions } from "./sql-ends.ts";
import { insertSession } from "./sql-inserts.ts";
import { takeLease } from "./sql-leases.ts";
import { listSessions } from "./sql-lists.ts";
import { prune } from "./sql-prune.ts";
import { type SqlDatabase, timeOf, toSigningKey } from "./sql-schema.ts";
import { confirmSession, loadSession, refreshSession, revokeSession } from "./sql-sessions.ts";
import { updateSession } from "./sql-updates.ts";
import { createWakes, type Wakes } from "../wakes.ts";

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
