import { randomId } from "../../base/crypto.ts";
import type { Changes, EndedBy, LogEntry } from "../../engine/store.ts";
import type { RunRedisScript } from "./scripts.ts";

/** Entries per call: a long log is read in steps, so that Redis serves others in between. */
const pageSize = 5_000;

/** What a read of the log is given. */
export interface RedisChangesRead {
  /** The keys of the script: meta, log. */
  readonly keys: readonly string[];
  readonly cursor: string | undefined;
  readonly window: number;
}

/**
 * Reads the change log; see `SessionStore.changes`.
 *
 * A cursor names, beside an entry, the history it belongs to: the lineage of the data, which is
 * made at random where there is none, and the replication id, which Redis changes at every restart
 * and failover. Under another history the entry says nothing, so the whole window is read again.
 */
export async function readRedisChanges(
  run: RunRedisScript,
  { keys, cursor, window }: RedisChangesRead,
): Promise<Changes> {
  const entries: LogEntry[] = [];
  let seen = cursor;
  for (;;) {
    const args = [...parseCursor(seen), window, randomId(16), pageSize];
    const [now, full, lineage, replid, last, lostAt, ...found] = await run("changes", keys, args);
    for (let index = 0; index < found.length; index += 4) {
      entries.push(toChange(found.slice(index, index + 4)));
    }
    seen = `${lineage}.${replid}.${last}`;
    if (full === "") {
      const lost = lostAt === "0" ? {} : { lostAt: Number(lostAt) };
      return { entries, cursor: seen, now: Number(now), ...lost };
    }
  }
}

/** Of a session, the name and the value of the field that makes the kind, and the time. */
function toChange([session = "", field, value = "", at]: readonly string[]): LogEntry {
  return field === "claimsVersion"
    ? { kind: "claims", session, claimsVersion: Number(value), at: Number(at) }
    : { kind: "revoked", session, endedBy: value as EndedBy, at: Number(at) };
}

function parseCursor(cursor: string | undefined): readonly string[] {
  if (cursor === undefined) {
    return ["", "", ""];
  }
  if (!/^[\w-]+\.\w+\.\d+-\d+$/.test(cursor)) {
    throw new Error(`redisStore: ${JSON.stringify(cursor)} is no cursor of this change log`);
  }
  return cursor.split(".");
}
