import { bytesIfAscii, decodeCanonical } from "../base/crypto.ts";
import type { JsonObject } from "../base/json.ts";
import { maxTokenLength } from "../base/wire.ts";

/** The header of a token: these three members and no others (RFC 7515 §4.1). */
interface JwtHeader {
  readonly alg: string;
  readonly kid: string;
  readonly typ: string;
}

/** A well-formed token of any issuer. Nothing in it is proven. */
export interface ParsedJws {
  /** As {@link parseStrictObject} returns it. */
  readonly header: JsonObject;
  /** As {@link parseStrictObject} returns it. */
  readonly payload: JsonObject;
  /** At least one byte. */
  readonly signature: Uint8Array<ArrayBuffer>;
  /** The bytes that the signature covers: the encoded header and payload. */
  readonly signed: Uint8Array<ArrayBuffer>;
}

/** A well-formed access token. Nothing in it is proven. */
export interface ParsedJwt extends ParsedJws {
  readonly header: JwtHeader & JsonObject;
}

/**
 * Parses an access token as {@link parseJws} does. Its header has `alg`, `kid` and `typ`, as strings,
 * and nothing else: no `jwk`, `jku`, `x5c`, `crit`, …
 *
 * @param known headers that need no second parse, because they are the same bytes
 * @returns undefined when a rule is broken
 */
export function parseCompact(token: string, known?: KnownHeaders): ParsedJwt | undefined {
  const parts = partsOf(token);
  if (parts === undefined) {
    return undefined;
  }
  const header = known?.get(parts.header) ?? asHeader(parsePart(parts.header));
  return header === undefined ? undefined : withRest(parts, header);
}

/** Headers that were parsed before, by their encoded text. */
export type KnownHeaders = ReadonlyMap<string, ParsedJwt["header"]>;

/** Returns the encoded header of a token. */
export function headerPartOf(token: string): string {
  return token.slice(0, token.indexOf("."));
}

/**
 * Parses a token in JWS Compact Serialization (RFC 7515 §7.1), more strictly than the RFC: an accepted
 * token has exactly one spelling and one meaning.
 *
 * - at most {@link maxTokenLength} characters, checked before anything else
 * - three parts, each canonical base64url without padding, none empty
 * - header and payload in UTF-8 without a byte order mark, each one strict JSON object
 *
 * @returns undefined when a rule is broken
 */
export function parseJws(token: string): ParsedJws | undefined {
  const parts = partsOf(token);
  const header = parts && parsePart(parts.header);
  return parts === undefined || header === undefined ? undefined : withRest(parts, header);
}

/** The parts of a token in ASCII, not decoded yet. */
interface CompactParts {
  readonly header: string;
  readonly payload: string;
  readonly signature: string;
  readonly signed: Uint8Array<ArrayBuffer>;
}

function partsOf(token: string): CompactParts | undefined {
  if (token.length > maxTokenLength) {
    return undefined;
  }
  const first = token.indexOf(".");
  const second = token.indexOf(".", first + 1);
  const isCompact =
    first > 0 &&
    second > first + 1 &&
    second < token.length - 1 &&
    token.indexOf(".", second + 1) < 0;
  const bytes = isCompact ? bytesIfAscii(token) : undefined;
  return (
    bytes && {
      header: token.slice(0, first),
      payload: token.slice(first + 1, second),
      signature: token.slice(second + 1),
      signed: bytes.subarray(0, second),
    }
  );
}

function withRest<H extends JsonObject>(
  parts: CompactParts,
  header: H,
): (Omit<ParsedJws, "header"> & { readonly header: H }) | undefined {
  const signature = decodeAscii(parts.signature);
  const payload = signature && parseBytes(decodeAscii(parts.payload));
  return signature === undefined || payload === undefined
    ? undefined
    : { header, payload, signature, signed: parts.signed };
}

