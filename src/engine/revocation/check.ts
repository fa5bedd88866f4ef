import { type Duration, durationMs, durationOf } from "../../base/checks.ts";

/**
 * How a call finds out that its session was revoked.
 *
 * - `feed`: in memory, from the change log that every process follows. A revocation takes effect
 *   within milliseconds, and at most `maxStaleness` after it was acknowledged.
 * - `strict`: the store is read on each call.
 * - `none`: never; a session is accepted until its access token expires.
 */
export type RevocationCheck = "feed" | "strict" | "none";

export const revocationChecks: readonly [RevocationCheck, ...RevocationCheck[]] = [
  "feed",
  "strict",
  "none",
];

/** @throws TypeError if it is out of bounds */
export function readMaxStaleness(value: Duration | undefined): number {
  return durationMs("maxStaleness", value ?? "5s", { min: 200, max: 60_000 });
}

/**
 * @param maxStaleness milliseconds
 * @throws TypeError if it is out of bounds, or shorter than `maxStaleness`
 */
export function readMaxStreamStaleness(value: Duration | undefined, maxStaleness: number): number {
  const ms = durationMs("maxStreamStaleness", value ?? "60s", { min: 5_000, max: 600_000 });
  if (ms < maxStaleness) {
    throw new TypeError(
      `maxStreamStaleness must be at least maxStaleness (${durationOf(maxStaleness)}), got ${durationOf(ms)}`,
    );
  }
  return ms;
}
