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
import { type SqlBackend, type SqlDatabase, timeOf } from "./database.ts";
import { revokeSessions } from "./ends.ts";
import { insertSession } from "./insert.ts";
import {
  isLive,
  ownedBy,
  type SessionRow,
  type SigningKeyRow,
  type Timed,
  toSession,
  toSigningKey,
} from "./rows.ts";
import {
  confirmSession,
  loadSession,
  refreshSession,
  revokeSession,
  updateSession,
} from "./sessions.ts";
import { SharedDatabase } from "./shared-database.ts";
import { nothing, sql } from "./statement.ts";

/**
 * A session store on a SQL database that supports `returning`: the same statements for every
 * dialect. It runs on the clock of the first engine that opens it.
 *
 * Returns a plain object, so that a wrapper may spread it and replace some of its methods.
 */
export function sqlStore(backend: SqlBackend): SessionStore {
  const { name, dialect, secret } = backend;
  const wakes = createWakes();
  const shared = new SharedDatabase(backend, () => wakes.call());
  const use: Use = (work) => shared.use(work);
  return {
    name,
    open: (context) => shared.open(context),
    close: () => shared.close(),
    ...(secret && { secret: () => use((database) => secret(database)) }),
    ...loggedWrites(use, wakes),
    load: (id) => use((database) => loadSession(database, id)),
    refresh: (write) => use((database) => refreshSession(database, write)),
    confirm: (id, generation, settle) =>
      use((database) => confirmSession(database, { id, generation, settle })),
    list: (owner, page) =>
      use((database) => listSessions(database, owner, { ...page, store: name })),
    changes: (cursor, window) =>
      use((database) => dialect.readChanges(database, { store: name, cursor, window })),
    onChange(wake) {
      void shared.listen();
      return wakes.add(wake);
    },
    pushed: () => shared.pushed(),
    signingKeys: () => use(signingKeys),
    addSigningKey: (key) => use((database) => addSigningKey(database, key)),
    removeSigningKeysBelow: (slot) => use((database) => removeSigningKeysBelow(database, slot)),
    prune: (limit) => use((database) => prune(database, limit)),
    lease: (lease, holder, ttl) =>
      use((database) => takeLease(database, { name: lease, holder, ttl })),
  };
}

type Use = <T>(work: (database: SqlDatabase) => Promise<T>) => Promise<T>;

/** The writes that may append to the change log. If they did, they call the listeners. */
function loggedWrites(
  use: Use,
  wakes: Wakes,
): Pick<SessionStore, "insert" | "revoke" | "revokeAll" | "update"> {
  const wakeIf = (appended: boolean): void => {
    if (appended) {
      wakes.call();
    }
  };
  return {
    async insert(session) {
      const inserted = await use((database) => insertSession(database, session));
      wakeIf(endedAny(inserted));
      return inserted;
    },
    async revoke(id, endedBy) {
      const stored = await use((database) => revokeSession(database, id, endedBy));
      wakeIf(stored.revoked);
      return stored;
    },
    async revokeAll(scope, endedBy) {
      const ended = await use((database) => revokeSessions(database, scope, endedBy));
      wakeIf(ended.revoked.length > 0);
      return ended;
    },
    async update(change) {
      const stored = await use((database) => updateSession(database, change));
      wakeIf(stored.record !== undefined && change.claims !== undefined);
      return stored;
    },
  };
}

function endedAny(inserted: Inserted): boolean {
  return inserted.record !== undefined && (inserted.replaced || inserted.evicted.length > 0);
}

