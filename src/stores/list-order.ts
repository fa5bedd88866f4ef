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
