import type { JsonObject } from "../base/json.ts";

/** How deep objects and arrays may nest in a token; the outermost object is level 1. */
export const maxDepth = 8;

/** Whether every strict JSON reader agrees on a number: finite and, when whole, within ±(2^53 − 1) (RFC 8259 §6). */
export function isInteroperable(value: number): boolean {
  return Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value);
}

/**
 * Reads a JSON object that every strict JSON reader reads the same way (I-JSON, RFC 7493 §2): no
 * duplicate names at any depth, no lone surrogates, only interoperable numbers; and, beyond that, at
 * most {@link maxDepth} levels and no name `__proto__`. Takes linear time.
 *
 * @returns objects without a prototype, or undefined when a rule is broken
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
  return countKept(value) === written ? (value as JsonObject) : undefined;
}

const quote = 0x22;
const backslash = 0x5c;

/**
 * Counts the members that a JSON text has: its colons outside strings. Undefined when it nests too
 * deep. Says nothing about a text that is no JSON; `JSON.parse` refuses that.
 */
function countWritten(text: string): number | undefined {
  let members = 0;
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === quote) {
      inString = !inString;
    } else if (inString) {
      i += char === backslash ? 1 : 0;
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

/**
 * Counts the members that `JSON.parse` kept, and takes the prototype off every object. Of two equal
 * names it keeps one, so that the count falls short of the text's exactly when a name is there twice.
 * NaN, which no sum undoes, when another rule is broken.
 */
function countKept(value: unknown): number {
  if (typeof value === "string") {
    return value.isWellFormed() ? 0 : Number.NaN;
  }
  if (typeof value === "number") {
    return isInteroperable(value) ? 0 : Number.NaN;
  }
  if (typeof value !== "object" || value === null) {
    return 0;
  }
  let members = 0;
  if (Array.isArray(value)) {
    for (const item of value) {
      members += countKept(item);
    }
    return members;
  }
  for (const name of Object.keys(value)) {
    const allowed = name !== "__proto__" && name.isWellFormed();
    members += allowed ? 1 + countKept((value as JsonObject)[name]) : Number.NaN;
  }
  Object.setPrototypeOf(value, null);
  return members;
}
