import { assertMembers, type Duration, durationMs, readChoice } from "../../base/checks.ts";
import type { JsonObject } from "../../base/json.ts";

/** The session whose claim is fetched. */
export interface ClaimSubject<Claims extends object = JsonObject> {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | undefined;
  /** Its claims as they are now. */
  readonly claims: Claims;
}

/** Where a claim comes from, and how old it may be. */
export interface ClaimSource<Claims extends object = JsonObject> {
  /** The age from which the claim is fetched again, from "1s". */
  readonly maxAge: Duration;
  /**
   * Fetches the value: a JSON value, or undefined to remove the claim. However many calls of a session
   * wait for it, it runs once. `signal` aborts when its time is over. What it throws counts as an outage.
   */
  fetch(session: ClaimSubject<Claims>, options: { readonly signal: AbortSignal }): unknown;
  /**
   * What happens to a call if the source fails. Default "refuse".
   *
   * - `refuse`: it fails with `Unavailable`, and nobody is signed out.
   * - `stale`: the old value counts, if there is one. The source is asked again a second later.
   */
  readonly onError?: "refuse" | "stale";
  /** How long calls wait for the source. Default "2s"; from "50ms" to "30s". */
  readonly within?: Duration;
}

/** A checked source. Durations are milliseconds. */
export interface ReadSource {
  readonly maxAge: number;
  readonly fetch: ClaimSource["fetch"];
  readonly onError: "refuse" | "stale";
  readonly within: number;
}

/** The checked option `claimSources`. */
export type ReadSources = ReadonlyMap<string, ReadSource>;

/** @throws TypeError if a source is not valid */
export function readClaimSources(
  given: Readonly<Record<string, ClaimSource<never>>> = {},
): ReadSources {
  return new Map(
    Object.entries(given).map(([claim, source]) => {
      const name = `claimSources.${claim}`;
      if (typeof source?.fetch !== "function") {
        throw new TypeError(
          `${name} must be a source, such as { maxAge: "5m", fetch: (session, { signal }) => … }`,
        );
      }
      assertMembers(name, source, { maxAge: 0, fetch: 0, onError: 0, within: 0 });
      const bounds = { min: 50, max: 30_000 };
      const read: ReadSource = {
        maxAge: durationMs(`${name}.maxAge`, source.maxAge, { min: 1000 }),
        // Called on the source, which may be an instance of a class.
        fetch: (session, options) => source.fetch(session as never, options),
        onError: readChoice(`${name}.onError`, source.onError, ["refuse", "stale"]),
        within: durationMs(`${name}.within`, source.within ?? "2s", bounds),
      };
      return [claim, read];
    }),
  );
}
