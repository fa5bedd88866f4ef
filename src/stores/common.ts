import type { Clock } from "../base/clock.ts";
import type { NewSession } from "../engine/store.ts";

/** The cursor of a change log whose entries are numbered from 1 in the order of their commits. */
export function formatCursor(lastNumber: number): string {
  return String(lastNumber);
}

/**
 * Reads a cursor as the number of the last entry that was seen.
 * @throws Error when it is no cursor of such a log
 */
export function parseCursor(store: string, cursor: string): number {
  if (!/^\d{1,15}$/.test(cursor)) {
    throw new Error(`${store}: ${JSON.stringify(cursor)} is no cursor of this change log`);
  }
  return Number(cursor);
}

/** A session's place in a list: the newest first, equal times by id, descending. */
export interface ListPlace {
  readonly createdAt: number;
  readonly id: string;
}

/** Sorts a list: the newest first, equal times by id, descending. */
export function newestFirst(a: ListPlace, b: ListPlace): number {
  return isAfter(a, b) ? 1 : -1;
}

/** Whether one comes later in a list than another. */
export function isAfter(a: ListPlace, b: ListPlace): boolean {
  return a.createdAt < b.createdAt || (a.createdAt === b.createdAt && a.id < b.id);
}

/** What one page of a list returns of the sessions from its beginning on, one more than it holds. */
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
 * Reads a cursor as the place after which a page begins.
 * @throws Error when it is no cursor of a list
 */
export function parseListCursor(store: string, cursor: string): ListPlace {
  const [, createdAt, id] = /^(\d{1,15})\.(.+)$/s.exec(cursor) ?? [];
  if (createdAt === undefined || id === undefined) {
    throw new Error(`${store}: ${JSON.stringify(cursor)} is no cursor of a list of sessions`);
  }
  return { createdAt: Number(createdAt), id };
}

/** Milliseconds for which an ended or expired session can still be loaded. */
export const keepEnded: number = 24 * 3_600_000;

/** Milliseconds for which an entry of the change log is kept. No access token lives that long. */
export const keepChanges: number = 2 * 3_600_000;

/** When to repeat work that failed. */
export interface RetryOptions {
  readonly clock: Clock;
  /** The milliseconds before each further attempt. After the last one, the error is thrown. */
  readonly pauses: readonly number[];
  /** Whether an error means that nothing was changed and that another attempt may succeed. */
  readonly isTransient: (error: unknown) => boolean;
}

/** Does a unit of work, all of it or nothing, and repeats it after each pause if an error is transient. */
export async function retry<T>(
  { clock, pauses, isTransient }: RetryOptions,
  work: () => Promise<T> | T,
): Promise<T> {
  for (const pause of pauses) {
    try {
      return await work();
    } catch (error) {
      if (!isTransient(error)) {
        throw error;
      }
    }
    await new Promise<void>((resolve) => {
      clock.after(pause, resolve, true);
    });
  }
  return work();
}

/**
 * What a limit does to a user who has other live sessions: the ids of those that end, or undefined
 * where the new session is not to be inserted.
 *
 * @param others without the one that is replaced, the oldest first
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

/** The listeners behind `SessionStore.onChange`. */
export class ChangeListeners {
  readonly #entries = new Set<{ readonly wake: () => void }>();

  /** @returns a function that removes the listener */
  add(wake: () => void): () => void {
    const entry = { wake };
    this.#entries.add(entry);
    return () => {
      this.#entries.delete(entry);
    };
  }

  /** Calls every listener, and ignores what they throw. */
  call(): void {
    for (const { wake } of [...this.#entries]) {
      try {
        wake();
      } catch {
        // The change is committed: a broken listener must not make its writer believe otherwise.
      }
    }
  }
}
