import type { Changes, SessionStore, StoreContext, StoredSigningKey } from "../session/store.ts";
import type { ChangesRead } from "./sql-changes.ts";
import { takeLease } from "./sql-leases.ts";
import { migrate } from "./sql-migrations.ts";
import { prune } from "./sql-prune.ts";
import { type SqlDatabase, timeOf, toSigningKey } from "./sql-schema.ts";
import {
  confirmSession,
  insertSession,
  loadSession,
  refreshSession,
  revokeSession,
} from "./sql-sessions.ts";
import { createWakes } from "./wakes.ts";

/** What a {@link sqlStore} is built on. */
export interface SqlBackend {
  /** The store's name, for messages. */
  readonly name: string;
  /** Connects. Called once, and again after it rejected or the store was closed. */
  connect(context: StoreContext): Promise<SqlDatabase>;
  /** Reads the change log, in the way that fits how the database orders its commits. */
  readonly readChanges: (database: SqlDatabase, read: ChangesRead) => Promise<Changes>;
  /** The secret kept beside the sessions, by stores that have a place for it. */
  readonly secret?: (database: SqlDatabase) => Promise<Uint8Array>;
}

/**
 * A session store on a SQL database: the same statements for every dialect that knows `returning`.
 * It is opened once, with the clock of the first engine that opens it, and may be opened again
 * after it was closed.
 */
export function sqlStore(backend: SqlBackend): SessionStore {
  const wakes = createWakes();
  const { open, close, use } = connection(backend);
  const { secret } = backend;
  return {
    name: backend.name,
    open,
    close,
    ...(secret && { secret: () => use((database) => secret(database)) }),
    async insert(session) {
      const stored = await use((database) => insertSession(database, session));
      if (stored.replaced) {
        wakes.call();
      }
      return stored;
    },
    load: (id) => use((database) => loadSession(database, id)),
    refresh: (write) => use((database) => refreshSession(database, write)),
    confirm: (id, generation, settle) =>
      use((database) => confirmSession(database, { id, generation, settle })),
    async revoke(id, endedBy) {
      const answer = await use((database) => revokeSession(database, id, endedBy));
      if (answer.revoked) {
        wakes.call();
      }
      return answer;
    },
    changes: (cursor, window) =>
      use((database) => backend.readChanges(database, { store: backend.name, cursor, window })),
    onChange: (wake) => wakes.add(wake),
    signingKeys: () => use(signingKeys),
    addSigningKey: (key) => use((database) => addSigningKey(database, key)),
    removeSigningKeysBelow: (slot) => use((database) => removeSigningKeysBelow(database, slot)),
    prune: (limit) => use((database) => prune(database, limit)),
    lease: (name, holder, ttl) => use((database) => takeLease(database, { name, holder, ttl })),
  };
}

interface Connection extends Pick<SessionStore, "open" | "close"> {
  /** Does a unit of work on the open database. */
  readonly use: <T>(work: (database: SqlDatabase) => Promise<T>) => Promise<T>;
}

function connection(backend: SqlBackend): Connection {
  let opening: Promise<SqlDatabase> | undefined;
  let holders = 0;
  return {
    async open(context) {
      opening ??= openDatabase(backend, context);
      const mine = opening;
      try {
        await mine;
        holders++;
      } catch (error) {
        // Only its own failure: by now another call may have begun to open it again.
        if (opening === mine) {
          opening = undefined;
        }
        throw error;
      }
    },
    async close() {
      holders = Math.max(0, holders - 1);
      if (holders > 0) {
        return;
      }
      const open = opening;
      opening = undefined;
      const database = await open?.catch(() => undefined);
      await database?.db.destroy();
    },
    async use(work) {
      if (opening === undefined) {
        throw new Error(`${backend.name}: the store is not open`);
      }
      const database = await opening;
      return database.attempt(() => work(database));
    },
  };
}

async function openDatabase(backend: SqlBackend, context: StoreContext): Promise<SqlDatabase> {
  const database = await backend.connect(context);
  try {
    await database.attempt(() => migrate(backend.name, database));
    return database;
  } catch (error) {
    await database.db.destroy();
    throw error;
  }
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
