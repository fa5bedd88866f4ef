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
