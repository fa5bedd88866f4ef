import { retry } from "../../common.ts";
import {
  type BigInteger,
  type ChangeAllRows,
  type LongPart,
  type MigrationStep,
  type SqlConnection,
  type SqlConnections,
  SqlDatabase,
  type SqlDialect,
} from "../database.ts";
import { now } from "../statement.ts";

/**
 * Brings the tables up to date. Where nothing is to be done it only reads, so a server needs no
 * right to create tables that exist already.
 *
 * @throws Error when the tables were made by a newer version of this package that does not work
 *   beside this one, or when a step fails
 */
export async function migrate(
  store: string,
  dialect: SqlDialect,
  connections: SqlConnections,
): Promise<void> {
  // 1. Which steps were taken? Refuse tables that this version cannot work with.
  const found = await readSchema(new SqlDatabase(dialect, connections));
  refuseNewer(store, dialect, found);
  if (missingSteps(dialect, found).length === 0) {
    return;
  }

  // 2. Connect without the limits that are meant for calls, and wait until nobody else migrates.
  const unlimited = await connectAlone(dialect, connections);
  if (unlimited === undefined) {
    // Somebody else has done everything, perhaps a newer version.
    return migrate(store, dialect, connections);
  }
  const { migrationRetries: retries = unlimited.retries } = unlimited;
  try {
    const database = new SqlDatabase(dialect, unlimited);

    // 3. Create the tables that record the steps. Another server may have done everything meanwhile.
    await explained(store, {
      ...{ database, what: "creating the table that records the steps" },
      work: () => retry(retries, createRecords, database),
    });
    const current = await readSchema(database);
    refuseNewer(store, dialect, current);

    // 4. Take the missing steps, and finish those in which a server crashed.
    for (const { version, step } of missingSteps(dialect, current)) {
      await explained(store, {
        ...{ database, what: `step ${version} of the tables, "${step.name}",` },
        work: () => takeStep(database, retries, version, step),
      });
    }
  } finally {
    if (unlimited !== connections) {
      await unlimited.close();
    }
  }
}

function connectAlone(
  dialect: SqlDialect,
  connections: SqlConnections,
): Promise<SqlConnections | undefined> {
  const isDone = async (connection: SqlConnection): Promise<boolean> => {
    const found = await readSchema(new SqlDatabase(dialect, connections, connection));
    return missingSteps(dialect, found).length === 0;
  };
  return connections.forMigration?.(isDone) ?? Promise.resolve(connections);
}

/**
 * Returns the SQL that brings an empty database to the newest version, to be run by hand. Each step
 * is a transaction that records itself first. A step that was taken already fails as a whole and
 * changes nothing.
 */
export function migrationSql({ migrations, clockForPrint }: SqlDialect): string {
  const lines = recordTables.map((table) => `${table};`);
  for (const [index, step] of migrations.entries()) {
    const { name, compatibleFrom, transaction, afterwards = [] } = step;
    const version = index + 1;
    lines.push(
      `\n-- version ${version}`,
      "begin;",
      `insert into rpcsession_steps (version, name, compatible_from, begun_at, finished_at) values (${version}, '${name}', ${compatibleFrom}, ${clockForPrint}, ${clockForPrint});`,
      `insert into rpcsession_migrations (version, applied_at) values (${compatibleFrom}, ${clockForPrint}) on conflict (version) do nothing;`,
      ...transaction.map((statement) => `${statement};`),
      ...afterwards.flatMap(printPart),
      "commit;",
    );
  }
  return `${lines.join("\n")}\n`;
}

/** A part of a step as SQL for an empty database, which has no rows to change and nobody who waits. */
function printPart(part: LongPart): string[] {
  if ("index" in part) {
    return [`create index ${part.index} on ${part.on};`];
  }
  return "dropIndex" in part ? [`drop index ${part.dropIndex};`] : [];
}

/** What the tables say about themselves. */
interface Schema {
  /** The newest step that was taken or begun; 0 in an empty database. */
  readonly newest: number;
  /** A server that does not know this step must not start. */
  readonly compatibleFrom: number;
  isFinished(version: number): boolean;
}

async function readSchema(database: SqlDatabase): Promise<Schema> {
  const compatibleFrom = (await hasTable(database, "rpcsession_migrations"))
    ? await highest(database)
    : 0;
  const rows = (await hasTable(database, "rpcsession_steps"))
    ? await database.rows<StepRow>`select version, finished_at from rpcsession_steps`
    : [];
  const steps = new Map(rows.map((row) => [Number(row.version), row.finished_at !== null]));
  // Servers of before recorded their steps in `rpcsession_migrations`, each with everything it does.
  return {
    newest: Math.max(compatibleFrom, ...steps.keys()),
    compatibleFrom,
    isFinished: (version) => steps.get(version) ?? version <= compatibleFrom,
  };
}

interface StepRow {
  readonly version: BigInteger;
  readonly finished_at: BigInteger | null;
}

async function hasTable(database: SqlDatabase, name: string): Promise<boolean> {
  return (await database.row`${database.dialect.tableNamed(name)}`) !== undefined;
}

async function highest(database: SqlDatabase): Promise<number> {
  const row = await database.row<{
    readonly version: BigInteger | null;
  }>`select max(version) as version from rpcsession_migrations`;
  return Number(row?.version ?? 0);
}

