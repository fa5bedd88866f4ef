import { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import type { ClaimsChange, DataChange, SessionInfo } from "../../engine/session.ts";
import type { SessionOwner, SessionRecord } from "../../engine/store.ts";
import type { Core } from "../core.ts";
import { applyClaims, applyData, infoOf } from "./edits.ts";
import { assertId } from "./sign-in.ts";

/** Whose sessions: those of a user, of a tenant, or of a user within a tenant. */
export type OwnerOptions =
  | { readonly userId: string; readonly tenantId?: string }
  | { readonly userId?: undefined; readonly tenantId: string };

/** Which part of a list. */
export type ListOptions = OwnerOptions & {
  /** Sessions a page: 1 to 1000. Default 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the page before. Default: the first page. */
  readonly pageToken?: string;
};

/** A page of a list. */
export interface SessionList<Claims extends object = JsonObject> {
  /** Live sessions, the newest first. */
  readonly sessions: readonly SessionInfo<Claims>[];
  /** Where the next page begins; undefined after the last. */
  readonly nextPageToken: string | undefined;
}

/**
 * Sessions by id, by user and by tenant, from wherever the service runs. Nothing here writes to a
 * response: a client learns of a change with its next call. Rejects with a SessionError
 * `unavailable` when the store is out of reach; then nothing changed.
 */
export interface SessionDirectory<Claims extends object = JsonObject> {
  /**
   * A live session; undefined when there is none.
   * @throws TypeError when the id is no text, as everything here that takes one
   */
  find(id: string): Promise<SessionInfo<Claims> | undefined>;
  /**
   * Lists live sessions. Those that begin or end while the pages are read may be missing or not;
   * no other is, and none comes twice.
   * @throws TypeError when it does not say whose, or the page is out of bounds
   */
  list(options: ListOptions): Promise<SessionList<Claims>>;
  /**
   * Changes the claims of a session; see `Session.updateClaims`. Its next call gets an access token
   * with the new ones.
   * @returns undefined when there is no such live session
   * @throws ConnectError `Internal`, with what to change, when the claims do not fit
   */
  updateClaims(id: string, change: ClaimsChange<Claims>): Promise<SessionInfo<Claims> | undefined>;
  /** Reads the private data of a live session; undefined when there is none. */
  data(id: string): Promise<JsonObject | undefined>;
  /** Changes the private data of a session; undefined when there is no such live session. */
  updateData(id: string, change: DataChange): Promise<JsonObject | undefined>;
  /** Ends a session; resolves to whether this call did. */
  revoke(id: string): Promise<boolean>;
  /** Ends sessions, in one transaction for each 1000; resolves to the ids of those that this call ended. */
  revoke(ids: readonly string[]): Promise<readonly string[]>;
  /**
   * Ends all sessions of a user, of a tenant, or of a user within a tenant, in one transaction: one
   * that begins meanwhile is ended too, or began after.
   * @returns the ids of those that this call ended
   * @throws TypeError when it does not say whose, as with a `userId` that is undefined
   */
  revokeAll(options: OwnerOptions & { readonly except?: string }): Promise<readonly string[]>;
}

const maxPage = 1_000;

export function createSessionDirectory(core: Core): SessionDirectory {
  return {
    async find(id) {
      const found = await find(core, id);
      return found && infoOf(core, found);
    },
    list: (options) => list(core, options),
    updateClaims: (id, change) =>
      ifLive(id, async () => infoOf(core, (await applyClaims(core, { id, change })).record)),
    data: async (id) => (await find(core, id))?.data,
    updateData: (id, change) => ifLive(id, () => applyData(core, { id, change })),
    revoke: ((ids) => revoke(core, ids)) as SessionDirectory["revoke"],
    async revokeAll(options) {
      const owner = ownerOf("revokeAll", options);
      const { except } = options;
      const stays = except !== undefined && mayBeSession(except) ? except : null;
      const scope = { ...owner, except: stays };
      return (await core.engine()).revokeAll(scope, "revoked");
    },
  };
}

/** Whether a text has the form of a `nextPageToken`; any other is a fault of its sender, not of the store. */
export function isPageToken(text: string): boolean {
  return /^\d{1,15}\.[\w-]{1,64}$/.test(text);
}

async function find(core: Core, id: string): Promise<SessionRecord | undefined> {
  return mayBeSession(id) ? (await (await core.engine()).find(id))?.record : undefined;
}

async function list(core: Core, options: ListOptions): Promise<SessionList> {
  const owner = ownerOf("list", options);
  const { pageSize: limit = 100, pageToken: cursor } = options;
  if (!Number.isInteger(limit) || limit < 1 || limit > maxPage) {
    throw new TypeError(`list: pageSize must be a whole number from 1 to ${maxPage}`);
  }
  if (cursor !== undefined && !isPageToken(cursor)) {
    throw new TypeError("list: pageToken must be the nextPageToken of the page before");
  }
  const page = await (await core.engine()).list(owner, { cursor, limit });
  const sessions = await Promise.all(page.records.map((record) => infoOf(core, record)));
  return { sessions, nextPageToken: page.cursor };
}

async function revoke(core: Core, ids: string | readonly string[]): Promise<unknown> {
  if (!Array.isArray(ids)) {
    const id = ids as string;
    return mayBeSession(id) && (await core.engine()).revoke(id, "revoked");
  }
  const all = ids.filter(mayBeSession);
  const engine = await core.engine();
  const revoked: string[] = [];
  for (let start = 0; start < all.length; start += maxPage) {
    const part = all.slice(start, start + maxPage);
    revoked.push(...(await engine.revokeAll({ ids: part }, "revoked")));
  }
  return revoked;
}

/** A slip such as an undefined user must not end or show everybody's sessions. */
function ownerOf(call: string, options: OwnerOptions): SessionOwner {
  const { userId, tenantId } = options ?? {};
  if (userId === undefined && tenantId === undefined) {
    throw new TypeError(`${call}: say whose sessions, by userId, tenantId or both`);
  }
  if (userId === undefined && "userId" in options) {
    throw new TypeError(
      `${call}: userId is undefined; leave it out to mean every user of the tenant`,
    );
  }
  const read = (name: string, value: string | undefined): string | null => {
    if (value === undefined) {
      return null;
    }
    assertId(name, value);
    return value;
  };
  return { userId: read("userId", userId), tenantId: read("tenantId", tenantId) };
}

/**
 * Whether a text has the form of a session's id; any other names none, and no store is asked.
 * @throws TypeError when it is no text at all
 */
export function mayBeSession(id: string): boolean {
  if (typeof id !== "string" || id === "") {
    throw new TypeError("id: must be a string that is not empty, the id of a session");
  }
  return /^[\w-]{1,64}$/.test(id);
}

/** That there is no such session is an answer to who asks about another's, not a fault of their own. */
async function ifLive<T>(id: string, work: () => Promise<T>): Promise<T | undefined> {
  if (!mayBeSession(id)) {
    return undefined;
  }
  try {
    return await work();
  } catch (error) {
    if (error instanceof SessionError && error.kind === "unauthorized") {
      return undefined;
    }
    throw error;
  }
}
