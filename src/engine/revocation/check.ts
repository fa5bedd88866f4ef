import { type Duration, durationMs } from "../../base/checks.ts";

/**
 * How a call finds out that its session was ended.
 *
 * - `feed`: in memory, from the change log that each process follows, never longer than
 *   `maxStaleness` after the end was acknowledged.
 * - `strict`: in the store, on each call.
 * - `none`: not at all; a session is good until its access token expires.
 */
export type RevocationCheck = "feed" | "strict" | "none";

export const revocationChecks: readonly [RevocationCheck, ...RevocationCheck[]] = [
  "feed",
  "strict",
  "none",
];

/** @throws TypeError when it is out of bounds */
export function readMaxStaleness(value: Duration | undefined): number {
  return durationMs("maxStaleness", value ?? "5s", { min: 200, max: 60_000 });
}

/**
 * @param maxStaleness milliseconds
 * @throws TypeError when it is out of bounds, or shorter than `maxStaleness`
 */
export function readMaxStreamStaleness(value: Duration | undefined, maxStaleness: number): number {
  const ms = durationMs("maxStreamStaleness", value ?? "60s", { min: 5_000, max: 600_000 });
  if (ms < maxStaleness) {
    throw new TypeError(
      `maxStreamStaleness: ${ms}ms is shorter than maxStaleness, ${maxStaleness}ms, within which the change log need not be read; make it at least as long`,
    );
  }
  return ms;
}
