import type {
  Advanced,
  AdvanceWrite,
  EndedBy,
  RefreshWrite,
  SessionPage,
  SessionRecord,
  SessionSelection,
  SessionUpdate,
  Stored,
  TokenFormat,
} from "../../engine/store.ts";
import { cutPage, parseListCursor } from "../common.ts";
import {
  type BigInteger,
  join,
  nothing,
  now,
  type Sql,
  type SqlDatabase,
  sql,
  timeOf,
} from "./database.ts";
import {
  live,
  type SessionRow,
  selectedBy,
  smaller,
  storedOrNone,
  sweepTime,
  type Timed,
  toSession,
  toStored,
} from "./rows.ts";

/** Reads a session; see `SessionStore.load`. */
export async function loadSession(
  database: SqlDatabase,
  id: string,
): Promise<Stored<SessionRecord | undefined>> {
  const row = await database.row<
    Timed<SessionRow>
  >`select *, ${now} as store_now from rpcsession_sessions where id = ${id}`;
  return storedOrNone(database, row);
}

/** Writes a refresh; see `SessionStore.refresh`. */
export async function refreshSession(
  database: SqlDatabase,
  write: RefreshWrite,
): Promise<Stored<SessionRecord | undefined>> {
  const idleEnd = smaller(sql`${now} + ${write.idle}`, sql`expires_at`);
  const row = await database.row<Timed<SessionRow>>`update rpcsession_sessions
      set ${generationAfter(write)}last_seen_at = ${now}, idle_expires_at = ${idleEnd},
        sweep_at = ${sweepTime(idleEnd)}
      where id = ${write.id} and generation = ${write.generation} and ${live}
      returning *, ${now} as store_now`;
  return storedOrNone(database, row);
}

/** Writes the common refresh; see `SessionStore.advance`. One statement, unless it does not hold. */
export async function advanceSession(
  database: SqlDatabase,
  write: AdvanceWrite,
): Promise<Advanced> {
  const { idle } = write;
  const idleEnd = smaller(
    sql`${now} + ${smaller(sql`${idle}`, sql`coalesce(idle_life, ${idle})`)}`,
    sql`expires_at`,
  );
  const row = await database.row<Timed<SessionRow>>`update rpcsession_sessions
      set generation = generation + 1, former_secret_id = secret_id, secret_id = ${write.nextSecretId},
        salt = '', confirmed_at = null, rotated_at = ${now}, sent_at = ${now}, prolonged = 0,
        last_seen_at = ${now}, idle_expires_at = ${idleEnd}, sweep_at = ${sweepTime(idleEnd)}
      where id = ${write.id} and generation = ${write.generation} and secret_id = ${write.secretId}
        and root_hash = ${write.rootHash} and transport = ${write.transport} and ${live}
        and confirmed_at < ${now} - ${write.overlap}
      returning *, ${now} as store_now`;
  return row === undefined
    ? { ...(await loadSession(database, write.id)), advanced: false }
    : { ...toStored(row), advanced: true };
}

/** Reads which formats of tokens all servers can read; see `SessionStore.tokenFormat`. */
export async function readTokenFormat(database: SqlDatabase): Promise<TokenFormat> {
  const row = await database.row<{
    readonly format: BigInteger;
  }>`select format from rpcsession_token_format`;
  return Number(row?.format) === 2 ? 2 : 1;
}

/** The assignments in which the kinds of a refresh differ. */
function generationAfter(write: RefreshWrite): Sql {
  switch (write.kind) {
    case "keep":
      return write.settle === null
        ? nothing
        : sql`confirmed_at = coalesce(confirmed_at,
            case when ${isSettled(write.settle)} then ${now} end), `;
    case "resend":
      return write.prolonged === null
        ? nothing
        : sql`sent_at = ${now}, prolonged = ${write.prolonged}, `;
    case "advance":
      return sql`generation = generation + 1, ${newGeneration(write)}`;
    case "forward":
      return sql`generation = ${write.to}, ${newGeneration(write)}`;
  }
}

function newGeneration(write: Extract<RefreshWrite, { readonly secretId: string }>): Sql {
  const { secretId, proof } = write;
  const former = write.kind === "advance" ? sql`secret_id` : sql`null`;
  const proven =
    proof === undefined
      ? nothing
      : sql`salt = ${proof.salt}, root_hash = ${proof.rootHash}, last_salted = ${proof.lastSalted}, `;
  return sql`${proven}former_secret_id = ${former}, confirmed_at = null, rotated_at = ${now}, sent_at = ${now}, prolonged = 0,
    secret_id = ${secretId}, `;
}

