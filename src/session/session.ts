import type { JsonObject } from "../json.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import type { TokenTransport } from "../transport.ts";

/** A verified session, as a service that only verifies knows it: who is calling. */
export interface VerifiedSession {
  /** Names the session. No secret, and no proof of anything. */
  readonly id: string;
  /** Who it is: what `create` was given. */
  readonly userId: string;
  /** The tenant it belongs to, where `create` was given one. */
  readonly tenantId: string | undefined;
  /** What `create` was given, as the access token carries it. */
  readonly claims: JsonObject;
  /** When the user last proved who they are. */
  readonly authTime: Date;
  /** When the access token expires; the session may well go on. */
  readonly accessExpiresAt: Date;
  /** How the session's tokens travel. */
  readonly transport: TokenTransport;
}

/** A verified session: who is calling. */
export interface Session extends VerifiedSession {
  /**
   * Ends the session: its refresh tokens at once, its access tokens in this process at once and in
   * others within seconds. The response of this call clears the tokens of its client, also when the
   * handler throws afterwards; after the first message of a stream the client's next call does.
   *
   * @throws SessionError `unavailable` when the store is out of reach; then nothing has changed
   */
  revoke(): Promise<void>;
}

/** Makes a session of verified claims. */
export function sessionOf(claims: AccessClaims, revoke: () => Promise<void>): Session {
  return {
    id: claims.sid,
    userId: claims.sub,
    tenantId: claims.tid,
    claims: claims.claims,
    authTime: new Date(claims.auth_time * 1000),
    accessExpiresAt: new Date(claims.exp * 1000),
    transport: claims.transport,
    revoke,
  };
}
