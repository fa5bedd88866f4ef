import type { JsonObject, JsonValue } from "../base/json.ts";
import type { TokenTransport } from "../base/wire.ts";
import { isInteroperable, maxDepth } from "./strict-parse.ts";

/**
 * The claims of an access token (RFC 9068 §2.2). Times are whole seconds since 1970, counters are
 * whole numbers from 0, and no string is empty.
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
  /** The first second at which the token is no longer valid. */
  readonly exp: number;
  readonly jti: string;
  readonly client_id: string;
  /** The refresh generation. */
  readonly gen: number;
  /** When the first token of that generation was issued. */
  readonly gat: number;
  /** The version of the user's claims. */
  readonly cv: number;
  /** When the user last authenticated. */
  readonly auth_time: number;
  /** When the session began. */
  readonly session_iat: number;
  /** The absolute end of the session. */
  readonly session_exp: number;
  readonly transport: TokenTransport;
  /** The tenant's id. */
  readonly tid?: string;
  /** The authentication context class (RFC 9068 §2.2.1). */
  readonly acr?: string;
  /** The authentication methods (RFC 8176); not empty. */
  readonly amr?: readonly string[];
  /** The thumbprint of the key that the session is bound to: `cnf.jkt` (RFC 7800, RFC 9449 §6.1). */
  readonly jkt?: string;
  /** The history of the store whose row the token was issued for; in the token, in `rpcsession`. */
  readonly history?: string;
  /** The user's claims; in the token they are at the root of the payload. */
  readonly claims: JsonObject;
}

/**
 * A member of tokens whose `acr` and `amr` are the token's own. Without it they are claims of the user:
 * sessions of older versions could have some of these names, and they prove nothing.
 */
const ownAuthentication = "rpcsession_authn";

/** The member of tokens for further facts of this library, so that no other name has to be reserved. */
const ownFacts = "rpcsession";

/** Names that were free for a user's claims in older versions. New claims may not have them. */
const laterOwnNames: ReadonlySet<string> = new Set(["acr", "amr"]);

