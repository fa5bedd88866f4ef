import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { claimSetAt } from "../../engine/claims.ts";
import {
  type ClaimsChange,
  type DataChange,
  type SessionInfo,
  sessionInfoOf,
} from "../../engine/session.ts";
import type { SessionRecord, Stored } from "../../engine/store.ts";
import type { Core } from "../core.ts";
import { misuse } from "../response/errors.ts";

/**
 * Changes the claims of a session.
 * @param fetchedAt when a source was asked for the new values, in milliseconds by the store's clock: values
 * that were set since then stay. Undefined for values that the service sets, which are of now
 * @throws ConnectError `Internal` if the new claims do not fit the schema or the token
 * @throws SessionError `unauthorized` `unavailable`
 */
export async function updateClaims(
  core: Core,
  id: string,
  change: ClaimsChange<JsonObject>,
  fetchedAt?: number,
): Promise<Stored<SessionRecord>> {
  const engine = await core.engine();
  const now = fetchedAt ?? core.revocations.storeNow();
  return withMisuse("updateClaims", (callback) =>
    // Runs again if another write got in first.
    engine.updates.claims(id, async (present) => {
      // 1. Compute the new claims: from a patch, or with the service's function on a copy.
      const patch = fetchedAt === undefined ? change : withoutNewer(change, present, fetchedAt);
      const given =
        typeof patch === "function"
          ? await changeCopy(core, present, (copy) => callback(() => patch(copy)))
          : merged(core.claims.plain(present), patch);

      // 2. Validate them, and make sure that the schema kept what was set.
      const named = typeof patch === "function" ? [] : Object.keys(patch);
      const claims = await core.claims.accept(given, { now, present, named });
      assertKept(change, claims);
      return claims;
    }),
  );
}

/** Leaves out of a patch what was set since a time, which is kept in whole seconds. */
function withoutNewer(
  change: ClaimsChange<JsonObject>,
  present: JsonObject,
  time: number,
): ClaimsChange<JsonObject> {
  const since = Math.floor(time / 1000) * 1000;
  return Object.fromEntries(
    Object.entries(change).filter(([name]) => !((claimSetAt(present, name) ?? -1) >= since)),
  );
}

async function changeCopy(
  core: Core,
  present: JsonObject,
  change: (copy: JsonObject) => Promise<object>,
): Promise<object> {
  return change(structuredClone(await core.claims.read(present)));
}

/**
 * Changes the private data of a session and returns the new data.
 * @throws ConnectError `Internal` if the new data is not a JSON object or is larger than 64 KiB
 * @throws SessionError `unauthorized` `unavailable`
 */
export async function updateData(core: Core, id: string, change: DataChange): Promise<JsonObject> {
  const engine = await core.engine();
  const { record } = await withMisuse("updateData", (callback) =>
    // Runs again if another write got in first.
    engine.updates.data(id, async (present) =>
      readData(
        typeof change === "function"
          ? await callback(() => change(structuredClone(present)))
          : merged(present, change),
      ),
    ),
  );
  return record.data;
}

/** The maximum size of a session's private data, in bytes of JSON. It is read and written as a whole. */
const maxData = 65_536;

/**
 * Returns private data as JSON stores it.
 * @throws TypeError if it is not a JSON object or is too large
 */
export function readData(data: unknown): JsonObject {
  let json: string | undefined;
  try {
    json = typeof data === "object" && data !== null ? JSON.stringify(data) : undefined;
  } catch {
    // A bigint, or a circular reference.
  }
  if (!json?.startsWith("{")) {
    throw new TypeError("data must be a JSON object, such as { cart: [] }");
  }
  const size = new TextEncoder().encode(json).length;
  if (size > maxData) {
    throw new TypeError(
      `data must be at most ${maxData} bytes of JSON, got ${size}; store it elsewhere under the id of the session`,
    );
  }
  return JSON.parse(json) as JsonObject;
}

/** Returns what the store records about a session, with typed claims. */
export async function infoOf(core: Core, record: SessionRecord): Promise<SessionInfo> {
  try {
    return sessionInfoOf(record, await core.claims.read(record.claims));
  } catch (error) {
    if (!(error instanceof SessionError)) {
      throw error;
    }
    // Sessions from before a schema change can still be listed and ended.
    return sessionInfoOf(record, undefined);
  }
}

/**
 * Merges a patch into an object; members that are undefined in the patch are removed.
 * @throws TypeError if the patch is not an object
 */
function merged(present: JsonObject, patch: object): object {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) {
    throw new TypeError("the change must be an object with the members to set, or a function");
  }
  return Object.fromEntries(
    Object.entries({ ...present, ...patch }).filter(([, value]) => value !== undefined),
  );
}

/**
 * Catches misspelt members of a patch, which would otherwise be dropped silently.
 * @throws TypeError if the schema dropped a member that the patch sets
 */
function assertKept(change: ClaimsChange<JsonObject>, claims: JsonObject): void {
  const lost = Object.entries(change).find(
    ([name, value]) => value !== undefined && !Object.hasOwn(claims, name),
  );
  if (lost !== undefined) {
    throw new TypeError(
      `the schema drops the claim "${lost[0]}"; correct its name or add it to the schema`,
    );
  }
}

/** Runs code of the service. Errors that it throws pass through unchanged. */
type RunCallback = <T>(code: () => T | Promise<T>) => Promise<T>;

/** Turns our own TypeErrors into errors for the developer, but not those of the service's callback. */
async function withMisuse<T>(
  method: string,
  work: (callback: RunCallback) => Promise<T>,
): Promise<T> {
  let thrownByCallback: unknown;
  try {
    return await work(async (code) => {
      try {
        return await code();
      } catch (error) {
        thrownByCallback = error;
        throw error;
      }
    });
  } catch (error) {
    const isOurs = error instanceof TypeError && error !== thrownByCallback;
    throw isOurs ? misuse(`${method}: ${error.message}`, error) : error;
  }
}
