import type {
  AdvanceWrite,
  EndedBy,
  KeysEntry,
  LogEntry,
  SessionStore,
  StoreContext,
} from "../../engine/store.ts";
import { retry, splitLog } from "../common.ts";
import { Gathering } from "../gathering.ts";
import { ChangeListeners, type Push } from "../push.ts";
import { appendAudit, forgetAudit, listAudit } from "./audit.ts";
import { type ChangeRow, type SqlBackend, type SqlConnections, SqlDatabase } from "./database.ts";
import { revokeAllSessions } from "./ends.ts";
import { insertSession } from "./insert.ts";
import { migrate } from "./migration/migrate.ts";
import {
  announceKeys,
  liveIds,
  recordSecrets,
  retireSecrets,
  retireSigningKeys,
} from "./secrets.ts";
import {
  advanceInTurn,
  advanceSession,
  advanceSessions,
  confirmSessions,
  listPage,
  loadSession,
  readTokenFormat,
  refreshSession,
  revokeSession,
  updateSession,
} from "./sessions.ts";
import {
  addSigningKey,
  prune,
  readSigningKeys,
  removeSigningKeysBelow,
  takeLease,
} from "./upkeep.ts";

/**
 * A session store on a SQL database that supports `returning`: the same statements for every
 * dialect.
 *
 * Several engines may open it. The first one connects, and its clock stays; the last one that closes
 * it disconnects. Then it may be opened again.
 *
 * The methods are own properties, so that a store can be wrapped: `{ ...store, load }`.
 */
export class SqlStore implements SessionStore {
  readonly name: string;
  // `declare`: a store without a secret must not have the property at all.
  declare readonly secret?: () => Promise<Uint8Array>;
  readonly #backend: SqlBackend;
  readonly #listeners = new ChangeListeners();
  #opening: Promise<OpenDatabase> | undefined;
  #push: Push | undefined;
  #holders = 0;

  constructor(backend: SqlBackend) {
    this.name = backend.name;
    this.#backend = backend;
    const { secret } = backend;
    if (secret !== undefined) {
      this.secret = () => this.#use(secret);
    }
  }

  // Opening and closing.

  readonly open: SessionStore["open"] = async (context) => {
    this.#opening ??= this.#openDatabase(context);
    const mine = this.#opening;
    try {
      await mine;
      this.#holders++;
    } catch (error) {
      // Forgets only the attempt that failed: another call may have started a new one meanwhile.
      if (this.#opening === mine) {
        this.#opening = undefined;
      }
      throw error;
    }
  };

