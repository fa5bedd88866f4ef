import type {
  Advanced,
  AdvanceWrite,
  EndedBy,
  GenerationUse,
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
  FixedStatement,
  type SqlDatabase,
  type SqlDialect,
  timeOf,
} from "./database.ts";
import {
  live,
  liveById,
  moment,
  notEnded,
  type SessionRow,
  selectedBy,
  smaller,
  storedOrNone,
  sweepTime,
  type Timed,
  toSession,
  toStored,
} from "./rows.ts";
import { join, names, nothing, now, type Sql, sql } from "./statement.ts";

/** Reads a session; see `SessionStore.load`. */
export async function loadSession(
  database: SqlDatabase,
  id: string,
): Promise<Stored<SessionRecord | undefined>> {
  const row = await database.row<
    Timed<SessionRow>
  >`select *, ${moment(database)} from rpcsession_sessions where id = ${id}`;
  return storedOrNone(database, row);
}

/** Writes a refresh; see `SessionStore.refresh`. */
export async function refreshSession(
  database: SqlDatabase,
  write: RefreshWrite,
): Promise<Stored<SessionRecord | undefined>> {
  const idleEnd = smaller(sql`${now} + ${write.idle}`, sql`expires_at`);
  const row = await database.row<Timed<SessionRow>>`update rpcsession_sessions
      set ${generationAfter(write)}${boundAfter(write)}last_seen_at = ${now}, idle_expires_at = ${idleEnd},
        sweep_at = ${sweepTime(idleEnd)}
      where id = ${write.id} and generation = ${write.generation} and ${liveById}
      returning *, ${moment(database)}`;
  return storedOrNone(database, row);
}

/** Writes the common refresh; see `SessionStore.advance`. One statement, unless it does not hold. */
export async function advanceSession(
  database: SqlDatabase,
  write: AdvanceWrite,
): Promise<Advanced> {
  const given = { ...write, boundKey: write.boundKey ?? "" };
  const row = await database.rowOf<AdvancedRow, typeof given>(advanceById, given);
  return row === undefined
    ? { ...(await loadSession(database, write.id)), advanced: false }
    : toAdvanced(row, write);
}

const advanceById = new FixedStatement<AdvanceWrite & { readonly boundKey: string }>(
  [
    "id",
    "generation",
    "secretId",
    "rootHash",
    "transport",
    "boundKey",
    "overlap",
    "idle",
    "nextSecretId",
  ],
  (dialect, given) => sql`update rpcsession_sessions
      set ${advancing(dialect, given)} where ${mayAdvance(given)}
      returning ${advancedColumns(dialect)}`,
);

/** Writes common refreshes in one transaction, so that they wait for the disk once. */
export function advanceInTurn(
  database: SqlDatabase,
  writes: readonly AdvanceWrite[],
): Promise<readonly (Advanced | undefined)[]> {
  return database.transaction(async (within) => {
    const results: (Advanced | undefined)[] = [];
    for (const write of writes) {
      results.push(await ifReadable(() => advanceSession(within, write)));
    }
    return results;
  });
}

/**
 * Writes common refreshes in one statement. Skips those whose condition does not hold, and those whose
 * row another transaction has locked, so that nobody waits for a session of somebody else.
 */
export async function advanceSessions(
  database: SqlDatabase,
  advancesOf: NonNullable<SqlDialect["advancesOf"]>,
  writes: readonly AdvanceWrite[],
): Promise<readonly (Advanced | undefined)[]> {
  const { forUpdateSkipLocked } = database.dialect;
  const rows = await database.rows<AdvancedRow & { readonly place: BigInteger }>`with due as (
        select used.place, used.idle, used.next_secret_id, held.id as held_id
        from ${advancesOf(JSON.stringify(writes.map(toUsed)))} cross join lateral (
          select id from rpcsession_sessions where ${mayAdvance(usedColumns)} ${forUpdateSkipLocked}
        ) as held
        where ${expectsOneRow}
      )
      update rpcsession_sessions set ${advancing(database.dialect, dueColumns)} from due where id = held_id
      returning place, ${advancedColumns(database.dialect)}`;
  const advanced = new Map(rows.map((row) => [Number(row.place), row]));
  const read = async (write: AdvanceWrite, place: number) => {
    const row = advanced.get(place);
    return row && ifReadable(() => toAdvanced(row, write));
  };
  return Promise.all(writes.map(read));
}

/**
 * Reads a session; undefined if its JSON cannot be read. Then its refresh is done again alone, so that the
 * error fails no other one.
 */
async function ifReadable(read: () => Advanced | Promise<Advanced>): Promise<Advanced | undefined> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

