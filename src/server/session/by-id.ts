import { assertId, assertMembers } from "../../base/checks.ts";
import { type PolicyViolation, SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { type RevokeCause, readCause } from "../../engine/audit/log.ts";
import type { ClaimsChange, DataChange, SessionInfo } from "../../engine/session.ts";
import type {
  ExternalId,
  ExternalKey,
  SessionOwner,
  SessionRecord,
  SessionSelection,
} from "../../engine/store.ts";
import type { Core } from "../core.ts";
import { readRules } from "../policy/in-handler.ts";
import { type ClaimRules, unmetRules, violationsOf } from "../policy/rules.ts";
import type { SessionCondition } from "./by-condition.ts";
import { infoOf, updateClaims, updateData } from "./edits.ts";

/** The owner of sessions: a user, a tenant, or a user within a tenant. */
export type OwnerOptions =
  | { readonly userId: string; readonly tenantId?: string }
  | { readonly userId?: undefined; readonly tenantId: string };

/** Selects sessions by what the identity provider calls them or their user. */
export interface ExternalOptions {
  readonly userId?: undefined;
  readonly tenantId?: undefined;
  /** The issuer, and its `sid` or `sub` or both; see the method. */
  readonly externalId: ExternalId;
}

/** The sessions to list, and the page to return. An `externalId` has either `sid` or `sub` here. */
export type ListOptions = (OwnerOptions | ExternalOptions) & {
  /** Sessions per page: 1 to 1000. Default 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the previous page. Default: the first page. */
  readonly pageToken?: string;
};

/** A page of sessions. */
export interface SessionList<Claims extends object = JsonObject> {
  /** Live sessions, newest first. */
  readonly sessions: readonly SessionInfo<Claims>[];
  /** Pass it as `pageToken` to get the next page; undefined on the last page. */
  readonly nextPageToken: string | undefined;
}

/**
 * Access to sessions by id, user, tenant and external id, for example from an admin page or a script.
 * These methods never write to a response: the client sees a change on its next call. There is one
 * exception: if they end a session, no response delivers new tokens of it any more. They reject with a
 * SessionError `unavailable` if the store cannot be reached; then nothing has changed.
 */
export interface SessionDirectory<Claims extends object = JsonObject> {
  /**
   * Returns a live session, or undefined if there is none with this id.
   * @throws TypeError if the id is not a string, as do all methods that take an id
   */
  find(id: string): Promise<SessionInfo<Claims> | undefined>;
  /**
   * Lists live sessions. Sessions that begin or end while you read the pages may be missing. Every
   * other session is listed exactly once.
   *
   * @example
   * const { sessions: page, nextPageToken } = await sessions.list({ tenantId: "acme" });
   * @throws TypeError if the options do not select sessions, or a page option is out of bounds
   */
  list(options: ListOptions): Promise<SessionList<Claims>>;
  /**
   * Changes the claims of a session; see `Session.updateClaims`. The session's next call receives an
   * access token with the new claims.
   *
   * @returns undefined if there is no such live session
   * @throws ConnectError `Internal` if the claims do not fit; the message says what to change
   */
  updateClaims(id: string, change: ClaimsChange<Claims>): Promise<SessionInfo<Claims> | undefined>;
  /** Returns the private data of a live session, or undefined if there is no such live session. */
  data(id: string): Promise<JsonObject | undefined>;
  /**
   * Changes the private data of a session; see `Session.updateData`.
   * @returns the new data, or undefined if there is no such live session
   */
  updateData(id: string, change: DataChange): Promise<JsonObject | undefined>;
  /**
   * Ends a session; resolves to whether this call ended it.
   *
   * @param cause who ends it and why, for the audit log
   * @example
   * await sessions.revoke(id, { by: "admin:7", reason: "laptop reported as stolen" });
   */
  revoke(id: string, cause?: RevokeCause): Promise<boolean>;
  /**
   * Ends sessions, with one transaction per 1000.
   * @returns the ids of the sessions that this call ended
   */
  revoke(ids: readonly string[], cause?: RevokeCause): Promise<readonly string[]>;
  /**
   * Ends all sessions of a user, of a tenant, or of a user within a tenant, in one transaction. A
   * session created at the same time is either ended too or was created afterwards.
   *
   * @returns the ids of the sessions that this call ended
   * @throws TypeError if no owner is given, for example because `userId` is undefined
   */
  revokeAll(
    options: OwnerOptions & { readonly except?: string },
    cause?: RevokeCause,
  ): Promise<readonly string[]>;
  /**
   * Ends the sessions that belong to a session or a user of an identity provider, of all tenants. Call
   * it when the user signs out there, unless `backChannelLogoutHandler` does that.
   *
   * With a `sid`, ends the sessions with that `sid`. If there is also a `sub`, ends those that have
   * this `sub` and no `sid`, too: they may belong to it. With a `sub` alone, ends all sessions of that
   * user of the provider.
   *
   * @example
   * await sessions.revokeAll({ externalId: { issuer: "https://login.example.com", sid } });
   * @returns the ids of the sessions that this call ended
   * @throws TypeError if the external id has no issuer, or neither `sid` nor `sub`
   */
  revokeAll(options: ExternalOptions, cause?: RevokeCause): Promise<readonly string[]>;
  /**
   * Ends the sessions of all users and tenants that meet a condition. Reads every session that is live
   * when the call begins, and ends those that match, in batches of 500. It takes about a second for each
   * few thousand sessions; calls go on meanwhile. A session that begins meanwhile may end as well.
   *
   * @example
   * await sessions.revokeWhere(
   *   { addresses: ["203.0.113.0/24"], createdBefore: new Date("2026-03-01") },
   *   { by: "admin:7", reason: "sign-ins of the attacker" },
   * );
   * @returns how many sessions this call ended
   * @throws TypeError if the condition is empty or wrong; what `where` throws
   * @throws SessionError `unavailable` if the store fails; call it again then
   */
  revokeWhere(condition: SessionCondition<Claims>, cause?: RevokeCause): Promise<number>;
}

/** The maximum number of sessions in one page, and in one transaction that ends sessions. */
const maxPage = 1_000;

export async function findById(core: Core, id: string): Promise<SessionInfo | undefined> {
  const record = await recordOf(core, id);
  return record && infoOf(core, record);
}

/** Checks the claims of a live session; undefined if there is none. */
export async function checkById(
  core: Core,
  id: string,
  rules: ClaimRules,
): Promise<readonly PolicyViolation[] | undefined> {
  const demands = readRules(core, "sessions.check", rules);
  const record = await recordOf(core, id);
  if (record === undefined) {
    return undefined;
  }
  const { claims } = (await core.sources?.renewRecord(record, demands)) ?? record;
  const now = () => core.revocations.storeNow();
  const unmet = unmetRules(demands, claims, { now, agesCount: false });
  const shown = await core.claims.forClient(claims).catch(() => undefined);
  return violationsOf(unmet, shown);
}

export async function dataById(core: Core, id: string): Promise<JsonObject | undefined> {
  return (await recordOf(core, id))?.data;
}

export async function updateClaimsById(
  core: Core,
  id: string,
  change: ClaimsChange<JsonObject>,
): Promise<SessionInfo | undefined> {
  const updated = await ifLive(id, () => updateClaims(core, id, change));
  return updated && infoOf(core, updated.record);
}

export async function updateDataById(
  core: Core,
  id: string,
  change: DataChange,
): Promise<JsonObject | undefined> {
  return ifLive(id, () => updateData(core, id, change));
}

export async function revokeById(core: Core, id: string, given?: RevokeCause): Promise<boolean> {
  const cause = readCause("sessions.revoke", given);
  return isSessionId(id) && (await core.engine()).revoke(id, "revoked", cause);
}

export async function revokeByIds(
  core: Core,
  ids: readonly string[],
  given?: RevokeCause,
): Promise<readonly string[]> {
  const cause = readCause("sessions.revoke", given);
  const all = ids.filter(isSessionId);
  const engine = await core.engine();
  const revoked: string[] = [];
  for (let start = 0; start < all.length; start += maxPage) {
    const part = all.slice(start, start + maxPage);
    revoked.push(...(await engine.revokeAll({ ids: part }, "revoked", cause)));
  }
  return revoked;
}

export async function listByOwner(core: Core, options: ListOptions): Promise<SessionList> {
  const selection = selectionOf(options);
  assertMembers("sessions.list", options, {
    ...{ userId: 0, tenantId: 0, externalId: 0, pageSize: 0, pageToken: 0 },
  });
  const { pageSize: limit = 100, pageToken: cursor } = options;
  if (!Number.isInteger(limit) || limit < 1 || limit > maxPage) {
    throw new TypeError(`list: pageSize must be an integer from 1 to ${maxPage}, got ${limit}`);
  }
  if (cursor !== undefined && !isPageToken(cursor)) {
    throw new TypeError("list: pageToken must be the nextPageToken of the previous page");
  }
  const page = await (await core.engine()).list(selection, { cursor, limit });
  const sessions = await Promise.all(page.records.map((record) => infoOf(core, record)));
  return { sessions, nextPageToken: page.cursor };
}

export async function revokeByOwner(
  core: Core,
  options: (OwnerOptions & { readonly except?: string }) | ExternalOptions,
  given?: RevokeCause,
): Promise<readonly string[]> {
  const cause = readCause("sessions.revokeAll", given);
  if (hasExternalId(options)) {
    assertExternalAlone("revokeAll", options);
    assertMembers("sessions.revokeAll", options, { userId: 0, tenantId: 0, externalId: 0 });
    return revokeExternal(core, readExternalId(options.externalId), cause);
  }
  const owner = ownerOf("revokeAll", options);
  // A misspelt `except` would end the session that is meant to stay.
  assertMembers("sessions.revokeAll", options, { userId: 0, tenantId: 0, except: 0 });
  const { except } = options;
  const kept = except !== undefined && isSessionId(except) ? except : null;
  return (await core.engine()).revokeAll({ ...owner, except: kept }, "revoked", cause);
}

async function revokeExternal(
  core: Core,
  { issuer, sid, sub = "" }: ExternalId,
  cause: RevokeCause,
): Promise<readonly string[]> {
  // A session without a `sid` may belong to any session of its user at the provider.
  const keys: readonly ExternalKey[] =
    sid === undefined
      ? [{ by: "sub", issuer, id: sub }]
      : [
          { by: "sid", issuer, id: sid },
          { by: "subWithoutSid", issuer, id: sub },
        ];
  const engine = await core.engine();
  const revoked: string[] = [];
  for (const external of keys.filter(({ id }) => id !== "")) {
    revoked.push(...(await engine.revokeAll({ external }, "externalLogout", cause)));
  }
  return revoked;
}

/**
 * Reads the option `externalId`; drops members that are undefined.
 * @throws TypeError if it has no issuer, or neither `sid` nor `sub`, or a member that cannot be stored
 */
export function readExternalId(given: ExternalId): ExternalId {
  assertMembers("externalId", given, { issuer: 0, sid: 0, sub: 0 });
  const { issuer, sid, sub } = given;
  assertId("externalId.issuer", issuer);
  if (/\s/.test(issuer)) {
    throw new TypeError("externalId.issuer must not contain spaces");
  }
  if (sid === undefined && sub === undefined) {
    throw new TypeError("externalId: specify sid, sub or both");
  }
  if (sid !== undefined) {
    assertId("externalId.sid", sid);
  }
  if (sub !== undefined) {
    assertId("externalId.sub", sub);
  }
  return { issuer, ...(sid === undefined ? {} : { sid }), ...(sub === undefined ? {} : { sub }) };
}

/** Also true of an undefined one, which a slip may cause: it must not select an owner's sessions. */
function hasExternalId(options: object): options is ExternalOptions {
  return typeof options === "object" && options !== null && "externalId" in options;
}

/**
 * Whether a text has the format of a session id. A malformed id is answered without asking the store.
 * @throws TypeError if the id is not a string or is empty
 */
export function isSessionId(id: string): boolean {
  if (typeof id !== "string" || id === "") {
    throw new TypeError("the id of a session must be a non-empty string");
  }
  return /^[\w-]{1,64}$/.test(id);
}

/** Whether a text has the format of a `nextPageToken`. A malformed one is the caller's mistake. */
export function isPageToken(text: string): boolean {
  return /^\d{1,15}\.[\w-]{1,64}$/.test(text);
}

async function recordOf(core: Core, id: string): Promise<SessionRecord | undefined> {
  return isSessionId(id) ? (await (await core.engine()).find(id))?.record : undefined;
}

function selectionOf(options: ListOptions): SessionSelection {
  if (!hasExternalId(options)) {
    return ownerOf("list", options);
  }
  const { issuer, sid, sub } = readExternalId(options.externalId);
  assertExternalAlone("list", options);
  if (sid !== undefined && sub !== undefined) {
    throw new TypeError("list: externalId must have either sid or sub, got both");
  }
  return {
    external: {
      ...(sid === undefined ? { by: "sub", id: sub ?? "" } : { by: "sid", id: sid }),
      issuer,
    },
  };
}

function assertExternalAlone(method: string, options: ExternalOptions): void {
  if (options.userId !== undefined || options.tenantId !== undefined) {
    throw new TypeError(`${method}: specify either externalId, or userId and tenantId`);
  }
}

/** Reads the owner. A slip such as an undefined user must not end or list everybody's sessions. */
function ownerOf(method: string, options: OwnerOptions): SessionOwner {
  const { userId, tenantId } = options ?? {};
  if (userId === undefined && tenantId === undefined) {
    throw new TypeError(`${method}: specify userId, tenantId or both, such as { userId }`);
  }
  if (userId === undefined && "userId" in options) {
    throw new TypeError(
      `${method}: userId is undefined; omit it to select every user of the tenant`,
    );
  }
  if (userId !== undefined) {
    assertId("userId", userId);
  }
  if (tenantId !== undefined) {
    assertId("tenantId", tenantId);
  }
  return { userId: userId ?? null, tenantId: tenantId ?? null };
}

/** Returns undefined if there is no such live session: for a caller by id, that is not an error. */
async function ifLive<T>(id: string, work: () => Promise<T>): Promise<T | undefined> {
  if (!isSessionId(id)) {
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
