import type { SessionStore } from "../store.ts";
import type { RevocationLog } from "./log.ts";

/** How well this process knows of revocations. Known without asking anybody. */
export interface SessionsHealth {
  /**
   * - `fresh`: calls pass without reading the store.
   * - `stale`: the change log could not be read for longer than `maxStaleness`; calls wait for it,
   *   and are refused with `unavailable` where it stays so.
   * - `unsure`: the store has lost changes, or there are more than can be kept: each call reads its
   *   session.
   * - `closed`: not opened yet, or closed.
   */
  readonly status: "fresh" | "stale" | "unsure" | "closed";
  /** Milliseconds since the start of the last completed read of the change log. */
  readonly staleness: number;
  /** When that read began, by this machine's clock; undefined before the first. */
  readonly provenAt: Date | undefined;
  /** Milliseconds that the newest change took to get here from its write by another process, or this one. */
  readonly lag: number;
  /**
   * Whether the store tells of what others change as soon as it is written: `connected`, or
   * `disconnected` for the moment. `polling`: the store cannot, or not with this client.
   */
  readonly push: "connected" | "disconnected" | "polling";
  /** Changes kept in memory: ended sessions, and sessions with new claims. */
  readonly changes: number;
  /** How many can be kept; beyond, each call reads its session. */
  readonly maxChanges: number;
  /** Open streams that end with their sessions. */
  readonly streams: number;
}

/** The health of what is not open. */
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
  const { provenAt, lag, changes, maxChanges, watching } = log.figures();
  const pushed = store.pushed?.();
  return {
    status: log.unsure ? "unsure" : log.isStale() ? "stale" : "fresh",
    staleness: log.staleness(),
    provenAt: provenAt === undefined ? undefined : new Date(provenAt),
    lag,
    push: pushed === undefined ? "polling" : pushed ? "connected" : "disconnected",
    changes,
    maxChanges,
    streams: watching,
  };
}
