import type { Transaction } from "kysely";
import type { SqlDatabase, SqlSchema } from "./sql-schema.ts";

/**
 * Brings the tables up to date. Each step is a transaction that begins by recording itself, so of
 * several servers that start at once exactly one takes it, and the others wait for that one.
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
  for (const [index, migration] of migrations.entries()) {
    const version = index + 1;
    if (version > applied) {
      await apply(database, version, migration);
    }
  }
}

type Migration = (database: SqlDatabase, trx: Transaction<SqlSchema>) => Promise<void>;

// Append only: a step that was released never changes.
const migrations: readonly Migration[] = [createTables];

async function appliedVersion({ db }: SqlDatabase): Promise<number> {
  await db.schema
    .createTable("rpcsession_migrations")
    .ifNotExists()
    .addColumn("version", "integer", (column) => column.primaryKey())
    .addColumn("applied_at", "bigint", (column) => column.notNull())
    .execute();
  const row = await db
    .selectFrom("rpcsession_migrations")
    .select(({ fn }) => fn.max("version").as("version"))
    .executeTakeFirst();
  return Number(row?.version ?? 0);
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
      await step(database, trx);
    }
  });
}

async function createTables(
  database: SqlDatabase,
  { schema }: Transaction<SqlSchema>,
): Promise<void> {
  await createSessions(schema);
  await schema
    .createTable("rpcsession_changes")
    .addColumn("number", database.serial === "bigserial" ? "bigserial" : "integer", (column) =>
      database.serial === "bigserial" ? column.primaryKey() : column.primaryKey().autoIncrement(),
    )
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("session", "text", (column) => column.notNull())
    .addColumn("ended_by", "text", (column) => column.notNull())
    .addColumn("at", "bigint", (column) => column.notNull())
    .execute();
  await schema.createIndex("rpcsession_changes_at").on("rpcsession_changes").column("at").execute();
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

async function createSessions(schema: Transaction<SqlSchema>["schema"]): Promise<void> {
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

async function createSessionIndexes(schema: Transaction<SqlSchema>["schema"]): Promise<void> {
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
