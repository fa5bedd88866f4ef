import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { RevokeCause } from "./audit/log.ts";
import type { Device, ExternalId, SessionRecord } from "./store.ts";

/** A verified session: who is calling. Services that only verify tokens receive this form. */
export interface VerifiedSession<Claims extends object = JsonObject> {
  /** Identifies the session. Not a secret, and not proof of anything. */
  readonly id: string;
  /** The user that was passed to `create`. */
  readonly userId: string;
  /** The tenant that was passed to `create`, if any. */
  readonly tenantId: string | undefined;
  /** The claims of the access token, typed by the option `claims`. */
  readonly claims: Claims;
  /** When the session began; with `adopt`, in the other system. */
  readonly createdAt: Date;
  /** When the user last authenticated. */
  readonly authTime: Date;
  /** The authentication context class that was passed to `create`, `adopt` or `reauthenticate` last, if any. */
  readonly acr: string | undefined;
  /** The authentication methods that were passed with it (RFC 8176); empty if none were. */
  readonly amr: readonly string[];
  /** When the session ends at the latest. Without a refresh it ends earlier. */
  readonly expiresAt: Date;
  /** When the access token expires. The session may continue after that. */
  readonly accessExpiresAt: Date;
  /** How the session's tokens travel: in cookies or in headers. */
  readonly tokenTransport: TokenTransport;
  /** The thumbprint of the key that the session is bound to (RFC 7638), if it is bound to one. */
  readonly boundKey: string | undefined;
}

/**
 * A verified session: who is calling, with methods to read, change and end it.
 *
 * Its methods reject with a SessionError: `unavailable` if the store cannot be reached,
 * `unauthorized` if the session has ended in the meantime. In both cases nothing has changed.
 */
export interface Session<Claims extends object = JsonObject> extends VerifiedSession<Claims> {
  /**
   * Changes the claims. The response of this call carries an access token with the new claims, even
   * if the handler throws afterwards. The new token expires at the same time as the current one.
   *
   * Uses optimistic concurrency: if another write gets in first, the change is applied again to the
   * new value. A function may therefore run several times and should have no side effects.
   *
   * @param change members to set, with `undefined` to remove a member; or a function from the current
   * claims to the new ones
   * @example `await session.updateClaims({ role: "admin" })`
   * @throws ConnectError `Internal` if the new claims do not match the schema or make the token too
   * large, if the patch sets a member that the schema drops, or if the response headers were already
   * sent, as with the first message of a stream
   */
  updateClaims(change: ClaimsChange<Claims>): Promise<void>;
  /** Reads the session's private data, which only the service sees: no token contains it. */
  data(): Promise<JsonObject>;
  /** Changes the private data, as `updateClaims` changes claims, and returns the new data. */
  updateData(change: DataChange): Promise<JsonObject>;
  /** Reads the session's record from the store. */
  info(): Promise<SessionInfo<Claims>>;
  /**
   * Ends the session. Its refresh tokens stop working at once; its access tokens stop working at once
   * in this process, and in other processes within milliseconds, at most `maxStaleness`.
   *
   * The response of this call clears the client's tokens, even if the handler throws afterwards.
   * After the first message of a stream, the client's next call clears them.
   *
   * @param cause for the audit log
   */
  revoke(cause?: RevokeCause): Promise<void>;
  /**
   * Ends all other sessions of the user; if this session has a tenant, only those in that tenant.
   * First checks that this session is still live.
   * @param cause for the audit log
   * @returns the ids of the sessions that this call ended
   */
  revokeOthers(cause?: RevokeCause): Promise<readonly string[]>;
}

/**
 * A change of claims: members to set, with `undefined` to remove a member; or a function that
 * receives a copy of the current claims and returns the new ones.
 */
export type ClaimsChange<Claims extends object> =
  | { readonly [Name in keyof Claims]?: Claims[Name] | undefined }
  | ((claims: Claims) => Claims | Promise<Claims>);

/**
 * A change of private data: members to set, with `undefined` to remove a member; or a function that
 * receives a copy of the current data and returns the new data.
 */
export type DataChange =
  | { readonly [name: string]: unknown }
  | ((data: JsonObject) => object | Promise<object>);

/** A session as it is stored. Contains no token or other secret. */
export interface SessionInfo<Claims extends object = JsonObject> {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | undefined;
  /** Undefined if they do not match the schema of the option `claims`, for example after it changed. */
  readonly claims: Claims | undefined;
  /** When the session began; with `adopt`, in the other system. */
  readonly createdAt: Date;
  /** When the user last authenticated. */
  readonly authTime: Date;
  /** The authentication context class that was passed to `create`, `adopt` or `reauthenticate` last, if any. */
  readonly acr: string | undefined;
  /** The authentication methods that were passed with it (RFC 8176); empty if none were. */
  readonly amr: readonly string[];
  /** When the session was last refreshed. Other calls do not update it. */
  readonly lastSeenAt: Date;
  /** When the session ends unless it is refreshed. */
  readonly idleExpiresAt: Date;
  /** When the session ends at the latest. */
  readonly expiresAt: Date;
  readonly tokenTransport: TokenTransport;
  /** The thumbprint of the key that the session is bound to (RFC 7638), if it is bound to one. */
  readonly boundKey: string | undefined;
  /** The device on which the session was created. */
  readonly device: Device;
  /** What the identity provider calls the session and its user; undefined if it was not given. */
  readonly externalId: ExternalId | undefined;
}

/** The part of a session that its access token contains. */
export function verifiedSessionOf(claims: TokenClaims, read: JsonObject): VerifiedSession {
  return {
    id: claims.sid,
    userId: claims.sub,
    tenantId: claims.tid,
    claims: read,
    createdAt: new Date(claims.session_iat * 1000),
    authTime: new Date(claims.auth_time * 1000),
    acr: claims.acr,
    amr: claims.amr ?? [],
    expiresAt: new Date(claims.session_exp * 1000),
    accessExpiresAt: new Date(claims.exp * 1000),
    tokenTransport: claims.transport,
    boundKey: claims.jkt,
  };
}

function boundIn({ boundKey, transport }: SessionRecord): Pick<Device, "bound"> {
  return (boundKey ?? null) === null ? {} : { bound: transport === "cookie" ? "dbsc" : "dpop" };
}

/** @param claims the claims as the schema returned them */
export function sessionInfoOf(record: SessionRecord, claims: JsonObject | undefined): SessionInfo {
  return {
    id: record.id,
    userId: record.userId,
    tenantId: record.tenantId ?? undefined,
    claims,
    createdAt: new Date(record.createdAt),
    authTime: new Date(record.authTime),
    acr: record.authentication?.acr,
    amr: record.authentication?.amr ?? [],
    lastSeenAt: new Date(record.lastSeenAt),
    idleExpiresAt: new Date(record.idleExpiresAt),
    expiresAt: new Date(record.expiresAt),
    tokenTransport: record.transport,
    boundKey: record.boundKey ?? undefined,
    device: { ...record.device, ...boundIn(record) },
    externalId: record.externalId ?? undefined,
  };
}
