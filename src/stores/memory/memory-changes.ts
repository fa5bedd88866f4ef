import type { Change, Changes } from "../../engine/store.ts";
import { formatCursor, parseCursor } from "../change-cursor.ts";
import { keepChanges } from "../retention.ts";
import { createWakes, type Wakes } from "../wakes.ts";

/** The change log of a memory store. */
export interface MemoryChanges {
  readonly entries: { readonly number: number; readonly change: Change }[];
  lastNumber: number;
  readonly wakes: Wakes;
}

/** A change log without entries. */
export function createChanges(): MemoryChanges {
  return { entries: [], lastNumber: 0, wakes: createWakes() };
}

/** Appends an entry, and wakes who waits for one. */
export function appendChange(changes: MemoryChanges, change: Change): void {
  changes.lastNumber += 1;
  changes.entries.push({ number: changes.lastNumber, change: Object.freeze(change) });
  changes.wakes.call();
}

/** Reads the log; see `SessionStore.changes`. */
export function readChanges(
  changes: MemoryChanges,
  read: { readonly cursor: string | undefined; readonly window: number },
  now: number,
): Changes {
  const { cursor, window } = read;
  const seen = cursor === undefined ? 0 : parseCursor("memoryStore", cursor);
  const wanted = changes.entries.filter(({ number, change }) =>
    cursor === undefined ? change.at >= now - window : number > seen,
  );
  const entries = wanted.map(({ change }) => change);
  return { entries, cursor: formatCursor(changes.lastNumber), now };
}

/** Drops outdated entries, at most `limit`, and returns how many. */
export function pruneChanges({ entries }: MemoryChanges, limit: number, now: number): number {
  const fresh = entries.findIndex(({ change }) => change.at >= now - keepChanges);
  const old = fresh < 0 ? entries.length : fresh;
  return entries.splice(0, Math.min(old, limit)).length;
}
