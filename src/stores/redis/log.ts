import { randomId } from "../../base/crypto.ts";
import type { Changes, EndedBy, KeysEntry, LogEntry } from "../../engine/store.ts";
import { splitLog } from "../common.ts";
import type { RedisScripts } from "./scripts.ts";

/** Entries per call: a long log is read in steps, so that Redis serves other clients in between. */
const pageSize = 5_000;

/**
 * Reads the change log; see `SessionStore.changes`.
 *
 * Besides an entry, a cursor names the history that the entry belongs to: the lineage of the data,
 * which is random and created with the data, and the replication id, which Redis changes at every
 * restart and failover. In another history the entry has no meaning, so the whole window is read.
 */
export async function readLog(
  redis: RedisScripts,
  cursor: string | undefined,
  window: number,
): Promise<Changes> {
  const keys = [redis.keys.meta, redis.keys.log];
  const entries: (LogEntry | KeysEntry)[] = [];
  let seen = cursor;
  for (;;) {
    const args = [...parseCursor(seen), window, randomId(16), pageSize];
    const [now, full, lineage, replid, last, lostAt, ...found] = await redis.run(
      "changes",
      keys,
      args,
    );
    for (let index = 0; index < found.length; index += 4) {
      entries.push(toEntry(found.slice(index, index + 4)));
    }
    seen = `${lineage}.${replid}.${last}`;
    if (full === "") {
      const lost = lostAt === "0" ? {} : { lostAt: Number(lostAt) };
      return { ...splitLog(entries), cursor: seen, now: Number(now), ...lost };
    }
  }
}

/** Converts the texts of an entry: the session, the field that makes its kind, its value, the time. */
function toEntry([session = "", field, value = "", at]: readonly string[]): LogEntry | KeysEntry {
  if (field === "keys") {
    return { kind: "keys", change: value === "rotate" ? "rotate" : "changed", at: Number(at) };
  }
  return field === "claimsVersion"
    ? { kind: "claims", session, claimsVersion: Number(value), at: Number(at) }
    : { kind: "revoked", session, endedBy: value as EndedBy, at: Number(at) };
}

function parseCursor(cursor: string | undefined): readonly string[] {
  if (cursor === undefined) {
    return ["", "", ""];
  }
  if (!/^[\w-]+\.\w+\.\d+-\d+$/.test(cursor)) {
    throw new Error(
      `redisStore: ${JSON.stringify(cursor)} is not a cursor of this change log; pass one that changes() returned`,
    );
  }
  return cursor.split(".");
}