/** The facts that an unverified text shows about the token that it may be. */
export interface TokenOutline {
  /** Whether it begins with the header of an access token (`typ: at+jwt`, RFC 9068), cut short or not. */
  readonly isAccessToken: boolean;
  /** The `iss` that its payload names; undefined if none can be read. */
  readonly issuer: string | undefined;
  /** The `sid` that its payload names; undefined if none can be read. */
  readonly session: string | undefined;
}

/**
 * Reads what an unverified text shows, also where {@link parseCompact} refuses it. Nothing of it is
 * proven: use it only to leave a token alone, never to accept one.
 */
export function outlineOf(token: string): TokenOutline {
  if (token.length > maxTokenLength) {
    return { isAccessToken: true, issuer: undefined, session: undefined };
  }
  const [first = "", second = ""] = token.split(".");
  const header = parsePart(first);
  const { iss, sid } = parsePart(second) ?? {};
  return {
    // A header that is cut short cannot be read, but it begins like that of every JWT.
    isAccessToken:
      header === undefined
        ? first.startsWith(headerStart)
        : typeof header.typ === "string" && isAccessTokenType(header.typ),
    issuer: typeof iss === "string" ? iss : undefined,
    session: typeof sid === "string" ? sid : undefined,
  };
}

/** Whether a `typ` is that of access tokens: a media type, whose case and prefix do not matter (RFC 7515 §4.1.9). */
export function isAccessTokenType(typ: string): boolean {
  return /^(application\/)?at\+jwt$/i.test(typ);
}

/** `{"alg":` in base64url. */
const headerStart = "eyJhbGciO";

// ignoreBOM keeps a byte order mark in the text, where JSON.parse rejects it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function parsePart(part: string): JsonObject | undefined {
  return parseBytes(decodeBase64url(part));
}

function parseBytes(bytes: Uint8Array | undefined): JsonObject | undefined {
  if (bytes === undefined) {
    return undefined;
  }
  try {
    return parseStrictObject(utf8.decode(bytes));
  } catch {
    return undefined;
  }
}

function asHeader(value: JsonObject | undefined): ParsedJwt["header"] | undefined {
  if (value === undefined || Object.keys(value).length !== 3) {
    return undefined;
  }
  const { alg, kid, typ } = value;
  if (typeof alg !== "string" || typeof typ !== "string" || !isKeyId(kid)) {
    return undefined;
  }
  return { alg, kid, typ };
}

const keyId = /^[A-Za-z0-9_-]{1,64}$/;

/** Whether a value is the id of a key: 1 to 64 characters of the base64url alphabet. */
export function isKeyId(value: unknown): value is string {
  return typeof value === "string" && keyId.test(value);
}

/** The depth to which objects and arrays may be nested in a token; the outermost object is level 1. */
export const maxDepth = 8;

/**
 * Parses a JSON object that all strict JSON parsers read in the same way (I-JSON, RFC 7493 §2): no
 * duplicate names at any depth, no lone surrogates, only interoperable numbers. Beyond that, at most
 * {@link maxDepth} levels and no name `__proto__`. Takes linear time.
 *
 * Nested objects have no prototype. The outermost object keeps `Object.prototype`, because removing it costs
 * half as much as `JSON.parse`. It is removed if `Object.prototype` is polluted. So look up only fixed names
 * in the outermost object.
 *
 * @returns undefined when a rule is broken
 */
export function parseStrictObject(text: string): JsonObject | undefined {
  const written = countWritten(text);
  if (written === undefined) {
    return undefined;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return undefined;
  }
  // In a text that is well-formed, only an escape sequence can spell a lone surrogate.
  if ((text.includes("\\") || !text.isWellFormed()) && !isWellFormed(value)) {
    return undefined;
  }
  if (isPolluted()) {
    Object.setPrototypeOf(value, null);
  }
  return countKept(value as JsonObject) === written ? (value as JsonObject) : undefined;
}

/** Whether `Object.prototype` is polluted, that is, has an enumerable member. */
function isPolluted(): boolean {
  for (const _ in {}) {
    return true;
  }
  return false;
}

const quote = 0x22;
const backslash = 0x5c;