  /** Opens the database: the whole story, from nothing to a store that can be used. */
  async #openDatabase(context: StoreContext): Promise<OpenDatabase> {
    // 1. Connect: PostgreSQL makes or borrows a pool, SQLite opens the file.
    const connections = await this.#backend.connect(context);
    try {
      // 2. Create the tables, bring them to this version, or refuse those that need a newer one.
      const { dialect } = this.#backend;
      await retry(connections.retries, migrate, this.name, dialect, connections);
      // 3. Each connection prepares a statement when it first runs it.
      // 4. Listening begins with the first listener; see `onChange`.
      const database = new SqlDatabase(dialect, connections);
      return { connections, database, advance: advancing(database, connections, context) };
    } catch (error) {
      await connections.close();
      throw error;
    }
  }

  readonly close: SessionStore["close"] = async () => {
    this.#holders = Math.max(0, this.#holders - 1);
    if (this.#holders > 0) {
      return;
    }
    const opening = this.#opening;
    this.#opening = undefined;
    this.#push?.close();
    this.#push = undefined;
    const opened = await opening?.catch(() => undefined);
    await opened?.connections.close();
  };

  /** Does a unit of work on the open database, and again when the database asks for that. */
  async #use<Given extends readonly unknown[], T>(
    work: (database: SqlDatabase, ...given: Given) => Promise<T>,
    ...given: Given
  ): Promise<T> {
    const { connections, database } = await this.#opened();
    return retry(connections.retries, work, database, ...given);
  }

  async #opened(): Promise<OpenDatabase> {
    if (this.#opening === undefined) {
      throw new Error(`${this.name}: the store is not open; call open() first`);
    }
    return this.#opening;
  }

  // Sessions. A write that appended to the change log says so with `#changed`.

  readonly insert: SessionStore["insert"] = async (session) => {
    const inserted = await this.#use(insertSession, session);
    const { record } = inserted;
    if (record !== undefined && (inserted.replaced || inserted.evicted.length > 0)) {
      this.#changed();
    }
    return inserted;
  };

  readonly load: SessionStore["load"] = (id) => this.#use(loadSession, id);

  readonly refresh: SessionStore["refresh"] = (write) => this.#use(refreshSession, write);

  readonly advance: NonNullable<SessionStore["advance"]> = async (write) =>
    (await this.#opened()).advance(write);

  readonly tokenFormat: NonNullable<SessionStore["tokenFormat"]> = () => this.#use(readTokenFormat);

  readonly confirm: SessionStore["confirm"] = (uses) => this.#use(confirmSessions, uses);

  readonly revoke: SessionStore["revoke"] = async (id, endedBy) => {
    const stored = await this.#use(revokeSession, id, endedBy);
    if (stored.revoked) {
      this.#changed();
    }
    return stored;
  };

  readonly revokeAll: SessionStore["revokeAll"] = async (scope, endedBy) => {
    const ended = await this.#use(revokeAllSessions, scope, endedBy);
    if (ended.revoked.length > 0) {
      this.#changed();
    }
    return ended;
  };

  readonly update: SessionStore["update"] = async (change) => {
    const stored = await this.#use(updateSession, change);
    if (stored.record !== undefined && change.claims !== undefined) {
      this.#changed();
    }
    return stored;
  };

  readonly list: SessionStore["list"] = (selection, page) =>
    this.#use(listPage, selection, { ...page, store: this.name });

  // The change log.

  readonly changes: SessionStore["changes"] = async (cursor, window) => {
    const { readChanges } = this.#backend.dialect;
    const { rows, ...read } = await this.#use(readChanges, { store: this.name, cursor, window });
    return { ...read, ...splitLog(toEntries(rows)) };
  };

  readonly onChange: SessionStore["onChange"] = (wake) => {
    void this.#listen();
    return this.#listeners.add(wake);
  };

  /**
   * Call it after a commit that appended to the change log. Wakes the readers of this process, and
   * notifies other processes. If this process ends in between, they find the entries when they poll.
   */
  #changed(): void {
    this.#listeners.call();
    void this.#opening?.then(({ connections }) => connections.announce?.());
  }

  /** Listens for what other processes append, until the store is closed. Does nothing a second time. */
  async #listen(): Promise<void> {
    const opening = this.#opening;
    const opened = await opening?.catch(() => undefined);
    // The store may have been closed meanwhile.
    if (opening === this.#opening) {
      this.#push ??= opened?.connections.listen?.(this.#listeners.call);
    }
  }

  readonly pushed: NonNullable<SessionStore["pushed"]> = () => this.#push?.connected();

  // Signing keys and upkeep.

  readonly signingKeys: SessionStore["signingKeys"] = () => this.#use(readSigningKeys);

  readonly addSigningKey: SessionStore["addSigningKey"] = (key) => this.#use(addSigningKey, key);

  readonly removeSigningKeysBelow: SessionStore["removeSigningKeysBelow"] = (slot) =>
    this.#use(removeSigningKeysBelow, slot);

  // Secrets, and what an incident needs.

  readonly recordSecrets: SessionStore["recordSecrets"] = (secrets) =>
    this.#use(recordSecrets, secrets);

  readonly retireSecrets: SessionStore["retireSecrets"] = async (secrets) => {
    const recorded = await this.#use(retireSecrets, secrets);
    this.#changed();
    return recorded;
  };

  readonly retireSigningKeys: SessionStore["retireSigningKeys"] = async (kids) => {
    const retired = await this.#use(retireSigningKeys, kids);
    if (retired.length > 0) {
      this.#changed();
    }
    return retired;
  };

  readonly announceKeys: SessionStore["announceKeys"] = async (change) => {
    await this.#use(announceKeys, change);
    this.#changed();
  };

  readonly liveIds: SessionStore["liveIds"] = (cursor, limit) => this.#use(liveIds, cursor, limit);

  // The audit log.

  readonly appendAudit: NonNullable<SessionStore["appendAudit"]> = (entries) =>
    this.#use(appendAudit, entries);

  readonly listAudit: NonNullable<SessionStore["listAudit"]> = (user, page) =>
    this.#use(listAudit, user, { ...page, store: this.name });

  readonly forgetAudit: NonNullable<SessionStore["forgetAudit"]> = (user) =>
    this.#use(forgetAudit, user);

  readonly prune: SessionStore["prune"] = (limit) => this.#use(prune, limit);

  readonly lease: SessionStore["lease"] = (name, holder, ttl) =>
    this.#use(takeLease, name, holder, ttl);
}

interface OpenDatabase {
  readonly connections: SqlConnections;
  readonly database: SqlDatabase;
  readonly advance: NonNullable<SessionStore["advance"]>;
}

/** Returns what writes common refreshes: one that comes alone, or many that come at the same time. */
function advancing(
  database: SqlDatabase,
  { retries }: SqlConnections,
  { clock }: StoreContext,
): NonNullable<SessionStore["advance"]> {
  const { advancesOf } = database.dialect;
  const one = (write: AdvanceWrite) => retry(retries, advanceSession, database, write);
  const many = (writes: readonly AdvanceWrite[]) =>
    advancesOf === undefined
      ? retry(retries, advanceInTurn, database, writes)
      : retry(retries, advanceSessions, database, advancesOf, writes);
  const gathering = new Gathering({ clock, one, many });
  return (write) => gathering.add(write);
}

/** Reads rows as entries; skips rows without an entry. */
function toEntries(rows: readonly ChangeRow[]): (LogEntry | KeysEntry)[] {
  return rows.flatMap(
    ({ kind, session, ended_by, claims_version, at }): (LogEntry | KeysEntry)[] => {
      if (session === null) {
        return [];
      }
      if (kind === "keys") {
        return [{ kind, change: session === "rotate" ? "rotate" : "changed", at: Number(at) }];
      }
      const common = { session, at: Number(at) };
      return kind === "claims"
        ? [{ kind, ...common, claimsVersion: Number(claims_version) }]
        : [{ kind: "revoked", ...common, endedBy: ended_by as EndedBy }];
    },
  );
}
