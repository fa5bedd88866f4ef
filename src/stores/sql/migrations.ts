import { type Kysely, type SchemaModule, sql, type Transaction } from "kysely";
import type { SqlDatabase, SqlDialect, SqlSchema } from "./schema.ts";

/** Creates everything, as the first version has it. */
export async function createTables(
  { schema }: Kysely<SqlSchema>,
  dialect: SqlDialect,
): Promise<void> {
  await createSessions(schema);
  await createChanges(schema, dialect);
  await createSigningKeys(schema);
}

/** Adds what the second version has more: who does a piece of work that one at a time shall do. */
export async function createLeases({ schema }: Kysely<SqlSchema>): Promise<void> {
  await schema
    .createTable("rpcsession_leases")
    .addColumn("name", "text", (column) => column.primaryKey())
    .addColumn("holder", "text", (column) => column.notNull())
    .addColumn("expires_at", "bigint", (column) => column.notNull())
    .execute();
}

/** Adds what the third version has more: lives of their own, other claims, and lists by owner. */
export async function addOwnersAndClaims(
  db: Kysely<SqlSchema>,
  dialect: SqlDialect,
): Promise<void> {
  const { schema } = db;
  // One column at a time: SQLite takes no more.
  for (const column of ["access_life", "idle_life"]) {
    await schema.alterTable("rpcsession_sessions").addColumn(column, "bigint").execute();
  }
  await createOwnerIndexes(schema, dialect);
  const changes = () => schema.alterTable("rpcsession_changes");
  await changes().addColumn("claims_version", "bigint").execute();
  await (dialect === "postgres"
    ? changes()
        .alterColumn("ended_by", (column) => column.dropNotNull())
        .execute()
    : replaceEndedBy(db));
}

async function createChanges(schema: SchemaModule, dialect: SqlDialect): Promise<void> {
  const postgres = dialect === "postgres";
  await schema
    .createTable("rpcsession_changes")
    .addColumn("number", postgres ? "bigserial" : "integer", (column) =>
      postgres ? column.primaryKey() : column.primaryKey().autoIncrement(),
    )
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("session", "text", (column) => column.notNull())
    .addColumn("ended_by", "text", (column) => column.notNull())
    .addColumn("at", "bigint", (column) => column.notNull())
    .$call((table) =>
      // A default, so that an entry written by hand is found, too.
      postgres
        ? table.addColumn("xid", sql`xid8`, (column) =>
            column.notNull().defaultTo(sql`pg_current_xact_id()`),
          )
        : table,
    )
    .execute();
  if (postgres) {
    await schema
      .createIndex("rpcsession_changes_xid")
      .on("rpcsession_changes")
      .column("xid")
      .execute();
  }
  await schema.createIndex("rpcsession_changes_at").on("rpcsession_changes").column("at").execute();
}