/**
 * Counts the members in a JSON text: its colons outside strings. Returns undefined if it is nested too
 * deeply. The text need not be JSON; `JSON.parse` checks that.
 */
function countWritten(text: string): number | undefined {
  let members = 0;
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === quote) {
      i = endOfString(text, i);
    } else if (char === 0x3a /* : */) {
      members++;
    } else if (char === 0x7b /* { */ || char === 0x5b /* [ */) {
      depth++;
      if (depth > maxDepth) {
        return undefined;
      }
    } else if (char === 0x7d /* } */ || char === 0x5d /* ] */) {
      depth--;
    }
  }
  return members;
}

/** Returns where the string that begins at `start` ends: at its closing quote, or with the text. */
function endOfString(text: string, start: number): number {
  let end = start;
  let escapes: number;
  do {
    end = text.indexOf('"', end + 1);
    escapes = 0;
    while (text.charCodeAt(end - 1 - escapes) === backslash) {
      escapes++;
    }
  } while (end >= 0 && escapes % 2 === 1);
  return end < 0 ? text.length : end;
}

/**
 * Counts the members that `JSON.parse` kept of an object, and removes the prototype of every object within.
 * `JSON.parse` keeps one of two members with the same name, so the count is lower than the text's if and
 * only if there is a duplicate. Returns NaN, which no addition undoes, when another rule is broken.
 */
function countKept(object: JsonObject): number {
  let members = 0;
  // Nothing is inherited, and to list the names first would take three times as long.
  for (const name in object) {
    members += name === "__proto__" ? Number.NaN : 1 + countWithin(object[name]);
  }
  return members;
}

function countWithin(value: unknown): number {
  if (typeof value === "number") {
    return isInteroperable(value) ? 0 : Number.NaN;
  }
  if (typeof value !== "object" || value === null) {
    return 0;
  }
  if (Array.isArray(value)) {
    return value.reduce<number>((members, item) => members + countWithin(item), 0);
  }
  Object.setPrototypeOf(value, null);
  return countKept(value as JsonObject);
}

/** Whether no string in a JSON value, names included, has a lone surrogate. */
function isWellFormed(value: unknown): boolean {
  if (typeof value === "string") {
    return value.isWellFormed();
  }
  if (typeof value !== "object" || value === null) {
    return true;
  }
  return Object.entries(value).every(([name, inner]) => name.isWellFormed() && isWellFormed(inner));
}

/** Whether all strict JSON parsers agree on a number: finite, and within ±(2^53 − 1) if whole (RFC 8259 §6). */
export function isInteroperable(value: number): boolean {
  return Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value);
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const invalid = 0xff;
const values = new Uint8Array(128).fill(invalid);
for (let i = 0; i < alphabet.length; i++) {
  values[alphabet.charCodeAt(i)] = i;
}

/**
 * Decodes canonical base64url without padding (RFC 4648 §5, RFC 7515 §2): only the spelling that an
 * encoder produces. Rejects padding, white space, `+` and `/`, an impossible length, and nonzero bits
 * after the last byte.
 *
 * @returns undefined when a rule is broken
 */
export function decodeBase64url(text: string): Uint8Array<ArrayBuffer> | undefined {
  return bytesIfAscii(text) && decodeAscii(text);
}

/** {@link decodeBase64url} of a text that is ASCII. */
function decodeAscii(text: string): Uint8Array<ArrayBuffer> | undefined {
  if (decodeCanonical !== undefined) {
    return decodeCanonical(text);
  }
  const rest = text.length % 4;
  if (rest === 1) {
    return undefined;
  }
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let at = 0;
  let bits = 0;
  let held = 0;
  for (let i = 0; i < text.length; i++) {
    const value = values[text.charCodeAt(i)] ?? invalid;
    if (value === invalid) {
      return undefined;
    }
    bits = (bits << 6) | value;
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes[at++] = bits >> held;
      bits &= (1 << held) - 1;
    }
  }
  return bits === 0 ? bytes : undefined;
}
