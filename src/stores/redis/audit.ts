import type {
  AuditedUser,
  AuditRecord,
  AuditRecords,
  NewAuditEntry,
  SessionRecord,
} from "../../engine/store.ts";
import { cutPage, parseListCursor } from "../common.ts";
import type { RedisScripts } from "./scripts.ts";

// The audit log: one script for each user.

type Entry = Omit<AuditRecord, "id" | "at" | "userId">;

/**
 * Appends entries; see `SessionStore.appendAudit`. An entry whose user nobody knows is not kept: nobody
 * could list it.
 */
export async function appendEntries(
  redis: RedisScripts,
  entries: readonly NewAuditEntry[],
  load: (id: string) => Promise<SessionRecord | undefined>,
): Promise<void> {
  // 1. Find out whose they are.
  const owned = await Promise.all(
    entries.map(async (entry) => {
      const owner = entry.userId === null ? await load(entry.session) : entry;
      return { ...entry, userId: owner?.userId ?? null, tenantId: owner?.tenantId ?? null };
    }),
  );
  // 2. Append those of each user.
  for (const [userId, theirs] of Map.groupBy(owned, (entry) => entry.userId)) {
    if (userId !== null) {
      const args = theirs.flatMap(({ id, age, keep, event, session, tenantId, detail }) => {
        const entry: Entry = { event, session, tenantId, detail };
        return [id, Math.max(0, Math.round(age)), Math.round(keep), JSON.stringify(entry)];
      });
      await redis.run("appendAudit", redis.keys.audit(userId), [userId, ...args]);
    }
  }
}

/** Lists the entries of a user; see `SessionStore.listAudit`. */
export async function listEntries(
  redis: RedisScripts,
  { userId, tenantId }: AuditedUser,
  { cursor, limit }: { readonly cursor: string | undefined; readonly limit: number },
): Promise<AuditRecords> {
  const last = cursor === undefined ? undefined : parseListCursor("redisStore", cursor);
  const [meta = "", , ...ofUser] = redis.keys.audit(userId);
  const from = last === undefined ? ["", ""] : [last.createdAt, last.id];
  const args = [...from, limit + 1, ...tenantArguments(tenantId)];
  const [, , ...found] = await redis.run("listAudit", [meta, ...ofUser], args);
  const entries: (AuditRecord & { readonly createdAt: number })[] = [];
  for (let index = 0; index < found.length; index += 3) {
    const [id = "", time, json = ""] = found.slice(index, index + 3);
    const at = Number(time);
    entries.push({ id, at, createdAt: at, userId, ...(JSON.parse(json) as Entry) });
  }
  const { records, ...rest } = cutPage(entries, limit);
  return {
    records: records.map(({ id, at, userId, event, session, tenantId, detail }) => {
      return { id, at, userId, event, session, tenantId, detail };
    }),
    ...rest,
  };
}

/** Removes the entries of a user; see `SessionStore.forgetAudit`. */
export async function forgetEntries(
  redis: RedisScripts,
  { userId, tenantId }: AuditedUser,
): Promise<void> {
  await redis.run("forgetAudit", redis.keys.audit(userId), [userId, ...tenantArguments(tenantId)]);
}

/** A tenant may have any name, so a flag says whether one is given. */
function tenantArguments(tenantId: string | null): string[] {
  return [tenantId ?? "", tenantId === null ? "" : "tenant"];
}

/** Removes entries that are no longer to be kept; returns how many. */
export async function pruneEntries(redis: RedisScripts, limit: number): Promise<number> {
  const [meta = "", ends = ""] = redis.keys.audit("");
  const [, , ...ended] = await redis.run("endedAudit", [meta, ends], [limit]);
  const all = ended.map((text) => {
    const space = text.indexOf(" ");
    return { id: text.slice(0, space), userId: text.slice(space + 1) };
  });
  let gone = 0;
  for (const [userId, theirs] of Map.groupBy(all, (entry) => entry.userId)) {
    const args = [userId, ...theirs.map(({ id }) => id)];
    const [, count] = await redis.run("pruneAudit", redis.keys.audit(userId), args);
    gone += Number(count);
  }
  return gone;
}
