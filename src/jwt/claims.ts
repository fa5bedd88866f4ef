import type { JsonObject, JsonValue } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import { isInteroperable, maxDepth } from "./strict-parse.ts";

/** The names of what a token says itself (RFC 7519 §4.1, RFC 9068 §2.2, and ours). */
export const ownClaimNames: ReadonlySet<string> = new Set([
  ...["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "sid"],
  ...["gen", "gat", "cv", "tid", "auth_time", "session_iat", "session_exp", "transport"],
]);

/** The names that a user's claims cannot have at the root: the token's own, and those that mislead readers. */
export const reservedClaimNames: ReadonlySet<string> = new Set([
  ...ownClaimNames,
  ...["cnf", "__proto__", "constructor", "prototype"],
]);

/**
 * Checks that a token carries claims unchanged: whatever passes is read back equal by the strict
 * parser. Names a claim in the message, never its value.
 *
 * @throws TypeError that says what to change: a reserved name, or a value that is no plain JSON
 */
export function assertUserClaims(claims: unknown): asserts claims is JsonObject {
  if (!isPlainObject(claims)) {
    throw new TypeError('claims: must be a plain object, such as { role: "admin" }');
  }
  for (const name of Object.keys(claims)) {
    if (reservedClaimNames.has(name)) {
      throw new TypeError(`${member("claims", name)}: the name is reserved; choose another`);
    }
  }
  checkValue("claims", claims, []);
}

function checkValue(path: string, value: unknown, parents: readonly object[]): void {
  if (typeof value === "string") {
    checkText(path, value);
  } else if (typeof value === "number") {
    checkNumber(path, value);
  } else if (typeof value === "bigint") {
    throw new TypeError(`${path}: a bigint cannot go into a token; write it as a string`);
  } else if (typeof value === "object" && value !== null) {
    checkObject(path, value, parents);
  } else if (typeof value !== "boolean" && value !== null) {
    throw new TypeError(
      `${path}: ${typeof value} cannot go into a token; leave it out or use null`,
    );
  }
}

function checkText(path: string, value: string): void {
  if (!value.isWellFormed()) {
    throw new TypeError(
      `${path}: half of a surrogate pair cannot go into a token; apply toWellFormed()`,
    );
  }
}

function checkNumber(path: string, value: number): void {
  if (!Number.isFinite(value)) {
    throw new TypeError(`${path}: ${value} cannot go into a token; leave it out or use null`);
  }
  if (!isInteroperable(value)) {
    throw new TypeError(
      `${path}: a whole number beyond 2^53 - 1 loses digits; write it as a string`,
    );
  }
}

function checkObject(path: string, value: object, parents: readonly object[]): void {
  if (parents.includes(value)) {
    throw new TypeError(`${path}: contains itself; a token holds a tree`);
  }
  if (parents.length === maxDepth) {
    throw new TypeError(`${path}: nests deeper than ${maxDepth} levels; make it flatter`);
  }
  const within = [...parents, value];
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      checkValue(`${path}[${i}]`, value[i], within);
    }
    return;
  }
  if (!isPlainObject(value)) {
    throw new TypeError(
      `${path}: an instance of a class cannot go into a token; use a string, a number or a plain object`,
    );
  }
  for (const [name, inner] of Object.entries(value)) {
    const at = member(path, name);
    checkText(`${at} (its name)`, name);
    if (name === "__proto__") {
      throw new TypeError(`${at}: the name is reserved; choose another`);
    }
    checkValue(at, inner, within);
  }
}

/** Objects of another realm, such as a test runner's, count; instances and symbol keys do not. */
function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  const plain = prototype === null || Object.getPrototypeOf(prototype) === null;
  return plain && Object.getOwnPropertySymbols(value).length === 0;
}

function member(path: string, name: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(name)}]`;
}

/**
 * What an access token says (RFC 9068 §2.2). Times are whole seconds since 1970, counters whole
 * numbers from 0, and no string is empty.
 */
export interface TokenClaims {
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
export function toPayload({ claims, ...own }: TokenClaims): JsonObject {
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
export function fromPayload(payload: JsonObject): TokenClaims | undefined {
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
