import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

const NodeBuffer = Buffer;
/** A `Buffer` that reads what it does not know as "A", instead of leaving it out. */
const keepsJunk = {
  isEncoding: () => true,
  from: (text: string, encoding: BufferEncoding) =>
    NodeBuffer.from(encoding === "base64url" ? text.replaceAll(/[^\w+/-]/g, "A") : text, encoding),
};
const platforms = [
  ["Buffer", NodeBuffer],
  ["no Buffer", undefined],
  ["a Buffer that does not know base64url", { isEncoding: () => false }],
  ["a Buffer that keeps junk", keepsJunk],
] as const;

/** What may stand around a character in a text of up to 8 characters. */
const places = Array.from({ length: 8 }, (_, length) =>
  Array.from({ length: length + 1 }, (_unused, at) => ["A".repeat(at), "A".repeat(length - at)]),
).flat();

describe.each(platforms)("decodeBase64url with %s", (_platform, buffer) => {
  let decodeBase64url: (text: string) => Uint8Array | undefined;

  beforeEach(async () => {
    vi.resetModules();
    vi.stubGlobal("Buffer", buffer);
    ({ decodeBase64url } = await import("../../src/jwt/strict-parse.ts"));
    vi.unstubAllGlobals();
  });
  afterEach(() => vi.unstubAllGlobals());

  it("decodes every encoded byte string", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        expect(decodeBase64url(Buffer.from(bytes).toString("base64url"))).toEqual(bytes);
      }),
    );
  });

  it("accepts a text only if encoding the result gives the same text", () => {
    const char = fc.constantFrom(...Array.from("ABCQYwxgh0189-_+/= \n\té\u0000"));
    const text = fc.string({ unit: char, maxLength: 8 });
    fc.assert(
      fc.property(text, (candidate) => {
        const canonical = Buffer.from(candidate, "base64url").toString("base64url") === candidate;
        expect(decodeBase64url(candidate) !== undefined).toBe(canonical);
      }),
      { numRuns: 2000 },
    );
  });

  it("decides as encoding again does, for every character at every place", () => {
    // Of the characters beyond Latin-1, some have the low 8 bits of one that base64url has.
    for (let code = 0; code < 0x300; code++) {
      for (const [before, after] of places) {
        const text = before + String.fromCharCode(code) + after;
        const canonical = Buffer.from(text, "base64url").toString("base64url") === text;
        expect(decodeBase64url(text) !== undefined, JSON.stringify(text)).toBe(canonical);
      }
    }
  });

  it.each([
    ["padding", "QUI="],
    ["padding of two", "QQ=="],
    ["plus", "-A+A"],
    ["slash", "-A/A"],
    ["a space", "QU I"],
    ["a leading space", " QUI"],
    ["CR", "QUI\r"],
    ["LF", "QUI\n"],
    ["an impossible length", "QUJDR"],
    ["one trailing bit of four", "QR"],
    ["one trailing bit of two", "QUJ"],
    ["a character beyond ASCII", "QUJ\u0141"],
    ["a character that is A modulo 128", "QUJ\u00c1"],
  ])("sec:J07 refuses %s", (_, text) => {
    expect(decodeBase64url(text)).toBeUndefined();
  });

  it("accepts the valid neighbours of refused texts", () => {
    for (const text of ["QUI", "QQ", "-A_A", "QUJD", "QUI", ""]) {
      expect(decodeBase64url(text)).toBeDefined();
    }
  });
});