/** The assignments of a common refresh. */
function advancing(
  { least }: SqlDialect,
  { idle, nextSecretId }: Readonly<Record<"idle" | "nextSecretId", Sql>>,
): Sql {
  const idleEnd = sql`${least}(${now} + ${least}(${idle}, coalesce(idle_life, ${idle})), expires_at)`;
  return sql`generation = generation + 1, former_secret_id = secret_id, secret_id = ${nextSecretId},
        salt = '', confirmed_at = null, rotated_at = ${now}, sent_at = ${now}, prolonged = 0,
        last_seen_at = ${now}, idle_expires_at = ${idleEnd}, sweep_at = ${sweepTime(idleEnd)}`;
}

/** The condition of a common refresh. */
function mayAdvance(
  write: Readonly<Record<Exclude<keyof AdvanceWrite, "idle" | "nextSecretId">, Sql>>,
): Sql {
  return sql`id = ${write.id} and generation = ${write.generation} and secret_id = ${write.secretId}
        and root_hash = ${write.rootHash} and transport = ${write.transport}
        and coalesce(bound_key, '') = ${write.boundKey} and ${liveById}
        and confirmed_at < ${now} - ${write.overlap}`;
}

/** What the rows of a JSON array of writes are called in SQL; see `SqlDialect.advancesOf`. */
function toUsed(write: AdvanceWrite, place: number) {
  return {
    ...{ place, id: write.id, generation: write.generation, secret_id: write.secretId },
    ...{ root_hash: write.rootHash, transport: write.transport, bound_key: write.boundKey ?? "" },
    ...{ overlap: write.overlap, idle: write.idle, next_secret_id: write.nextSecretId, kind: 1 },
  };
}

const usedColumns = {
  ...{ id: sql`used.id`, generation: sql`used.generation`, secretId: sql`used.secret_id` },
  ...{ rootHash: sql`used.root_hash`, transport: sql`used.transport` },
  ...{ boundKey: sql`used.bound_key`, overlap: sql`used.overlap` },
};

const dueColumns = { idle: sql`due.idle`, nextSecretId: sql`due.next_secret_id` };

/**
 * True of every write. PostgreSQL expects 100 rows of a function, and would rather read a small table in
 * full, and keep that plan when the table has grown. With an equation it expects one row of them.
 */
const expectsOneRow: Sql = sql`used.kind = 1`;

/** What the database returns of a session that has advanced: the rest is known from the write. */
const advancedNames = [
  ...(["user_id", "tenant_id", "last_salted", "created_at", "auth_time"] as const),
  ...(["idle_expires_at", "expires_at", "access_life", "idle_life", "lineage"] as const),
  ...(["external_issuer", "external_sid", "external_sub", "authentication"] as const),
  ...(["claims", "claims_version", "data", "version", "device"] as const),
] as const;

type AdvancedColumns = Pick<SessionRow, (typeof advancedNames)[number]>;
/** The order of the values in a packed row. */
const packedNames: readonly string[] = [...advancedNames, "store_now", "store_history"];
/** As columns, or as one column, `packed`: a JSON array. */
type AdvancedRow = Timed<AdvancedColumns> | { readonly packed: string };

function advancedColumns(dialect: SqlDialect): Sql {
  const { jsonArray, history } = dialect;
  const columns = names(advancedNames);
  return jsonArray === undefined
    ? sql`${columns}, ${moment({ dialect })}`
    : sql`cast(${jsonArray}(${columns}, ${now}, ${history}) as text) as packed`;
}

function unpacked({ packed }: { readonly packed: string }): Timed<AdvancedColumns> {
  const values = JSON.parse(packed) as readonly unknown[];
  const row: Record<string, unknown> = {};
  for (const [place, name] of packedNames.entries()) {
    row[name] = values[place];
  }
  return row as unknown as Timed<AdvancedColumns>;
}

function toAdvanced(found: AdvancedRow, write: AdvanceWrite): Advanced {
  const row = "packed" in found ? unpacked(found) : found;
  return { ...toStored(Object.assign(row, writtenBy(write, row.store_now))), advanced: true };
}

function writtenBy(write: AdvanceWrite, at: BigInteger) {
  return {
    ...{ id: write.id, transport: write.transport, bound_key: write.boundKey ?? null },
    ...{ salt: "", root_hash: write.rootHash },
    ...{ secret_id: write.nextSecretId, former_secret_id: write.secretId },
    ...{ generation: write.generation + 1, confirmed_at: null, rotated_at: at },
    ...{ sent_at: at, prolonged: 0, last_seen_at: at, revoked_at: null, ended_by: null },
  };
}

/** Reads which formats of tokens all servers can read; see `SessionStore.tokenFormat`. */
export async function readTokenFormat(database: SqlDatabase): Promise<TokenFormat> {
  const row = await database.row<{
    readonly format: BigInteger;
  }>`select format from rpcsession_token_format`;
  return Number(row?.format) === 2 ? 2 : 1;
}

/** The key that the session is bound to from now on, if that changes. */
function boundAfter({ boundKey }: RefreshWrite): Sql {
  return boundKey === undefined ? nothing : sql`bound_key = ${boundKey}, `;
}