/** The names of the token's own claims (RFC 7519 §4.1, RFC 9068 §2.2, and those of this library). */
const ownClaimNames: ReadonlySet<string> = new Set([
  ...["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "sid"],
  ...["gen", "gat", "cv", "tid", "auth_time", "session_iat", "session_exp", "transport"],
  ...[ownAuthentication, ownFacts, "cnf"],
]);

/**
 * A member of a session's claims: when a source fetched each of its claims, in whole seconds since 1970
 * by the store's clock. It is stored and signed with them, so that every server knows the age without a
 * read. Handlers do not see it.
 */
export const claimAges = "rpcsession_ages";

/** Names that the stored claims of a session may have, but new claims may not. */
const namesOfStoredClaims: ReadonlySet<string> = new Set([...laterOwnNames, ownFacts, claimAges]);

/** Names that are forbidden for a user's claims at the root: the token's own, and dangerous ones. */
export const reservedClaimNames: ReadonlySet<string> = new Set([
  ...ownClaimNames,
  ...["__proto__", "constructor", "prototype"],
]);

/**
 * Creates the payload of a token; the reverse of {@link fromPayload}. The token's own claims take
 * precedence.
 */
export function toPayload(own: TokenClaims): JsonObject {
  const { tid, acr, amr, jkt, history } = own;
  // The claims are copied one by one, because a rest pattern takes as long as six hashes.
  const payload: Record<string, JsonValue> = {
    ...own.claims,
    iss: own.iss,
    aud: own.aud,
    sub: own.sub,
    sid: own.sid,
    iat: own.iat,
    exp: own.exp,
    jti: own.jti,
    client_id: own.client_id,
    gen: own.gen,
    gat: own.gat,
    cv: own.cv,
    auth_time: own.auth_time,
    session_iat: own.session_iat,
    session_exp: own.session_exp,
    transport: own.transport,
  };
  if (tid !== undefined) {
    payload.tid = tid;
  }
  if (history !== undefined) {
    payload[ownFacts] = { history };
  } else if (payload[ownFacts] !== undefined) {
    // A session of an older version may have a claim of this name. It must not be read as such a fact.
    payload[ownFacts] = {};
  }
  if (jkt !== undefined) {
    payload.cnf = { jkt };
  }
  if (acr !== undefined || amr !== undefined) {
    // Claims of an older session may have these names.
    delete payload.acr;
    delete payload.amr;
    Object.assign(payload, acr !== undefined && { acr }, amr !== undefined && { amr: [...amr] });
    payload[ownAuthentication] = 1;
  }
  return payload;
}

/**
 * Makes the payload of a token that the verifier will accept.
 * @throws TypeError when a claim has the wrong type, or the user's claims are not plain JSON
 */
export function checkedPayload(claims: TokenClaims): JsonObject {
  // The session may come from an older version.
  assertUserClaims(claims.claims, namesOfStoredClaims);
  const payload = toPayload(claims);
  const areTyped =
    hasRequiredClaims(payload) && optionalClaimsOf(payload).every((part) => part !== undefined);
  if (!areTyped) {
    throw new TypeError("access token: a claim is missing or has the wrong type");
  }
  return payload;
}

/**
 * Reads the claims of a payload. A claim of the wrong type is never treated as absent.
 *
 * Checks only the types: the verifier checks issuer, audience and time. `nbf` may be present, as a
 * time. A `cnf` (RFC 7800) that binds the token to anything but a thumbprint is rejected rather than
 * ignored.
 *
 * @returns undefined when a required claim is absent or a claim has the wrong type
 */
export function fromPayload(payload: JsonObject): TokenClaims | undefined {
  const optional = optionalClaimsOf(payload);
  const claims = userClaims(payload);
  if (!hasRequiredClaims(payload) || optional.includes(undefined) || claims === undefined) {
    return undefined;
  }
  const read: TokenClaims = {
    iss: payload.iss,
    aud: payload.aud,
    sub: payload.sub,
    sid: payload.sid,
    jti: payload.jti,
    client_id: payload.client_id,
    iat: payload.iat,
    exp: payload.exp,
    gat: payload.gat,
    auth_time: payload.auth_time,
    session_iat: payload.session_iat,
    session_exp: payload.session_exp,
    gen: payload.gen,
    cv: payload.cv,
    transport: payload.transport,
    claims,
  };
  // Most tokens have none of these, and a literal with spreads is slow.
  for (const part of optional) {
    if (part !== none) {
      Object.assign(read, part);
    }
  }
  return read;
}

/** The token's own claims that may be missing. */
type OptionalClaims = Pick<TokenClaims, "tid" | "acr" | "amr" | "jkt" | "history">;
/** The token's own claims that may not be missing. */
type RequiredClaims = Omit<TokenClaims, keyof OptionalClaims | "claims">;

function hasRequiredClaims(payload: JsonObject): payload is JsonObject & RequiredClaims {
  const { iss, aud, sub, sid, jti, client_id, transport } = payload;
  const { iat, exp, nbf, gen, gat, cv, auth_time, session_iat, session_exp } = payload;
  return (
    isText(iss) &&
    isText(aud) &&
    isText(sub) &&
    isText(sid) &&
    isText(jti) &&
    isText(client_id) &&
    isCount(iat) &&
    isCount(exp) &&
    isCount(gen) &&
    isCount(gat) &&
    isCount(cv) &&
    isCount(auth_time) &&
    isCount(session_iat) &&
    isCount(session_exp) &&
    (transport === "cookie" || transport === "header") &&
    (nbf === undefined || isCount(nbf))
  );
}

/** Reads the optional claims in parts. A part is undefined if one of its claims has the wrong type. */
function optionalClaimsOf(payload: JsonObject): readonly (OptionalClaims | undefined)[] {
  return [tenantIn(payload), authenticationIn(payload), boundKeyIn(payload), factsIn(payload)];
}

/** The optional claims of a token that has none. */
const none = Object.freeze({});

function tenantIn({ tid }: JsonObject): Pick<TokenClaims, "tid"> | undefined {
  if (tid === undefined) {
    return none;
  }
  return isText(tid) ? { tid } : undefined;
}

/** Reads `cnf`; undefined if it is anything but one thumbprint. */
function boundKeyIn({ cnf }: JsonObject): Pick<TokenClaims, "jkt"> | undefined {
  if (cnf === undefined) {
    return none;
  }
  if (typeof cnf !== "object" || cnf === null || Array.isArray(cnf)) {
    return undefined;
  }
  const { jkt, ...others } = cnf as JsonObject;
  return isThumbprint(jkt) && Object.keys(others).length === 0 ? { jkt } : undefined;
}

/** Whether a value has the form of a thumbprint: SHA-256 in base64url (RFC 7638). */
export function isThumbprint(value: unknown): value is string {
  return typeof value === "string" && /^[\w-]{42}[AEIMQUYcgkosw048]$/.test(value);
}

/** Reads the further facts; undefined if they have the wrong type. Facts of a later version are ignored. */
function factsIn({ [ownFacts]: facts }: JsonObject): Pick<TokenClaims, "history"> | undefined {
  if (facts === undefined) {
    return none;
  }
  if (!isPlainObject(facts)) {
    return undefined;
  }
  const { history } = facts;
  if (history === undefined) {
    return none;
  }
  return isText(history) ? { history } : undefined;
}

/** Reads how the user authenticated; undefined if a claim has the wrong type. */
function authenticationIn(payload: JsonObject): Pick<TokenClaims, "acr" | "amr"> | undefined {
  const { [ownAuthentication]: mark, acr, amr } = payload;
  if (mark === undefined) {
    return none;
  }
  if (
    mark !== 1 ||
    !(acr === undefined || isText(acr)) ||
    !(amr === undefined || (Array.isArray(amr) && amr.length > 0 && amr.every(isText)))
  ) {
    return undefined;
  }
  // All calls with a token share the list.
  const methods = amr && Object.freeze(amr as readonly string[]);
  return { ...(acr === undefined ? {} : { acr }), ...(methods && { amr: methods }) };
}

/** Collects the claims that are not the token's own. They have no prototype, so a lookup finds only claims. */
function userClaims(payload: JsonObject): JsonObject | undefined {
  const claims: Record<string, JsonValue> = {};
  const isOwnAuthentication = payload[ownAuthentication] !== undefined;
  for (const name of Object.keys(payload)) {
    if (ownClaimNames.has(name) || (isOwnAuthentication && laterOwnNames.has(name))) {
      continue;
    }
    if (reservedClaimNames.has(name)) {
      return undefined;
    }
    claims[name] = payload[name] as JsonValue;
  }
  // Removed last, which is safe because "__proto__" is reserved. V8 turns an object that is created
  // without a prototype into a hash table, which is slower and three times as large.
  return Object.setPrototypeOf(claims, null);
}

/** Whether a value is a whole number from 0 to 2^53 − 1. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.isWellFormed();
}

/**
 * Checks that a token can carry claims unchanged: the strict parser reads accepted claims back as
 * equal values. A message names a claim, never its value.
 *
 * @param kept the names of stored claims; among them may be some that were reserved later
 * @throws TypeError for a reserved name or a value that is not plain JSON
 */
export function assertUserClaims(
  claims: unknown,
  kept: Pick<ReadonlySet<string>, "has"> = new Set(),
): asserts claims is JsonObject {
  if (!isPlainObject(claims)) {
    throw new TypeError('claims must be a plain object, such as { role: "admin" }');
  }
  for (const name of Object.keys(claims)) {
    const mayBeKept = name === ownFacts || name === claimAges;
    if ((reservedClaimNames.has(name) || mayBeKept) && !(mayBeKept && kept.has(name))) {
      throw new TypeError(`${member("claims", name)}: the name is reserved; choose another`);
    }
    if (laterOwnNames.has(name) && !kept.has(name)) {
      throw new TypeError(
        `${member("claims", name)}: the name is reserved for how the user authenticated; pass ${name} beside the claims, to create or reauthenticate, or choose another name`,
      );
    }
  }
  checkValue(() => "claims", claims, []);
}

/** Names the place of a value in a message. It is called only for values that are refused. */
type Place = () => string;

function checkValue(path: Place, value: unknown, parents: readonly object[]): void {
  if (typeof value === "string") {
    checkText(path, value);
  } else if (typeof value === "number") {
    checkNumber(path, value);
  } else if (typeof value === "bigint") {
    throw new TypeError(`${path()}: a token cannot contain a bigint; convert it to a string`);
  } else if (typeof value === "object" && value !== null) {
    checkObject(path, value, parents);
  } else if (typeof value !== "boolean" && value !== null) {
    throw new TypeError(
      `${path()}: a token cannot contain a value of type ${typeof value}; omit it or use null`,
    );
  }
}

function checkText(path: Place, value: string): void {
  if (!value.isWellFormed()) {
    throw new TypeError(
      `${path()}: a token cannot contain a lone surrogate; apply toWellFormed() to the string`,
    );
  }
}

function checkNumber(path: Place, value: number): void {
  if (!Number.isFinite(value)) {
    throw new TypeError(`${path()}: a token cannot contain ${value}; omit it or use null`);
  }
  if (!isInteroperable(value)) {
    throw new TypeError(
      `${path()}: a whole number beyond 2^53 - 1 loses digits; convert it to a string`,
    );
  }
}

function checkObject(path: Place, value: object, parents: readonly object[]): void {
  if (parents.includes(value)) {
    throw new TypeError(`${path()} contains itself; remove the cycle`);
  }
  if (parents.length === maxDepth) {
    throw new TypeError(
      `${path()} is nested deeper than ${maxDepth} levels; make the claims flatter`,
    );
  }
  const within = [...parents, value];
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      checkValue(() => `${path()}[${i}]`, value[i], within);
    }
    return;
  }
  if (!isPlainObject(value)) {
    throw new TypeError(
      `${path()}: a token cannot contain an instance of a class; use a string, a number or a plain object`,
    );
  }
  for (const [name, inner] of Object.entries(value)) {
    const at = () => member(path(), name);
    checkText(() => `${at()} (its name)`, name);
    if (name === "__proto__") {
      throw new TypeError(`${at()}: the name is reserved; choose another`);
    }
    checkValue(at, inner, within);
  }
}

/** Whether a value is a plain object. Accepts objects of another realm, such as a test runner's; rejects symbol keys. */
function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  const plain = prototype === null || Object.getPrototypeOf(prototype) === null;
  return plain && Object.getOwnPropertySymbols(value).length === 0;
}

/** Names a member in a message. */
function member(path: string, name: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(name)}]`;
}
