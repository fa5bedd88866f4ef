import type { StoredSigningKey } from "../../engine/store.ts";
import { keepChanges, keepEnded } from "../common.ts";
import { pruneAudit } from "./audit.ts";
import type { SqlDatabase } from "./database.ts";
import { sweepTime } from "./rows.ts";
import { now, sql } from "./statement.ts";

// Pruning reads a few rows of an index, and skips the rows that another transaction is removing or
// writing, so that nobody waits for cleaning.

/** Removes outdated sessions and log entries; see `SessionStore.prune`. */
export async function prune(database: SqlDatabase, limit: number): Promise<number> {
  return database.transaction(async (within) => {
    const sessions = await pruneSessions(within, limit);
    const putOff = await putOffSweeps(within, limit);
    const changes = await pruneChanges(within, limit);
    const leases = await pruneLeases(within, limit);
    return sessions + putOff + changes + leases + (await pruneAudit(within, limit));
  });
}

async function pruneSessions(database: SqlDatabase, limit: number): Promise<number> {
  const before = sql`${now} - ${keepEnded}`;
  const { forUpdateSkipLocked } = database.dialect;
  const removed = await database.rows`with expired as (
        select id from rpcsession_sessions where sweep_at <= ${now}
        order by sweep_at limit ${limit} ${forUpdateSkipLocked}
      ), revoked as (
        select id from rpcsession_sessions where revoked_at < ${before}
        order by revoked_at limit ${limit} ${forUpdateSkipLocked}
      )
      delete from rpcsession_sessions where id in (
        select id from expired union select id from revoked limit ${limit}
      ) and (idle_expires_at < ${before} or revoked_at < ${before})
      returning id`;
  return removed.length;
}

/**
 * Corrects the time at which to look at sessions again. Older servers insert sessions without that
 * time, which then is 0, and refresh sessions without moving it.
 */
async function putOffSweeps(database: SqlDatabase, limit: number): Promise<number> {
  const putOff = await database.rows`with outdated as (
        select id from rpcsession_sessions where sweep_at <= ${now}
        order by sweep_at limit ${limit} ${database.dialect.forUpdateSkipLocked}
      )
      update rpcsession_sessions set sweep_at = ${sweepTime(sql`idle_expires_at`)}
      where id in (select id from outdated) and idle_expires_at >= ${now} - ${keepEnded}
      returning id`;
  return putOff.length;
}

async function pruneChanges(database: SqlDatabase, limit: number): Promise<number> {
  const before = sql`${now} - ${keepChanges}`;
  const removed = await database.rows`with old as (
        select number from rpcsession_changes where at < ${before}
        order by at limit ${limit} ${database.dialect.forUpdateSkipLocked}
      )
      delete from rpcsession_changes where number in (select number from old)
      returning number`;
  return removed.length;
}

async function pruneLeases(database: SqlDatabase, limit: number): Promise<number> {
  const removed = await database.rows`with over as (
        select name from rpcsession_leases where expires_at <= ${now}
        order by expires_at limit ${limit} ${database.dialect.forUpdateSkipLocked}
      )
      delete from rpcsession_leases where name in (select name from over) and expires_at <= ${now}
      returning name`;
  return removed.length;
}

/** Takes or renews a lease; see `SessionStore.lease`. One statement, so that only one process gets it. */
export async function takeLease(
  database: SqlDatabase,
  name: string,
  holder: string,
  ttl: number,
): Promise<boolean> {
  const expires = sql`${now} + ${ttl}`;
  const taken = await database.row`insert into rpcsession_leases (name, holder, expires_at)
      values (${name}, ${holder}, ${expires})
      on conflict (name) do update set holder = ${holder}, expires_at = ${expires}
      where rpcsession_leases.holder = ${holder} or rpcsession_leases.expires_at <= ${now}
      returning name`;
  return taken !== undefined;
}

/** Reads all signing keys; see `SessionStore.signingKeys`. */
export async function readSigningKeys(
  database: SqlDatabase,
): Promise<{ readonly keys: readonly StoredSigningKey[]; readonly now: number }> {
  // The join returns the time even if there is no key.
  const rows = await database.rows<SigningKeyRow>`select key.*, ${now} as store_now
      from (select 1) as moment left join rpcsession_signing_keys as key on true
      order by slot`;
  const keys: StoredSigningKey[] = [];
  for (const { slot, kid, alg, public_jwk, private_jwk, created_at } of rows) {
    if (slot !== null) {
      keys.push({
        ...{ slot: Number(slot), kid, alg, publicJwk: public_jwk, privateJwk: private_jwk },
        createdAt: Number(created_at),
      });
    }
  }
  return { keys, now: Number(rows[0]?.store_now) };
}

/** A row of `rpcsession_signing_keys`. All columns but the time are null if there is no key. */
interface SigningKeyRow {
  readonly slot: BigInteger | null;
  readonly kid: string;
  readonly alg: string;
  readonly public_jwk: string;
  readonly private_jwk: string;
  readonly created_at: BigInteger;
  readonly store_now: BigInteger;
}

/** Adds a signing key; see `SessionStore.addSigningKey`. */
export async function addSigningKey(
  database: SqlDatabase,
  key: Omit<StoredSigningKey, "createdAt">,
): Promise<boolean> {
  const added =
    await database.row`insert into rpcsession_signing_keys (slot, kid, alg, public_jwk, private_jwk, created_at)
      values (${key.slot}, ${key.kid}, ${key.alg}, ${key.publicJwk}, ${key.privateJwk},
        ${now})
      on conflict (slot) do nothing
      returning slot`;
  return added !== undefined;
}

/** Removes signing keys; see `SessionStore.removeSigningKeysBelow`. */
export async function removeSigningKeysBelow(database: SqlDatabase, slot: number): Promise<void> {
  await database.rows`delete from rpcsession_signing_keys where slot < ${slot}`;
}
