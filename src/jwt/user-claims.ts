import type { JsonObject } from "../base/json.ts";
import { isInteroperable, maxDepth } from "./strict-json.ts";

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