/** @throws Error if this version knows too few steps to work with the tables */
function refuseNewer(
  store: string,
  { migrations }: SqlDialect,
  { newest, compatibleFrom }: Schema,
): void {
  if (compatibleFrom > migrations.length) {
    throw new Error(
      `${store}: the tables were made by a newer rpc-session (schema ${newest}, this version supports up to ${migrations.length}), and they work only with versions that know schema ${compatibleFrom}; upgrade this server`,
    );
  }
}

function missingSteps({ migrations }: SqlDialect, schema: Schema): NumberedStep[] {
  return migrations
    .map((step, index) => ({ version: index + 1, step }))
    .filter(({ version }) => !schema.isFinished(version));
}

interface NumberedStep {
  readonly version: number;
  readonly step: MigrationStep;
}

// Two tables. `rpcsession_steps` lists the steps. `rpcsession_migrations` is what a server of version
// 0.1 reads: it starts unless the highest number there is beyond its own schema. So this table gets
// the `compatible_from` of each step, and servers of all versions follow the same rule.
const recordTables = [
  `create table if not exists rpcsession_migrations (
    version integer primary key,
    applied_at bigint not null
  )`,
  `create table if not exists rpcsession_steps (
    version integer primary key,
    name text not null,
    compatible_from integer not null,
    begun_at bigint not null,
    finished_at bigint
  )`,
];

async function createRecords(database: SqlDatabase): Promise<void> {
  if (await hasTable(database, "rpcsession_steps")) {
    // Creating it "if not exists" would need the right to create tables.
    return;
  }
  await database.transaction(async (within) => {
    for (const table of recordTables) {
      await within.run(table);
    }
  });
}

interface Work {
  readonly database: SqlDatabase;
  /** What is done, for messages. */
  readonly what: string;
  readonly work: () => Promise<void>;
}

/** Does a part of a migration. @throws Error that says what failed and why, and what to do */
async function explained(store: string, { database, what, work }: Work): Promise<void> {
  try {
    await work();
  } catch (cause) {
    const { isLockTimeout, lockHolders } = database.dialect;
    const again = 'then start the server or run "rpc-session migrate" again, which continues there';
    if (!isLockTimeout(cause)) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`${store}: ${what} failed: ${reason}; mend that, ${again}`, { cause });
    }
    const row =
      lockHolders && (await database.row<{ readonly holders: string | null }>`${lockHolders}`);
    const by = row?.holders ? ` (${row.holders})` : "";
    throw new Error(
      `${store}: ${what} waited too long for a lock that another transaction holds${by}; end that transaction, ${again}`,
      { cause },
    );
  }
}

async function takeStep(
  database: SqlDatabase,
  retries: SqlConnections["retries"],
  version: number,
  step: MigrationStep,
): Promise<void> {
  // 1. The transaction records the step. Of several servers exactly one takes it; see `forMigration`.
  await retry(retries, takeTransaction, database, version, step);

  // 2. What takes long. A server that crashes here leaves the step unfinished, and the next one that
  // starts does all parts again.
  for (const part of step.afterwards ?? []) {
    await retry(retries, takePart, database, part);
  }

  // 3. Now servers need not look at this step again.
  await retry(retries, finishStep, database, version);
}

async function takeTransaction(
  database: SqlDatabase,
  version: number,
  { name, compatibleFrom, transaction }: MigrationStep,
): Promise<void> {
  const { shortLocks } = database.dialect;
  await database.transaction(async (within) => {
    if (shortLocks !== undefined) {
      await within.run(shortLocks);
    }
    const recorded =
      await within.row`insert into rpcsession_steps (version, name, compatible_from, begun_at)
        values (${version}, ${name}, ${compatibleFrom}, ${now})
        on conflict (version) do nothing
        returning version`;
    if (recorded === undefined) {
      return;
    }
    await within.rows`insert into rpcsession_migrations (version, applied_at)
        values (${compatibleFrom}, ${now})
        on conflict (version) do nothing`;
    for (const statement of transaction) {
      await within.run(statement);
    }
  });
}

async function finishStep(database: SqlDatabase, version: number): Promise<void> {
  await database.rows`update rpcsession_steps set finished_at = ${now} where version = ${version}`;
}

async function takePart(database: SqlDatabase, part: LongPart): Promise<void> {
  if ("index" in part) {
    await database.dialect.makeIndex(database, part);
  } else if ("dropIndex" in part) {
    await database.run(database.dialect.dropIndex(part.dropIndex));
  } else {
    await changeRows(database, part);
  }
}

/** How many rows one transaction changes at most: some ten milliseconds. */
const batchSize = 2_000;

/** Walks along the primary key, so that each batch reads only its own rows. */
async function changeRows(
  database: SqlDatabase,
  { inBatches: table, by, set, where }: ChangeAllRows,
): Promise<void> {
  for (let after = ""; ; ) {
    const batch = await database.row<{ readonly last: string | null }>`select max(${by}) as last
      from (select ${by} from ${table} where ${by} > ${after} order by ${by} limit ${batchSize}) as batch`;
    const last = batch?.last ?? null;
    if (last === null) {
      return;
    }
    await database.rows`update ${table} set ${set}
      where ${by} > ${after} and ${by} <= ${last} and (${where})`;
    after = last;
  }
}
