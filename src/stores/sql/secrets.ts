import type {
  KeysEntry,
  RecordedSecret,
  RecordedSecrets,
  SecretName,
  SessionStore,
} from "../../engine/store.ts";
import { maxSecrets } from "../common.ts";
import type { BigInteger, SqlDatabase } from "./database.ts";
import { live } from "./rows.ts";
import { join, now, sql } from "./statement.ts";

// What an incident needs: secrets that are recorded or dead, keys that are retired, all sessions.

/** Records secrets; see `SessionStore.recordSecrets`. */
export async function recordSecrets(
  database: SqlDatabase,
  secrets: readonly SecretName[],
): Promise<RecordedSecrets> {
  if (secrets.length === 0) {
    return readSecrets(database);
  }
  return database.transaction(async (within) => {
    for (const { id, issuer } of inOrder(secrets)) {
      await within.rows`insert into rpcsession_secrets (id, issuer, seen_at)
        values (${id}, ${issuer}, ${now})
        on conflict (id) do update set seen_at = ${now}`;
    }
    return cutSecrets(within);
  });
}

/** Declares secrets dead; see `SessionStore.retireSecrets`. */
export async function retireSecrets(
  database: SqlDatabase,
  secrets: readonly SecretName[],
): Promise<RecordedSecrets> {
  return database.transaction(async (within) => {
    for (const { id, issuer } of inOrder(secrets)) {
      await within.rows`insert into rpcsession_secrets (id, issuer, seen_at, dead_at)
        values (${id}, ${issuer}, ${now}, ${now})
        on conflict (id) do update set dead_at = coalesce(rpcsession_secrets.dead_at, ${now})`;
    }
    await announceKeys(within, "changed");
    return cutSecrets(within);
  });
}

/** Every transaction locks rows in this order, so that no two deadlock. */
function inOrder(secrets: readonly SecretName[]): readonly SecretName[] {
  return secrets.toSorted((a, b) => (a.id < b.id ? -1 : 1));
}

async function cutSecrets(database: SqlDatabase): Promise<RecordedSecrets> {
  const all = await readSecrets(database);
  if (all.secrets.length <= maxSecrets) {
    return all;
  }
  await database.rows`delete from rpcsession_secrets where id in (
      select id from rpcsession_secrets
      order by case when dead_at is null then 1 else 0 end, coalesce(dead_at, seen_at) desc, id
      limit ${all.secrets.length} offset ${maxSecrets}
    )`;
  return readSecrets(database);
}

async function readSecrets(database: SqlDatabase): Promise<RecordedSecrets> {
  // The join returns the time even if there is no secret.
  const rows = await database.rows<SecretRow>`select secret.*, ${now} as store_now
      from (select 1) as moment left join rpcsession_secrets as secret on true
      order by ${database.dialect.idByBytes}`;
  const secrets = rows.flatMap(({ id, issuer, seen_at, dead_at }): RecordedSecret[] =>
    id === null
      ? []
      : [
          {
            id,
            issuer,
            seenAt: Number(seen_at),
            deadAt: dead_at === null ? null : Number(dead_at),
          },
        ],
  );
  return { secrets, now: Number(rows[0]?.store_now) };
}

/** A row of `rpcsession_secrets`. All columns but the time are null if there is no secret. */
interface SecretRow {
  readonly id: string | null;
  readonly issuer: string;
  readonly seen_at: BigInteger;
  readonly dead_at: BigInteger | null;
  readonly store_now: BigInteger;
}

/** Removes signing keys by id; see `SessionStore.retireSigningKeys`. */
export async function retireSigningKeys(
  database: SqlDatabase,
  kids: readonly string[],
): Promise<readonly string[]> {
  if (kids.length === 0) {
    return [];
  }
  return database.transaction(async (within) => {
    const listed = join(
      kids.map((kid) => sql`${kid}`),
      ", ",
    );
    const gone = await within.rows<{
      readonly kid: string;
    }>`delete from rpcsession_signing_keys where kid in (${listed}) returning kid`;
    if (gone.length > 0) {
      await announceKeys(within, "changed");
    }
    return gone.map(({ kid }) => kid);
  });
}

/** Appends to the change log that secrets or keys changed; see `SessionStore.announceKeys`. */
export async function announceKeys(
  database: SqlDatabase,
  change: KeysEntry["change"],
): Promise<void> {
  // The entry concerns no session, so that column holds the change.
  await database.rows`insert into rpcsession_changes (kind, session, at)
      values ('keys', ${change}, ${now})`;
}

/** Returns ids of live sessions; see `SessionStore.liveIds`. */
export async function liveIds(
  database: SqlDatabase,
  cursor: string | undefined,
  limit: number,
): ReturnType<SessionStore["liveIds"]> {
  const { idByBytes } = database.dialect;
  const after = cursor === undefined ? sql`true` : sql`${idByBytes} > ${cursor}`;
  const rows = await database.rows<{
    readonly id: string;
  }>`select id from rpcsession_sessions where ${live} and ${after}
      order by ${idByBytes} limit ${limit}`;
  const ids = rows.map(({ id }) => id);
  const last = ids[limit - 1];
  return { ids, ...(last === undefined ? {} : { cursor: last }) };
}
