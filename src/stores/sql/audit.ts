import type {
  AuditDetail,
  AuditEvent,
  AuditedUser,
  AuditRecord,
  AuditRecords,
  NewAuditEntry,
} from "../../engine/store.ts";
import { cutPage, parseListCursor } from "../common.ts";
import type { BigInteger, SqlDatabase } from "./database.ts";
import { join, nothing, now, type Sql, sql } from "./statement.ts";

/** Appends to the audit log; see `SessionStore.appendAudit`. */
export async function appendAudit(
  database: SqlDatabase,
  entries: readonly NewAuditEntry[],
): Promise<void> {
  if (entries.length === 0) {
    return;
  }
  const rows = entries.map(({ id, event, session, userId, tenantId, age, keep, detail }) => {
    const at = sql`${now} - ${Math.max(0, Math.round(age))}`;
    const owner =
      userId === null ? [ownerOf(session, sql`user_id`), ownerOf(session, sql`tenant_id`)] : [];
    const [user = sql`${userId}`, tenant = sql`${tenantId}`] = owner;
    return sql`(${id}, ${at}, ${at} + ${Math.round(keep)}, ${user}, ${tenant}, ${session},
      ${event}, ${JSON.stringify(detail)})`;
  });
  await database.rows`insert into rpcsession_audit
      (id, at, ends_at, user_id, tenant_id, session, event, detail)
      values ${join(rows, ", ")} on conflict (id) do nothing`;
}

function ownerOf(session: string, column: Sql): Sql {
  return sql`(select ${column} from rpcsession_sessions where id = ${session})`;
}

/** A page of the audit log. */
interface AuditRead {
  /** The store's name, for messages. */
  readonly store: string;
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** Lists the entries of a user; see `SessionStore.listAudit`. */
export async function listAudit(
  database: SqlDatabase,
  user: AuditedUser,
  { store, cursor, limit }: AuditRead,
): Promise<AuditRecords> {
  const { idByBytes } = database.dialect;
  const last = cursor === undefined ? undefined : parseListCursor(store, cursor);
  const afterLast =
    last === undefined ? nothing : sql` and (at, ${idByBytes}) < (${last.createdAt}, ${last.id})`;
  const rows = await database.rows<AuditRow>`select * from rpcsession_audit
      where ${entriesOf(user)} and ends_at > ${now}${afterLast}
      order by at desc, ${idByBytes} desc
      limit ${limit + 1}`;
  const found = rows.map((row) => ({ row, id: row.id, createdAt: Number(row.at) }));
  const { records, ...rest } = cutPage(found, limit);
  return { records: records.map(({ row }) => toRecord(row)), ...rest };
}

/** Removes the entries of a user; see `SessionStore.forgetAudit`. */
export async function forgetAudit(database: SqlDatabase, user: AuditedUser): Promise<void> {
  await database.rows`delete from rpcsession_audit where ${entriesOf(user)}`;
}

/** Removes entries that are no longer to be kept; returns how many. */
export async function pruneAudit(database: SqlDatabase, limit: number): Promise<number> {
  const removed = await database.rows`with old as (
        select id from rpcsession_audit where ends_at <= ${now}
        order by ends_at limit ${limit} ${database.dialect.forUpdateSkipLocked}
      )
      delete from rpcsession_audit where id in (select id from old)
      returning id`;
  return removed.length;
}

function entriesOf({ userId, tenantId }: AuditedUser): Sql {
  return tenantId === null
    ? sql`user_id = ${userId}`
    : sql`user_id = ${userId} and tenant_id = ${tenantId}`;
}

/** A row of `rpcsession_audit`. */
interface AuditRow {
  readonly id: string;
  readonly at: BigInteger;
  readonly user_id: string;
  readonly tenant_id: string | null;
  readonly session: string;
  readonly event: string;
  readonly detail: string;
}

function toRecord({ id, at, user_id, tenant_id, session, event, detail }: AuditRow): AuditRecord {
  return {
    ...{ id, at: Number(at), userId: user_id, tenantId: tenant_id, session },
    event: event as AuditEvent,
    detail: JSON.parse(detail) as AuditDetail,
  };
}