/** The assignments in which the kinds of a refresh differ. */
function generationAfter(write: RefreshWrite): Sql {
  switch (write.kind) {
    case "keep":
      return write.settle === null
        ? nothing
        : sql`confirmed_at = coalesce(confirmed_at,
            case when ${wasSent(write.settle)} then ${now} end), `;
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

/** The condition that the refresh token was sent at least `settle` milliseconds ago. */
function wasSent(settle: number): Sql {
  const age = settle <= 0 ? -Number.MAX_SAFE_INTEGER : settle;
  return sql`rotated_at <= ${now} - ${age} and coalesce(sent_at, rotated_at) <= ${now} - ${age}`;
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

/**
 * Confirms generations; see `SessionStore.confirm`. Reads first: of several servers that notice the same
 * uses, only one has something to write.
 */
export async function confirmSessions(
  database: SqlDatabase,
  uses: readonly GenerationUse[],
): Promise<readonly boolean[]> {
  const done = new Map<string, boolean>();
  const look = async (): Promise<readonly GenerationUse[]> => {
    const open = uses.filter(({ session }) => !done.has(session));
    const found = new Map(
      (await readStates(database, open)).map((state) => [state.session, state]),
    );
    return open.filter(({ session, generation }) => {
      const state = found.get(session);
      const isDue =
        state !== undefined && isCurrent(state, generation) && Number(state.settled) === 1;
      if (!isDue || state.confirmed_at !== null) {
        done.set(session, isDone(state, generation));
      }
      return !done.has(session);
    });
  };

  // 1. Which of them are to be confirmed?
  const due = await look();
  if (due.length > 0) {
    // 2. Confirm those.
    for (const { id } of await writeConfirmations(database, due)) {
      done.set(id, true);
    }
    // 3. Another server was faster, or a refresh came between.
    const missed = done.size < uses.length ? await look() : [];
    for (const { session } of missed) {
      done.set(session, false);
    }
  }
  return uses.map(({ session }) => done.get(session) ?? false);
}

type UseState = Pick<SessionRow, "generation" | "confirmed_at" | "revoked_at"> & {
  readonly session: string;
  /** 1 or 0. */
  readonly settled: BigInteger;
};

async function readStates(
  database: SqlDatabase,
  uses: readonly GenerationUse[],
): Promise<readonly UseState[]> {
  return database.rows<UseState>`select used.session, held.generation, held.confirmed_at,
        held.revoked_at, case when ${isSettled} then 1 else 0 end as settled
      from ${usesOf(database, uses)} join rpcsession_sessions as held on held.id = used.session`;
}

/** Locks the rows in the order that everyone keeps to. */
async function writeConfirmations(
  database: SqlDatabase,
  uses: readonly GenerationUse[],
): Promise<readonly Pick<SessionRow, "id">[]> {
  const { idByBytes, forUpdateOfHeld } = database.dialect;
  return database.rows`with due as (
        select id from ${usesOf(database, uses)}
        join rpcsession_sessions as held on held.id = used.session and held.generation = used.generation
        where ${notEnded} and confirmed_at is null and ${isSettled}
        order by created_at, ${idByBytes} ${forUpdateOfHeld}
      )
      update rpcsession_sessions set confirmed_at = ${now} where id in (select id from due)
      returning id`;
}

function usesOf(database: SqlDatabase, uses: readonly GenerationUse[]): Sql {
  const rows = uses.map(({ session, generation, settle }) => ({
    session,
    generation,
    age: settle <= 0 ? -Number.MAX_SAFE_INTEGER : Math.ceil(settle),
  }));
  return database.dialect.usesOf(JSON.stringify(rows));
}

function isCurrent({ generation, revoked_at }: UseState, used: number): boolean {
  return revoked_at === null && Number(generation) === used;
}

/** Whether a generation is confirmed, or never can be. */
function isDone(state: UseState | undefined, used: number): boolean {
  if (state === undefined || state.revoked_at !== null || Number(state.generation) > used) {
    return true;
  }
  // A generation ahead of the row was lost by the store, and may become current again.
  return Number(state.generation) === used && state.confirmed_at !== null;
}

/**
 * The condition that the refresh token of `held` was sent at least `used.age` milliseconds ago. A time in
 * the future counts as 0 ms ago. Older versions write no `sent_at`.
 */
const isSettled: Sql = sql`held.rotated_at <= ${now} - used.age
  and coalesce(held.sent_at, held.rotated_at) <= ${now} - used.age`;

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
        where id = ${id} and ${notEnded}
        returning *, ${moment(database)}`;
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
      where id = ${id} and version = ${version} and ${liveById}
      returning *, ${moment(database)}`;
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
  >`select *, ${moment(database)} from rpcsession_sessions
      where ${selectedBy(selection)} and ${live}${afterLast}
      order by created_at desc, ${idByBytes} desc
      limit ${limit + 1}`;
  const [first] = rows;
  return {
    ...cutPage(rows.map(toSession), limit),
    now: first === undefined ? await timeOf(database) : Number(first.store_now),
  };
}
