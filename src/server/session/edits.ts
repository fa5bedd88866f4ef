import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
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
 * @throws ConnectError `Internal` when the new claims do not fit the schema or the token
 * @throws SessionError `unauthorized` `unavailable`
 */
export async function applyClaims(
  core: Core,
  { id, change }: { readonly id: string; readonly change: ClaimsChange<JsonObject> },
): Promise<Stored<SessionRecord>> {
  const engine = await core.engine();
  return withMisuse("updateClaims", (theirs) =>
    engine.updates.claims(id, async (present) => {
      const claims = await core.claims.accept(
        typeof change === "function"
          ? await changed(core, present, (copy) => theirs(() => change(copy)))
          : merged(present, change),
      );
      assertKept(change, claims);
      // Here, where a mistake still changes nothing.
      await core.claims.forClient(claims);
      return claims;
    }),
  );
}

async function changed(
  core: Core,
  present: JsonObject,
  change: (copy: JsonObject) => Promise<object>,
): Promise<object> {
  return change(structuredClone(await core.claims.read(present)));
}

/**
 * Changes the private data of a session.
 * @throws ConnectError `Internal` when the new data is no JSON object, or larger than 64 KiB
 * @throws SessionError `unauthorized` `unavailable`
 */
export async function applyData(
  core: Core,
  { id, change }: { readonly id: string; readonly change: DataChange },
): Promise<JsonObject> {
  const engine = await core.engine();
  const { record } = await withMisuse("updateData", (theirs) =>
    engine.updates.data(id, async (present) =>
      readData(
        typeof change === "function"
          ? await theirs(() => change(structuredClone(present)))
          : merged(present, change),
      ),
    ),
  );
  return record.data;
}

/** The greatest size of a session's private data, as JSON: it is read and written as a whole. */
const maxData = 65_536;

/**
 * Private data as JSON keeps it.
 * @throws TypeError when it is no JSON object, or too large
 */
export function readData(data: unknown): JsonObject {
  let json: string | undefined;
  try {
    json = typeof data === "object" && data !== null ? JSON.stringify(data) : undefined;
  } catch {
    // A bigint, or an object within itself.
  }
  if (!json?.startsWith("{")) {
    throw new TypeError("data: must be a JSON object, such as { cart: [] }");
  }
  if (new TextEncoder().encode(json).length > maxData) {
    throw new TypeError(
      `data: is larger than ${maxData} bytes of JSON; keep it elsewhere, under the session's id`,
    );
  }
  return JSON.parse(json) as JsonObject;
}

/** What the store knows of a session, with its claims as they are typed. */
export async function infoOf(core: Core, record: SessionRecord): Promise<SessionInfo> {
  try {
    return sessionInfoOf(record, await core.claims.read(record.claims));
  } catch (error) {
    if (!(error instanceof SessionError)) {
      throw error;
    }
    // Sessions of before the schema changed are listed, and can be ended, all the same.
    return sessionInfoOf(record, undefined);
  }
}

/**
 * The members of a patch set; those that are undefined go.
 * @throws TypeError when it is no patch
 */
function merged(present: JsonObject, patch: object): object {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) {
    throw new TypeError("give it an object of the members to set, or a function");
  }
  return Object.fromEntries(
    Object.entries({ ...present, ...patch }).filter(([, value]) => value !== undefined),
  );
}

/**
 * A misspelt member of a patch would change nothing, and say nothing.
 * @throws TypeError when the schema left out what the patch sets
 */
function assertKept(change: ClaimsChange<JsonObject>, claims: JsonObject): void {
  const lost = Object.entries(change).find(
    ([name, value]) => value !== undefined && !Object.hasOwn(claims, name),
  );
  if (lost !== undefined) {
    throw new TypeError(
      `claims: the schema leaves out "${lost[0]}"; correct the name or the schema`,
    );
  }
}

/** Runs code of the service: what that throws is its own, and passes as it is. */
type Theirs = <T>(code: () => T | Promise<T>) => Promise<T>;

/** A TypeError of ours is for the developer, and says what to change. */
async function withMisuse<T>(call: string, work: (theirs: Theirs) => Promise<T>): Promise<T> {
  let thrownByThem: unknown;
  try {
    return await work(async (code) => {
      try {
        return await code();
      } catch (error) {
        thrownByThem = error;
        throw error;
      }
    });
  } catch (error) {
    const ours = error instanceof TypeError && error !== thrownByThem;
    throw ours ? misuse(`${call}: ${error.message}`, error) : error;
  }
}