/** Confirms a generation; see `SessionStore.confirm`. */
export async function confirmSession(
  database: SqlDatabase,
  id: string,
  generation: number,
  settle: number,
): Promise<boolean> {
  const confirmed = await database.row`update rpcsession_sessions set confirmed_at = ${now}
      where id = ${id} and generation = ${generation} and revoked_at is null
        and confirmed_at is null and ${isSettled(settle)}
      returning id`;
  if (confirmed !== undefined) {
    return true;
  }
  const row = await database.row<
    Pick<SessionRow, "generation" | "confirmed_at" | "revoked_at">
  >`select generation, confirmed_at, revoked_at from rpcsession_sessions where id = ${id}`;
  if (row === undefined || row.revoked_at !== null || Number(row.generation) > generation) {
    return true;
  }
  // A generation ahead of the row was lost by the store, and may become current again.
  return Number(row.generation) === generation && row.confirmed_at !== null;
}

/**
 * The condition that a refresh token was sent at least `settle` milliseconds ago. A time in the future
 * counts as 0 ms ago, so a `settle` of 0 or less is always reached. Older versions write no `sent_at`.
 */
function isSettled(settle: number): Sql {
  const age = settle <= 0 ? -Number.MAX_SAFE_INTEGER : settle;
  return sql`rotated_at <= ${now} - ${age} and coalesce(sent_at, rotated_at) <= ${now} - ${age}`;
}

/** Ends a session; see `SessionStore.revoke`. */
export async function revokeSession(
  database: SqlDatabase,
  id: string,
  endedBy: EndedBy,
): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }> {
  return database.transaction(async (within) => {
    const row = await within.row<
      Timed<SessionRow> & { readonly revoked_at: BigInteger }
    >`update rpcsession_sessions set revoked_at = ${now}, ended_by = ${endedBy}
        where id = ${id} and revoked_at is null
        returning *, ${now} as store_now`;
    if (row === undefined) {
      return { ...(await loadSession(within, id)), revoked: false };
    }
    await within.rows`insert into rpcsession_changes (kind, session, ended_by, at)
      values ('revoked', ${id}, ${endedBy}, ${Number(row.revoked_at)})`;
    return { ...toStored(row), revoked: true };
  });
}

/** Writes an update; see `SessionStore.update`. */
export async function updateSession(
  database: SqlDatabase,
  change: SessionUpdate,
): Promise<Stored<SessionRecord | undefined>> {
  if (change.claims === undefined) {
    // One statement needs no transaction: that saves round trips to the database.
    return writeUpdate(database, change);
  }
  return database.transaction(async (within) => {
    const stored = await writeUpdate(within, change);
    if (stored.record !== undefined) {
      await within.rows`insert into rpcsession_changes (kind, session, claims_version, at)
        values ('claims', ${stored.record.id}, ${stored.record.claimsVersion}, ${stored.now})`;
    }
    return stored;
  });
}

async function writeUpdate(
  database: SqlDatabase,
  { id, version, claims, data }: SessionUpdate,
): Promise<Stored<SessionRecord | undefined>> {
  const raised = claims !== undefined || data !== undefined;
  const assignments = [
    sql`version = ${raised ? version + 1 : version}`,
    ...(claims
      ? [sql`claims = ${JSON.stringify(claims)}, claims_version = claims_version + 1`]
      : []),
    ...(data ? [sql`data = ${JSON.stringify(data)}`] : []),
  ];
  const row = await database.row<
    Timed<SessionRow>
  >`update rpcsession_sessions set ${join(assignments, ", ")}
      where id = ${id} and version = ${version} and ${live}
      returning *, ${now} as store_now`;
  return storedOrNone(database, row);
}

/** A page of a list. */
interface ListRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** Lists live sessions, newest first; see `SessionStore.list`. */
export async function listPage(
  database: SqlDatabase,
  selection: SessionSelection,
  { store, cursor, limit }: ListRead,
): Promise<SessionPage> {
  const { idByBytes } = database.dialect;
  const last = cursor === undefined ? undefined : parseListCursor(store, cursor);
  const afterLast =
    last === undefined
      ? nothing
      : sql` and (created_at, ${idByBytes}) < (${last.createdAt}, ${last.id})`;
  const rows = await database.rows<
    Timed<SessionRow>
  >`select *, ${now} as store_now from rpcsession_sessions
      where ${selectedBy(selection)} and ${live}${afterLast}
      order by created_at desc, ${idByBytes} desc
      limit ${limit + 1}`;
  const [first] = rows;
  return {
    ...cutPage(rows.map(toSession), limit),
    now: first === undefined ? await timeOf(database) : Number(first.store_now),
  };
}
