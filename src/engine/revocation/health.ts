import type { SessionStore } from "../store.ts";
import type { RevocationLog } from "./log.ts";

/** How current this process's knowledge of revocations is. Computed without I/O. */
export interface SessionsHealth {
  /**
   * - `fresh`: calls are checked in memory.
   * - `stale`: the change log could not be read for longer than `maxStaleness`. Calls wait for it,
   *   and are refused with `unavailable` if it stays that way.
   * - `unsure`: the store has lost changes, or there are more than memory may hold. Every call reads
   *   its session from the store.
   * - `draining`: `drain` was called. Calls are still checked, but the server is about to stop.
   * - `closed`: not opened yet, closing, or closed.
   */
  readonly status: "fresh" | "stale" | "unsure" | "draining" | "closed";
  /** Milliseconds since the last completed read of the change log began; Infinity before the first. */
  readonly staleness: number;
  /** When that read began, by this machine's clock; undefined before the first read. */
  readonly provenAt: Date | undefined;
  /** Milliseconds between the write of the newest change and its arrival in this process. */
  readonly lag: number;
  /**
   * Whether the store notifies this process of changes as soon as other processes write them.
   * `connected`: yes. `disconnected`: not at the moment. `polling`: this store cannot, or not with
   * the client it was given.
   */
  readonly push: "connected" | "disconnected" | "polling";
  /** Changes held in memory: ended sessions, and sessions with new claims. */
  readonly changes: number;
  /** How many changes memory may hold. Beyond that, every call reads its session from the store. */
  readonly maxChanges: number;
  /** Open streams that end with their sessions. */
  readonly streams: number;
}

/** The health of an instance that is not open. */
export const closedHealth: SessionsHealth = {
  status: "closed",
  staleness: Number.POSITIVE_INFINITY,
  provenAt: undefined,
  lag: 0,
  push: "disconnected",
  changes: 0,
  maxChanges: 0,
  streams: 0,
};

export function healthOf(log: RevocationLog, store: SessionStore): SessionsHealth {
  const { provenAt } = log;
  const pushed = store.pushed?.();
  return {
    status: log.unsure ? "unsure" : log.isStale() ? "stale" : "fresh",
    staleness: log.staleness(),
    provenAt: provenAt === undefined ? undefined : new Date(provenAt),
    lag: log.lag,
    push: pushed === undefined ? "polling" : pushed ? "connected" : "disconnected",
    changes: log.size,
    maxChanges: log.limit,
    streams: log.watching,
  };
}
