import { randomId } from "../../base/crypto.ts";
import type { Changes, EndedBy, KeysEntry, LogEntry } from "../../engine/store.ts";
import { nextHistories, splitLog } from "../common.ts";
import type { RedisScripts } from "./scripts.ts";

/** Entries per call: a long log is read in steps, so that Redis serves other clients in between. */
const pageSize = 5_000;

/**
 * Reads the change log; see `SessionStore.changes`.
 *
 * Besides an entry, a cursor names the place of that entry: the lineage of the data, which is random and
 * created with the data, and the replication id, which Redis changes at every restart and failover. In
 * another place the entry has no meaning, so the whole window is read. The cursor also names the
 * histories that were followed.
 */
export async function readLog(
  redis: RedisScripts,
  cursor: string | undefined,
  window: number,
): Promise<Changes> {
  const keys = [redis.keys.meta, redis.keys.log];
  const entries: (LogEntry | KeysEntry)[] = [];
  let seen = parseCursor(cursor);
  for (;;) {
    const { place, histories } = seen;
    const args = [...place, window, randomId(16), pageSize, randomId(6)];
    const [now, full, lineage, replid, last, lostAt, history = "", ...found] = await redis.run(
      "changes",
      keys,
      args,
    );
    for (let index = 0; index < found.length; index += 4) {
      entries.push(toEntry(found.slice(index, index + 4)));
    }
    seen = {
      place: [lineage, replid, last].map(String),
      histories: nextHistories("redisStore", history, histories),
    };
    if (full === "") {
      const lost = lostAt === "0" ? {} : { lostAt: Number(lostAt) };
      return {
        ...splitLog(entries),
        cursor: formatCursor(seen),
        now: Number(now),
        history,
        ...lost,
      };
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

interface Cursor {
  /** Lineage, replication id and entry. */
  readonly place: readonly string[];
  /** The one that was read, and those that earlier reads have followed, newest first. */
  readonly histories: readonly string[];
}

function formatCursor({ place, histories }: Cursor): string {
  return [...place, histories.join(",")].join(".");
}

function parseCursor(cursor: string | undefined): Cursor {
  if (cursor === undefined) {
    return { place: ["", "", ""], histories: [] };
  }
  if (!/^[\w-]+\.\w+\.\d+-\d+\.[\w,-]+$/.test(cursor)) {
    throw new Error(
      `redisStore: ${JSON.stringify(cursor)} is not a cursor of this change log; pass one that changes() returned`,
    );
  }
  const parts = cursor.split(".");
  return { place: parts.slice(0, 3), histories: parts[3]?.split(",") ?? [] };
}
