import type { JsonObject, JsonValue } from "../base/json.ts";
import type { TokenTransport } from "../base/transport.ts";
import { ownClaimNames, reservedClaimNames } from "./user-claims.ts";

export { assertUserClaims, reservedClaimNames } from "./user-claims.ts";

/**
 * What an access token says (RFC 9068 §2.2). Times are whole seconds since 1970, counters whole
 * numbers from 0, and no string is empty.
 */
export interface AccessClaims {
  /** Issuer. */
  readonly iss: string;
  /** Audience: exactly one. */
  readonly aud: string;
  /** The user's id. */
  readonly sub: string;
  /** The session's id. */
  readonly sid: string;
  readonly iat: number;
  /** The first second at which the token is no longer good. */
  readonly exp: number;
  readonly jti: string;
  readonly client_id: string;
  /** The refresh generation. */
  readonly gen: number;
  /** When that generation was first minted. */
  readonly gat: number;
  /** The version of the user's claims. */
  readonly cv: number;
  /** When the user last proved who they are. */
  readonly auth_time: number;
  /** When the session began. */
  readonly session_iat: number;
  /** When the session ends in any case. */
  readonly session_exp: number;
  readonly transport: TokenTransport;
  /** The tenant's id. */
  readonly tid?: string;
  /** The user's claims; in the token they lie at the root of the payload. */
  readonly claims: JsonObject;
}

/** The payload of a token; the reverse of {@link fromPayload}. Its own names win over the user's claims. */
export function toPayload({ claims, ...own }: AccessClaims): JsonObject {
  const { tid, ...always } = own;
  return { ...claims, ...always, ...(tid === undefined ? {} : { tid }) };
}

/**
 * Reads the claims of a payload. A claim of the wrong type is never taken for an absent one.
 *
 * Looks at types only: who issued the token, for whom and for what time is for the verifier. `nbf` may
 * be there, as a time. A reserved name with no meaning here, such as `cnf` (RFC 7800), is refused
 * rather than overlooked.
 *
 * @returns undefined when a required claim is absent or any claim is of the wrong type
 */
export function fromPayload(payload: JsonObject): AccessClaims | undefined {
  const { iss, aud, sub, sid, jti, client_id, transport, tid } = payload;
  const { iat, exp, nbf, gen, gat, cv, auth_time, session_iat, session_exp } = payload;
  const claims = userClaims(payload);
  if (
    !isText(iss) ||
    !isText(aud) ||
    !isText(sub) ||
    !isText(sid) ||
    !isText(jti) ||
    !isText(client_id) ||
    !isCount(iat) ||
    !isCount(exp) ||
    !isCount(gen) ||
    !isCount(gat) ||
    !isCount(cv) ||
    !isCount(auth_time) ||
    !isCount(session_iat) ||
    !isCount(session_exp) ||
    !(transport === "cookie" || transport === "header") ||
    !(nbf === undefined || isCount(nbf)) ||
    !(tid === undefined || isText(tid)) ||
    claims === undefined
  ) {
    return undefined;
  }
  const ids = { iss, aud, sub, sid, jti, client_id, ...(tid === undefined ? {} : { tid }) };
  const times = { iat, exp, gat, auth_time, session_iat, session_exp };
  return { ...ids, ...times, gen, cv, transport, claims };
}

/** Whether a value is a whole number from 0 to 2^53 − 1. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.isWellFormed();
}

/** Everything that is not the token's own, without a prototype: a name finds a claim or nothing. */
function userClaims(payload: JsonObject): JsonObject | undefined {
  const claims: Record<string, JsonValue> = {};
  for (const name of Object.keys(payload)) {
    if (ownClaimNames.has(name)) {
      continue;
    }
    if (reservedClaimNames.has(name)) {
      return undefined;
    }
    claims[name] = payload[name] as JsonValue;
  }
  // Only now, as "__proto__" is reserved: an object that begins without a prototype is a hash table
  // to the engine, slower and thrice as large.
  return Object.setPrototypeOf(claims, null);
}
