import type { Clock } from "../base/clock.ts";
import type {
  Authentication,
  Changes,
  ExternalId,
  ExternalKey,
  KeysEntry,
  LogEntry,
  NewSession,
} from "../engine/store.ts";

/** Formats a cursor of a change log whose entries are numbered from 1 in the order of their commits. */
export function formatCursor(lastNumber: number): string {
  return String(lastNumber);
}

/**
 * Reads a cursor of such a log as the number of the last entry that was seen.
 *
 * @param store the store's name, for the message
 * @throws Error when the cursor does not come from such a log
 */
export function parseCursor(store: string, cursor: string): number {
  if (!/^\d{1,15}$/.test(cursor)) {
    throw new Error(
      `${store}: ${JSON.stringify(cursor)} is not a cursor of this change log; pass one that changes() returned`,
    );
  }
  return Number(cursor);
}

/** The position of a session in a list: newest first, and by descending id at equal times. */
export interface ListPlace {
  readonly createdAt: number;
  readonly id: string;
}

/** Compares two sessions for the order of a list. */
export function newestFirst(a: ListPlace, b: ListPlace): number {
  return isAfter(a, b) ? 1 : -1;
}

/** Whether `a` comes after `b` in a list. */
export function isAfter(a: ListPlace, b: ListPlace): boolean {
  return a.createdAt < b.createdAt || (a.createdAt === b.createdAt && a.id < b.id);
}

/**
 * Cuts a page off the front of a list.
 *
 * @param found the sessions from the beginning of the page on: one more than `limit`, if there are that many
 * @returns the page, and the cursor of the next one if there is a next one
 */
export function cutPage<T extends ListPlace>(
  found: readonly T[],
  limit: number,
): { readonly records: readonly T[]; readonly cursor?: string } {
  const records = found.slice(0, limit);
  const last = records.at(-1);
  return found.length > limit && last !== undefined
    ? { records, cursor: `${last.createdAt}.${last.id}` }
    : { records };
}

/**
 * Reads the cursor of a list as the position after which the page begins.
 *
 * @param store the store's name, for the message
 * @throws Error when the cursor does not come from a list
 */
export function parseListCursor(store: string, cursor: string): ListPlace {
  const [, createdAt, id] = /^(\d{1,15})\.(.+)$/s.exec(cursor) ?? [];
  if (createdAt === undefined || id === undefined) {
    throw new Error(
      `${store}: ${JSON.stringify(cursor)} is not a cursor of a list of sessions; pass one that list() returned`,
    );
  }
  return { createdAt: Number(createdAt), id };
}

/** How long an ended or expired session can still be loaded, in milliseconds. */
export const keepEnded: number = 24 * 3_600_000;

/**
 * Milliseconds by which SQL stores may keep an expired session longer, because they look for such
 * sessions by a coarse time (`sweep_at`). A refresh then rarely changes an indexed column, so most
 * updates in PostgreSQL touch no index ("heap-only tuples").
 */
export const sweepStep: number = 4 * 3_600_000;

/** How long an entry of the change log is kept, in milliseconds. No access token lives that long. */
export const keepChanges: number = 2 * 3_600_000;

/**
 * Applies a session limit to a user who has other live sessions in the same tenant.
 *
 * @param others the user's live sessions in the tenant, oldest first, without the one that is replaced
 * @returns the ids of the sessions to end, or undefined if the new session must be refused
 */
export function evictedBy(
  { limit, requires }: Pick<NewSession, "limit" | "requires">,
  others: readonly { readonly id: string }[],
): readonly string[] | undefined {
  const tooMany = limit === null ? 0 : others.length + 1 - limit.max;
  if (tooMany <= 0) {
    return [];
  }
  const mayEnd = others.filter(({ id }) => id !== requires);
  return limit?.overflow === "evict" && mayEnd.length >= tooMany
    ? mayEnd.slice(0, tooMany).map(({ id }) => id)
    : undefined;
}

/** The keys by which a session with this external id is found. */
export function externalKeysOf(externalId: ExternalId | null): readonly ExternalKey[] {
  const { issuer = "", sid, sub } = externalId ?? {};
  return [
    ...(sid === undefined ? [] : [{ by: "sid", issuer, id: sid } as const]),
    ...(sub === undefined ? [] : [{ by: "sub", issuer, id: sub } as const]),
    ...(sub === undefined || sid !== undefined
      ? []
      : [{ by: "subWithoutSid", issuer, id: sub } as const]),
  ];
}

/** Writes a key as one text. An issuer has no spaces, so no two keys have the same text. */
export function externalKeyText({ by, issuer, id }: ExternalKey): string {
  return `${by}:${issuer} ${id}`;
}

/** Reads an external id from its stored parts; a part is null or undefined where there is none. */
export function toExternalId(
  issuer: string | null | undefined,
  sid: string | null | undefined,
  sub: string | null | undefined,
): ExternalId | null {
  return issuer == null
    ? null
    : { issuer, ...(sid == null ? {} : { sid }), ...(sub == null ? {} : { sub }) };
}

/** Reads how a user authenticated from stored JSON; null or undefined if nothing is known. */
export function toAuthentication(json: string | null | undefined): Authentication | null {
  return json == null ? null : (JSON.parse(json) as Authentication);
}

/** How many secrets are recorded at most; see `SessionStore.recordSecrets`. */
export const maxSecrets: number = 256;

/** Splits the entries of the change log into those about sessions and those about keys. */
export function splitLog(
  all: readonly (LogEntry | KeysEntry)[],
): Pick<Changes, "entries" | "keys"> {
  const entries = all.filter((entry): entry is LogEntry => entry.kind !== "keys");
  const keys = all.filter((entry): entry is KeysEntry => entry.kind === "keys");
  return keys.length === 0 ? { entries } : { entries, keys };
}

/** When to repeat work that failed. */
export interface Retries {
  readonly clock: Clock;
  /** Milliseconds before each further attempt. The error of the last attempt is thrown. */
  readonly pauses: readonly number[];
  /** Whether an error means that nothing was changed and that another attempt may succeed. */
  readonly isTransient: (error: unknown) => boolean;
}

/**
 * Does a unit of work, and repeats it, with a pause before each attempt, while its errors are
 * transient. The work must be atomic: it does everything, or nothing.
 */
export async function retry<Given extends readonly unknown[], T>(
  { clock, pauses, isTransient }: Retries,
  work: (...given: Given) => Promise<T> | T,
  ...given: Given
): Promise<T> {
  for (const pause of pauses) {
    try {
      return await work(...given);
    } catch (error) {
      if (!isTransient(error)) {
        throw error;
      }
    }
    await new Promise<void>((resolve) => {
      clock.after(pause, resolve, true);
    });
  }
  return work(...given);
}

/** How many histories a cursor remembers. */
const historiesMax = 20;

/**
 * The histories that the next cursor names: the one that was read, then those that earlier reads have
 * followed. Data that was left for other data is never followed again: it is a former primary that still
 * answers, and what is written to its successor is not in it.
 *
 * @param read the history that was read
 * @param before the histories of the cursor, newest first
 * @throws Error if `read` was left before
 */
export function nextHistories(
  store: string,
  read: string,
  before: readonly string[],
): readonly string[] {
  const [last, ...left] = before;
  if (read !== last && left.includes(read)) {
    throw new Error(
      `${store}: the database that answered is a former primary, or was set back to a time before a failover; let the connection lead to the present primary alone, or restart this server if it was set back on purpose`,
    );
  }
  return [read, ...before.filter((other) => other !== read)].slice(0, historiesMax);
}
