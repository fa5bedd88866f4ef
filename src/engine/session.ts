import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { Device, SessionRecord } from "./store.ts";

/** What the store knows of a session. Holds no token and no other secret. */
export interface SessionInfo<Claims extends object = JsonObject> {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | undefined;
  /** Undefined when they are not, or no longer, as the option `claims` says. */
  readonly claims: Claims | undefined;
  readonly createdAt: Date;
  /** When the user last proved who they are. */
  readonly authTime: Date;
  /** When the session was last refreshed: coarse, for an access token is used many times in between. */
  readonly lastSeenAt: Date;
  /** When the session ends unless it is refreshed. */
  readonly idleExpiresAt: Date;
  /** When the session ends in any case. */
  readonly expiresAt: Date;
  readonly tokenTransport: TokenTransport;
  /** What it was created on. */
  readonly device: Device;
}

/** @param claims as the option `claims` types them */
export function sessionInfoOf(record: SessionRecord, claims: JsonObject | undefined): SessionInfo {
  return {
    id: record.id,
    userId: record.userId,
    tenantId: record.tenantId ?? undefined,
    claims,
    createdAt: new Date(record.createdAt),
    authTime: new Date(record.authTime),
    lastSeenAt: new Date(record.lastSeenAt),
    idleExpiresAt: new Date(record.idleExpiresAt),
    expiresAt: new Date(record.expiresAt),
    tokenTransport: record.transport,
    device: record.device,
  };
}

/** A verified session, as a service that only verifies knows it: who is calling. */
export interface VerifiedSession<Claims extends object = JsonObject> {
  /** Names the session. No secret, and no proof of anything. */
  readonly id: string;
  /** Who it is: what `create` was given. */
  readonly userId: string;
  /** The tenant it belongs to, where `create` was given one. */
  readonly tenantId: string | undefined;
  /** What the access token says, as the option `claims` types it. */
  readonly claims: Claims;
  /** When the session began. */
  readonly createdAt: Date;
  /** When the user last proved who they are. */
  readonly authTime: Date;
  /** When the session ends in any case; without a refresh it ends before that. */
  readonly expiresAt: Date;
  /** When the access token expires; the session may well go on. */
  readonly accessExpiresAt: Date;
  /** How the session's tokens travel. */
  readonly tokenTransport: TokenTransport;
}

/**
 * A verified session: who is calling. Its calls reject with a SessionError, `unavailable` when the
 * store is out of reach, `unauthorized` when the session has ended meanwhile; then nothing changed.
 */
export interface Session<Claims extends object = JsonObject> extends VerifiedSession<Claims> {
  /**
   * Changes the claims, and gives the client an access token that says so in the response of this
   * call, also when the handler throws afterwards. It expires when the present one would.
   *
   * The change is written only if nobody wrote in between, and else made again on what is there
   * then: a function may be called several times, and should do nothing else.
   *
   * @param change members to set, those that are `undefined` to remove; or what makes the new claims
   * of the present ones
   * @throws ConnectError `Internal`, with what to change: the claims do not fit the schema or the
   * token, a member of the patch is one that the schema leaves out, or the response headers are sent already, as they are with the first message of a stream
   */
  updateClaims(change: ClaimsChange<Claims>): Promise<void>;
  /** Reads the private data of the session: for the service alone, no token carries it. */
  data(): Promise<JsonObject>;
  /** Changes the private data, as `updateClaims` changes claims; resolves to what it is then. */
  updateData(change: DataChange): Promise<JsonObject>;
  /** Reads what the store knows of the session. */
  info(): Promise<SessionInfo<Claims>>;
  /**
   * Ends the session: its refresh tokens at once, its access tokens in this process at once and in
   * others within milliseconds, at the latest within `maxStaleness`. The response of this call clears
   * the tokens of its client, also when the handler throws afterwards; after the first message of a
   * stream the client's next call does.
   */
  revoke(): Promise<void>;
  /**
   * Ends all other sessions of the user, in the tenant of this one where it has one. First reads
   * whether this one lives.
   * @returns the ids of those that this call ended
   */
  revokeOthers(): Promise<readonly string[]>;
}

/**
 * New claims: members to set, those that are `undefined` to remove; or a function of the present
 * ones, of which it is given a copy.
 */
export type ClaimsChange<Claims extends object> =
  | { readonly [Name in keyof Claims]?: Claims[Name] | undefined }
  | ((claims: Claims) => Claims | Promise<Claims>);

/**
 * New private data: members to set, those that are `undefined` to remove; or a function of the
 * present data, of which it is given a copy.
 */
export type DataChange =
  | { readonly [name: string]: unknown }
  | ((data: JsonObject) => object | Promise<object>);

/** The part of a session that its access token tells. */
export function verifiedSessionOf(claims: TokenClaims, read: JsonObject): VerifiedSession {
  return {
    id: claims.sid,
    userId: claims.sub,
    tenantId: claims.tid,
    claims: read,
    createdAt: new Date(claims.session_iat * 1000),
    authTime: new Date(claims.auth_time * 1000),
    expiresAt: new Date(claims.session_exp * 1000),
    accessExpiresAt: new Date(claims.exp * 1000),
    tokenTransport: claims.transport,
  };
}