/** A page of a list. */
interface ListRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** Lists live sessions, newest first; see `SessionStore.list`. */
async function listSessions(
  database: SqlDatabase,
  owner: SessionOwner,
  { store, cursor, limit }: ListRead,
): Promise<SessionPage> {
  const now = database.now();
  const { idByBytes } = database.dialect;
  const last = cursor === undefined ? undefined : parseListCursor(store, cursor);
  const afterLast =
    last === undefined
      ? nothing
      : sql` and (created_at, ${idByBytes}) < (${last.createdAt}, ${last.id})`;
  const rows = await database.rows<Timed<SessionRow>>(
    sql`select *, ${now} as store_now from rpcsession_sessions
      where ${ownedBy(owner)} and ${isLive(now)}${afterLast}
      order by created_at desc, ${idByBytes} desc
      limit ${limit + 1}`,
  );
  const [first] = rows;
  return {
    ...cutPage(rows.map(toSession), limit),
    now: first === undefined ? await timeOf(database) : Number(first.store_now),
  };
}

// Pruning reads a few rows of an index, and skips the rows that another transaction is removing or
// writing, so that nobody waits for cleaning.

/** Removes outdated sessions and log entries; see `SessionStore.prune`. */
async function prune(database: SqlDatabase, limit: number): Promise<number> {
  return database.transaction(async (within) => {
    const sessions = await pruneSessions(within, limit);
    return sessions + (await pruneChanges(within, limit));
  });
}

async function pruneSessions(database: SqlDatabase, limit: number): Promise<number> {
  const before = sql`${database.now()} - ${keepEnded}`;
  const { forUpdateSkipLocked } = database.dialect;
  const removed = await database.rows(
    sql`with expired as (
        select id from rpcsession_sessions where idle_expires_at < ${before}
        order by idle_expires_at limit ${limit} ${forUpdateSkipLocked}
      ), revoked as (
        select id from rpcsession_sessions where revoked_at < ${before}
        order by revoked_at limit ${limit} ${forUpdateSkipLocked}
      )
      delete from rpcsession_sessions where id in (
        select id from expired union select id from revoked limit ${limit}
      )
      returning id`,
  );
  return removed.length;
}

async function pruneChanges(database: SqlDatabase, limit: number): Promise<number> {
  const before = sql`${database.now()} - ${keepChanges}`;
  const removed = await database.rows(
    sql`with old as (
        select number from rpcsession_changes where at < ${before}
        order by at limit ${limit} ${database.dialect.forUpdateSkipLocked}
      )
      delete from rpcsession_changes where number in (select number from old)
      returning number`,
  );
  return removed.length;
}

/** Takes or renews a lease; see `SessionStore.lease`. One statement, so that only one process gets it. */
async function takeLease(
  database: SqlDatabase,
  { name, holder, ttl }: { readonly name: string; readonly holder: string; readonly ttl: number },
): Promise<boolean> {
  const now = database.now();
  const expires = sql`${now} + ${ttl}`;
  const taken = await database.row(
    sql`insert into rpcsession_leases (name, holder, expires_at)
      values (${name}, ${holder}, ${expires})
      on conflict (name) do update set holder = ${holder}, expires_at = ${expires}
      where rpcsession_leases.holder = ${holder} or rpcsession_leases.expires_at <= ${now}
      returning name`,
  );
  return taken !== undefined;
}

async function signingKeys(database: SqlDatabase) {
  const rows = await database.rows<SigningKeyRow>(
    sql`select * from rpcsession_signing_keys order by slot`,
  );
  return { keys: rows.map(toSigningKey), now: await timeOf(database) };
}

/** Adds a signing key; see `SessionStore.addSigningKey`. */
async function addSigningKey(
  database: SqlDatabase,
  key: Omit<StoredSigningKey, "createdAt">,
): Promise<boolean> {
  const added = await database.row(
    sql`insert into rpcsession_signing_keys (slot, kid, alg, public_jwk, private_jwk, created_at)
      values (${key.slot}, ${key.kid}, ${key.alg}, ${key.publicJwk}, ${key.privateJwk},
        ${database.now()})
      on conflict (slot) do nothing
      returning slot`,
  );
  return added !== undefined;
}

async function removeSigningKeysBelow(database: SqlDatabase, slot: number): Promise<void> {
  await database.rows(sql`delete from rpcsession_signing_keys where slot < ${slot}`);
}
