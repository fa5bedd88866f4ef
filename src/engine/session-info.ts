import type { JsonObject } from "../base/json.ts";
import type { TokenTransport } from "../base/transport.ts";
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
  readonly transport: TokenTransport;
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
    transport: record.transport,
    device: record.device,
  };
}
