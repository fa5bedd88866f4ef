import type { JsonObject } from "../base/json.ts";
import { decodeBase64url } from "./base64url.ts";
import { parseStrictObject } from "./strict-json.ts";

/** The longest token that is looked at, in characters. */
export const maxTokenLength = 8192;

/** The header of a token: these three members and no other (RFC 7515 §4.1). */
export interface JwtHeader {
  readonly alg: string;
  readonly kid: string;
  readonly typ: string;
}

/** A token that is well formed. Nothing in it is proven. */
export interface ParsedJwt {
  readonly header: JwtHeader;
  /** Objects in it have no prototype. */
  readonly payload: JsonObject;
  /** At least one byte. */
  readonly signature: Uint8Array<ArrayBuffer>;
}

/**
 * Takes apart a token in JWS Compact Serialization (RFC 7515 §7.1), more strictly than the RFC: what
 * it accepts has exactly one spelling and one meaning.
 *
 * - at most {@link maxTokenLength} characters, which is looked at first
 * - three parts, each canonical base64url without padding, none empty
 * - header and payload in UTF-8 without a byte order mark, each one strict JSON object
 * - `alg`, `kid` and `typ` in the header as strings, and nothing else: no `jwk`, `jku`, `x5c`, `crit`, …
 *
 * @returns undefined when a rule is broken
 */
export function parseCompact(token: string): ParsedJwt | undefined {
  if (token.length > maxTokenLength) {
    return undefined;
  }
  const [first, second, third, ...more] = token.split(".", 4);
  if (!first || !second || !third || more.length > 0) {
    return undefined;
  }
  const signature = decodeBase64url(third);
  const header = asHeader(parsePart(first));
  const payload = parsePart(second);
  if (signature === undefined || header === undefined || payload === undefined) {
    return undefined;
  }
  return { header, payload, signature };
}

/** Whether a key id may stand in a token: 1 to 64 characters of the base64url alphabet. */
export function isKeyId(value: unknown): value is string {
  return typeof value === "string" && keyId.test(value);
}

const keyId = /^[A-Za-z0-9_-]{1,64}$/;

// ignoreBOM keeps a byte order mark in the text, where JSON.parse refuses it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function parsePart(part: string): JsonObject | undefined {
  const bytes = decodeBase64url(part);
  if (bytes === undefined) {
    return undefined;
  }
  try {
    return parseStrictObject(utf8.decode(bytes));
  } catch {
    return undefined;
  }
}

function asHeader(value: JsonObject | undefined): JwtHeader | undefined {
  if (value === undefined || Object.keys(value).length !== 3) {
    return undefined;
  }
  const { alg, kid, typ } = value;
  if (typeof alg !== "string" || typeof typ !== "string" || !isKeyId(kid)) {
    return undefined;
  }
  return { alg, kid, typ };
}
