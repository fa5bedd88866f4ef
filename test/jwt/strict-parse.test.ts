import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { maxTokenLength } from "../../src/base/wire.ts";
import { outlineOf, type ParsedJwt, parseCompact } from "../../src/jwt/strict-parse.ts";
import { base64url, type Part } from "./fixture.ts";

const header = { alg: "ES256", kid: "key-12", typ: "at+jwt" };
const payload = { a: 1 };
const signature = new Uint8Array(64).fill(7);
const join = (...parts: Part[]): string => parts.map(base64url).join(".");
const good = join(header, payload, signature);
const [h, p, s] = good.split(".") as [string, string, string];

/** A token of exactly `length` characters. */
function tokenOf(length: number): string {
  const room = length - h.length - 2;
  for (let size = Math.floor((room * 3) / 4) - 120; ; size++) {
    const body = base64url({ a: "x".repeat(size) });
    const rest = room - body.length;
    if (rest < 110 && rest % 4 !== 1) {
      return `${h}.${body}.${"A".repeat(rest)}`;
    }
  }
}

describe("parseCompact", () => {
  it("parses a token", () => {
    const signed = Buffer.from(good.slice(0, good.lastIndexOf(".")));
    expect(parseCompact(good)).toEqual({ header, payload, signature, signed });
  });

  it.each([0, 1, 2])("sec:J07 refuses a character whose low 8 bits are right, in part %i", (at) => {
    const parts = good.split(".");
    const part = parts[at] ?? "";
    const low = part.charCodeAt(1);
    parts[at] = part[0] + String.fromCharCode(0x100 + low) + part.slice(2);
    expect(parseCompact(parts.join("."))).toBeUndefined();
  });

  it.each([
    ["sec:J06 crit", { ...header, crit: ["exp"] }],
    ["sec:J06 b64", { ...header, b64: true }],
    ["sec:J06 crit with b64", { ...header, b64: false, crit: ["b64"] }],
    ["sec:J06 zip", { ...header, zip: "DEF" }],
    ["sec:J05 jku", { ...header, jku: "https://evil.example" }],
    ["sec:J05 jwk", { ...header, jwk: {} }],
    ["sec:J05 x5u", { ...header, x5u: "https://evil.example" }],
    ["sec:J05 x5c", { ...header, x5c: [] }],
    ["sec:J06 an unknown member", { ...header, foo: 1 }],
    ["sec:J05 jwk in place of kid", { alg: "ES256", jwk: {}, typ: "at+jwt" }],
    ["sec:J01 no alg", { kid: "key-1", typ: "at+jwt" }],
    ["sec:J01 alg as array", { ...header, alg: ["ES256"] }],
    ["sec:J01 alg as number", { ...header, alg: 256 }],
    ["sec:J01 alg as null", { ...header, alg: null }],
    ["no typ", { alg: "ES256", kid: "key-1" }],
    ["typ as null", { ...header, typ: null }],
    ["no kid", { alg: "ES256", typ: "at+jwt" }],
    ["kid as number", { ...header, kid: 1 }],
    ["sec:J04 an empty kid", { ...header, kid: "" }],
    ["sec:J04 kid of 65 characters", { ...header, kid: "k".repeat(65) }],
    ["sec:J04 kid of 3 kB", { ...header, kid: "k".repeat(3000) }],
    ["sec:J04 kid as a path", { ...header, kid: "../../dev/null" }],
    ["sec:J04 kid as SQL", { ...header, kid: "x' or '1'='1" }],
    ["sec:J04 kid with a line break", { ...header, kid: "key-1\n" }],
    ["sec:J04 kid beyond ASCII", { ...header, kid: "kéy" }],
    ["sec:J08 alg twice", '{"alg":"ES256","alg":"ES256","kid":"key-1","typ":"at+jwt"}'],
    ["sec:J08 kid twice, once escaped", '{"alg":"ES256","kid":"a","\\u006bid":"b","typ":"at+jwt"}'],
    ["sec:J08 a byte order mark", `\ufeff${JSON.stringify(header)}`],
    [
      "sec:J08 bytes that are no UTF-8",
      Buffer.from('{"alg":"ES256","kid":"k","typ":"\xff"}', "latin1"),
    ],
    ["an array", [header]],
    ["no JSON", "ES256"],
  ])("%s: refused in a header", (_, bad) => {
    expect(parseCompact(join(bad, payload, signature))).toBeUndefined();
  });

  it.each([
    ["kid of 64 characters", { ...header, kid: "k".repeat(64) }],
    ["kid that is a name of Object.prototype", { ...header, kid: "__proto__" }],
    ["another alg", { ...header, alg: "none" }],
    ["another typ", { ...header, typ: "JWT" }],
    ["white space", '{ "typ":"at+jwt",\n"kid":"key-1","alg":"ES256" }'],
  ])("reads a header with %s", (_, fine) => {
    expect(parseCompact(join(fine, payload, signature))).toBeDefined();
  });

  it.each([
    ["sec:J08 a name twice", '{"a":1,"a":1}'],
    ["sec:J08 a byte order mark", '\ufeff{"a":1}'],
    ["sec:J08 an overlong encoding", Buffer.from([0x7b, 0x22, 0xc0, 0x80, 0x22, 0x3a, 0x31, 0x7d])],
    ["sec:J08 a surrogate in UTF-8", Buffer.from('{"a":"\xed\xa0\x80"}', "latin1")],
    ["sec:J08 a cut sequence", Buffer.from('{"a":"\xe2\x82"}', "latin1")],
    ["sec:J08 UTF-16", Buffer.from('{"a":1}', "utf16le")],
    ["sec:J08 nesting", `{"a":${"[".repeat(1500)}${"]".repeat(1500)}}`],
    ["an array", "[]"],
    ["a string", '"a"'],
  ])("%s: refused in a payload", (_, bad) => {
    expect(parseCompact(join(header, bad, signature))).toBeUndefined();
  });

  it.each([
    ["sec:J07 two parts", `${h}.${p}`],
    ["sec:J07 four parts", `${good}.${s}`],
    ["sec:J07 five parts, as JWE", `${good}.${s}.${s}`],
    ["sec:J07 a dot at the end", `${good}.`],
    ["sec:J07 a dot at the start", `.${good}`],
    ["sec:J07 no header", `.${p}.${s}`],
    ["sec:J07 no payload", `${h}..${s}`],
    ["sec:J07 no signature", `${h}.${p}.`],
    ["sec:J07 nothing", ""],
    ["sec:J07 only dots", ".."],
    ["sec:J07 padding in the signature", `${good}==`],
    ["sec:J07 padding in the header", `${h}=.${p}.${s}`],
    ["sec:J07 a space in front", ` ${good}`],
    ["sec:J07 a line break at the end", `${good}\n`],
    ["sec:J07 CR LF inside", `${h}.\r\n${p}.${s}`],
    ["sec:J07 a scheme", `Bearer ${good}`],
    ["sec:J07 JSON serialization", JSON.stringify({ protected: h, payload: p, signature: s })],
    ["sec:J07 standard base64", `${h}.${p}.${"+/A".repeat(20)}`],
    ["sec:J07 trailing bits in the signature", `${h}.${p}.${s.slice(0, -1)}x`],
    ["sec:J07 trailing bits in the payload", `${h}.${base64url('{"a":12}').slice(0, -1)}1.${s}`],
    ["sec:J07 an impossible length", `${h}.${p}.${s}AAA`],
  ])("%s: refused", (_, bad) => {
    expect(parseCompact(bad)).toBeUndefined();
  });

  it("sec:J09 accepts no token that is longer than the limit", () => {
    const longest = tokenOf(maxTokenLength);
    expect(longest).toHaveLength(maxTokenLength);
    expect(parseCompact(longest)).toBeDefined();
    const longer = tokenOf(maxTokenLength + 1);
    expect(longer).toHaveLength(maxTokenLength + 1);
    expect(parseCompact(longer)).toBeUndefined();
  });

  it("sec:J09 does no work for a token that is too long", () => {
    const untouched = { length: maxTokenLength + 1 } as string;
    expect(parseCompact(untouched)).toBeUndefined();
  });

  it("accepts only one spelling of the same bytes", () => {
    const at = fc.nat({ max: good.length - 1 });
    const char = fc.constantFrom(...Array.from("AQgwx019-_+/=. \n\u00e9"));
    const edit = fc.constantFrom("set", "insert", "delete");
    fc.assert(
      fc.property(at, char, edit, (index, other, how) => {
        const keep = how === "insert" ? index : index + 1;
        const mutant = good.slice(0, index) + (how === "delete" ? "" : other) + good.slice(keep);
        const parsed = parseCompact(mutant);
        const parts = mutant.split(".").map((part) => Buffer.from(part, "base64url"));
        const spelling = parts.map((part) => part.toString("base64url")).join(".");
        expect(parsed === undefined || spelling === mutant).toBe(true);
        expect(parsed === undefined || agrees(parsed, parts)).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });
});

/** Whether `JSON.parse` reads the same: its own spelling of a value, such as of `1e0`, is not asked for. */
function agrees(parsed: ParsedJwt, parts: readonly Buffer[]): boolean {
  const [header, payload, signature] = parts;
  return (
    isDeepStrictEqual({ ...parsed.header }, JSON.parse(String(header))) &&
    isDeepStrictEqual({ ...parsed.payload }, JSON.parse(String(payload))) &&
    signature?.equals(parsed.signature) === true
  );
}

describe("outlineOf", () => {
  it("a text longer than any token is not decoded, and is never left to the service", () => {
    const named = base64url({ iss: "https://idp.example", sid: "s1" });
    const text = `${base64url({ typ: "JWT" })}.${named}.`;
    const longest = text.padEnd(maxTokenLength, "A");
    expect(outlineOf(longest)).toEqual({
      ...{ isAccessToken: false, issuer: "https://idp.example", session: "s1" },
    });
    expect(outlineOf(`${longest}A`)).toEqual({
      ...{ isAccessToken: true, issuer: undefined, session: undefined },
    });
  });
});

describe("parseCompact with headers that were parsed before", () => {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const header = { alg: "ES256", kid: "key", typ: "at+jwt" };
  const token = [part(header), part({ iss: "a" }), "AAAA"].join(".");

  it("takes a known one as it is, and parses every other text as strictly as before", () => {
    const known = { alg: "ES256", kid: "another", typ: "at+jwt" };
    const headers = new Map([[part(header), known]]);
    expect(parseCompact(token, headers)?.header).toBe(known);
    // One more character, another spelling of the same bits, or another order of members: not the same.
    for (const other of [`${part(header)}A`, part({ ...header, jku: "x" }), `${part(header)}=`]) {
      expect(parseCompact([other, part({ iss: "a" }), "AAAA"].join("."), headers)).toBeUndefined();
    }
    const { typ, ...rest } = header;
    const reordered = [part({ typ, ...rest }), part({ iss: "a" }), "AAAA"].join(".");
    expect(parseCompact(reordered, headers)?.header).toEqual({ ...header });
  });

  it("still refuses a damaged payload or signature", () => {
    const headers = new Map([[part(header), header]]);
    for (const rest of [
      "..",
      `.${part({ iss: "a" })}.`,
      `.${part({ iss: "a" })}.AAAA.A`,
      ".e30=.AAAA",
    ]) {
      expect(parseCompact(`${part(header)}${rest}`, headers)).toBeUndefined();
    }
  });
});