async function createSigningKeys(schema: SchemaModule): Promise<void> {
  await schema
    .createTable("rpcsession_signing_keys")
    .addColumn("slot", "bigint", (column) => column.primaryKey())
    .addColumn("kid", "text", (column) => column.notNull())
    .addColumn("alg", "text", (column) => column.notNull())
    .addColumn("public_jwk", "text", (column) => column.notNull())
    .addColumn("private_jwk", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .execute();
}

async function createSessions(schema: SchemaModule): Promise<void> {
  await schema
    .createTable("rpcsession_sessions")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("user_id", "text", (column) => column.notNull())
    .addColumn("tenant_id", "text")
    .addColumn("transport", "text", (column) => column.notNull())
    .addColumn("salt", "text", (column) => column.notNull())
    .addColumn("secret_id", "text", (column) => column.notNull())
    .addColumn("generation", "bigint", (column) => column.notNull())
    .addColumn("confirmed_at", "bigint")
    .addColumn("rotated_at", "bigint", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("auth_time", "bigint", (column) => column.notNull())
    .addColumn("idle_expires_at", "bigint", (column) => column.notNull())
    .addColumn("expires_at", "bigint", (column) => column.notNull())
    .addColumn("claims", "text", (column) => column.notNull())
    .addColumn("claims_version", "bigint", (column) => column.notNull())
    .addColumn("data", "text", (column) => column.notNull())
    .addColumn("version", "bigint", (column) => column.notNull())
    .addColumn("device", "text", (column) => column.notNull())
    .addColumn("last_seen_at", "bigint", (column) => column.notNull())
    .addColumn("revoked_at", "bigint")
    .addColumn("ended_by", "text")
    .execute();
  await createSessionIndexes(schema);
}

async function createSessionIndexes(schema: SchemaModule): Promise<void> {
  await schema
    .createIndex("rpcsession_sessions_user")
    .on("rpcsession_sessions")
    .columns(["user_id", "created_at"])
    .execute();
  // The idle end never lies after the absolute one, so it alone tells which sessions are over.
  await schema
    .createIndex("rpcsession_sessions_end")
    .on("rpcsession_sessions")
    .column("idle_expires_at")
    .execute();
  await schema
    .createIndex("rpcsession_sessions_revoked")
    .on("rpcsession_sessions")
    .column("revoked_at")
    .where("revoked_at", "is not", null)
    .execute();
}

/** The order of lists: of what may be live, the newest first, equal times by the bytes of the id. */
async function createOwnerIndexes(schema: SchemaModule, dialect: SqlDialect): Promise<void> {
  const id = sql.raw(dialect === "postgres" ? 'id collate "C"' : "id");
  await schema.dropIndex("rpcsession_sessions_user").execute();
  for (const owner of ["user", "tenant"]) {
    await schema
      .createIndex(`rpcsession_sessions_${owner}`)
      .on("rpcsession_sessions")
      .columns([`${owner}_id`, "created_at"])
      .expression(id)
      .where(sql<boolean>`revoked_at is null`)
      .execute();
  }
}

/** Lets `ended_by` be null, for SQLite cannot change a column. */
async function replaceEndedBy(db: Kysely<SqlSchema>): Promise<void> {
  const changes = () => db.schema.alterTable("rpcsession_changes");
  await changes().renameColumn("ended_by", "former_ended_by").execute();
  await changes().addColumn("ended_by", "text").execute();
  await sql`update rpcsession_changes set ended_by = former_ended_by`.execute(db);
  await changes().dropColumn("former_ended_by").execute();
}

/** A step from one version of the tables to the next, in a transaction of its own. */
export type Migration = (db: Kysely<SqlSchema>, dialect: SqlDialect) => Promise<void>;

/** The steps, from version 1 on. Append only: a step that was released never changes. */
export const migrations: readonly Migration[] = [createTables, createLeases, addOwnersAndClaims];

/**
 * Brings the tables up to date. Each step is a transaction that begins by recording itself, so of
 * several servers that start at once exactly one takes it, and the others wait for that one. Where
 * nothing is to be done it only reads: a server needs no right to create tables that are there.
 *
 * @throws Error when the tables were made by a newer version of this package
 */
export async function migrate(store: string, database: SqlDatabase): Promise<void> {
  const applied = await appliedVersion(database);
  if (applied > migrations.length) {
    throw new Error(
      `${store}: the tables were made by a newer rpc-session (schema ${applied}, this one knows ${migrations.length}); upgrade this server`,
    );
  }
  if (applied === 0) {
    await database.db.transaction().execute(async (trx) => {
      await lockMigrations(database, trx);
      await createMigrationTable(trx);
    });
  }
  for (const [index, migration] of migrations.entries()) {
    const version = index + 1;
    if (version > applied) {
      await apply(database, version, migration);
    }
  }
}

/** Creates the table that keeps which steps were taken. */
export async function createMigrationTable({ schema }: Kysely<SqlSchema>): Promise<void> {
  await schema
    .createTable("rpcsession_migrations")
    .ifNotExists()
    .addColumn("version", "integer", (column) => column.primaryKey())
    .addColumn("applied_at", "bigint", (column) => column.notNull())
    .execute();
}

async function appliedVersion({ db, dialect }: SqlDatabase): Promise<number> {
  const found =
    dialect === "postgres"
      ? sql`select 1 where to_regclass('rpcsession_migrations') is not null`
      : sql`select 1 from sqlite_master where name = 'rpcsession_migrations'`;
  if ((await found.execute(db)).rows.length === 0) {
    return 0;
  }
  const row = await db
    .selectFrom("rpcsession_migrations")
    .select(({ fn }) => fn.max("version").as("version"))
    .executeTakeFirst();
  return Number(row?.version ?? 0);
}

/**
 * PostgreSQL's `create table if not exists` fails when two run at once, so there one waits for the
 * other. The number means nothing, and is this package's alone.
 */
async function lockMigrations(
  { dialect }: SqlDatabase,
  trx: Transaction<SqlSchema>,
): Promise<void> {
  if (dialect === "postgres") {
    await sql`select pg_advisory_xact_lock(7237113926510472019)`.execute(trx);
  }
}

async function apply(database: SqlDatabase, version: number, step: Migration): Promise<void> {
  await database.db.transaction().execute(async (trx) => {
    const first = await trx
      .insertInto("rpcsession_migrations")
      .values({ version, applied_at: database.now() })
      .onConflict((conflict) => conflict.column("version").doNothing())
      .returning("version")
      .executeTakeFirst();
    if (first !== undefined) {
      await step(trx, database.dialect);
    }
  });
}
