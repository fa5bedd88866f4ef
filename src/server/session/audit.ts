import { assertId, assertMembers } from "../../base/checks.ts";
import type { EndedBy } from "../../base/events.ts";
import type { AuditEvent, AuditRecord, Device } from "../../engine/store.ts";
import type { Core } from "../core.ts";
import { isPageToken } from "./by-id.ts";

/** An entry of the audit log. Contains no secret and no value of a claim. */
export interface AuditEntry {
  /** Unique. */
  readonly id: string;
  /** When it happened, by the store's clock. */
  readonly at: Date;
  /**
   * - `signedIn`: a session began, by `create` or `issue`.
   * - `adopted`: a session began that continues one of another system, by `adopt`.
   * - `reauthenticated`, `forked`: a session began that came from another one of its user, `from`.
   * - `refreshed`: a refresh token was exchanged.
   * - `claimsChanged`: the `claims` with these names have another value.
   * - `ended`: the session was ended; see `endedBy`. Sessions that expire have no such entry.
   */
  readonly event: AuditEvent;
  readonly sessionId: string;
  readonly userId: string;
  readonly tenantId: string | undefined;
  /** The device of a session that began. */
  readonly device: Device | undefined;
  /**
   * The session that this one came from, or the one that ended it: a later sign-in, or another session of
   * the user.
   */
  readonly from: string | undefined;
  /** The names of changed claims: 50 at most. */
  readonly claims: readonly string[] | undefined;
  readonly endedBy: EndedBy | undefined;
  /** Who ended the session, as it was passed to the call. */
  readonly by: string | undefined;
  /** Why, as it was passed to the call. */
  readonly reason: string | undefined;
}

/** Selects a user, or a user within a tenant. */
export interface AuditOwner {
  readonly userId: string;
  /** Default: all tenants. */
  readonly tenantId?: string;
}

/** The entries to list. */
export interface AuditListOptions extends AuditOwner {
  /** Entries per page: 1 to 1000. Default 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the previous page. Default: the first page. */
  readonly pageToken?: string;
}

/** A page of the audit log. */
export interface AuditPage {
  /** Newest first. */
  readonly entries: readonly AuditEntry[];
  /** Pass it as `pageToken` to get the next page; undefined on the last page. */
  readonly nextPageToken: string | undefined;
}

/** The audit log; see the option `auditLog`. */
export interface SessionAuditLog {
  /**
   * Lists what happened to the sessions of a user, also of those that are over.
   *
   * @example
   * const { entries } = await sessions.auditLog.list({ userId: "alice" });
   * @throws TypeError for an invalid option, or if the store has no audit log
   * @throws SessionError `unavailable`
   */
  list(options: AuditListOptions): Promise<AuditPage>;
  /**
   * Removes the entries of a user, for example because the user asked for erasure. End the sessions first:
   * entries that are written later stay.
   *
   * @throws as `list` does
   */
  forget(owner: AuditOwner): Promise<void>;
}

const maxPage = 1_000;

/** The audit log of an instance. */
export function auditLogOf(core: Core): SessionAuditLog {
  return {
    async list(options) {
      assertMembers("auditLog.list", options, {
        ...{ userId: 0, tenantId: 0, pageSize: 0, pageToken: 0 },
      });
      const user = readOwner(options);
      const { pageSize: limit = 100, pageToken: cursor } = options;
      if (!Number.isInteger(limit) || limit < 1 || limit > maxPage) {
        throw new TypeError(
          `auditLog.list: pageSize must be an integer from 1 to ${maxPage}, got ${limit}`,
        );
      }
      if (cursor !== undefined && !isPageToken(cursor)) {
        throw new TypeError("auditLog.list: pageToken must be the nextPageToken of another page");
      }
      const page = await (await core.engine()).listAudit(user, { cursor, limit });
      return { entries: page.records.map(toEntry), nextPageToken: page.cursor };
    },
    async forget(owner) {
      assertMembers("auditLog.forget", owner, { userId: 0, tenantId: 0 });
      const user = readOwner(owner);
      await (await core.engine()).forgetAudit(user);
    },
  };
}

function readOwner({ userId, tenantId }: AuditOwner) {
  assertId("userId", userId);
  if (tenantId !== undefined) {
    assertId("tenantId", tenantId);
  }
  return { userId, tenantId: tenantId ?? null };
}

function toEntry({ id, at, event, session, userId, tenantId, detail }: AuditRecord): AuditEntry {
  const { device, from, claims, endedBy, by, reason } = detail;
  return {
    ...{ id, at: new Date(at), event, sessionId: session, userId, tenantId: tenantId ?? undefined },
    ...{ device, from, claims, endedBy, by, reason },
  };
}
