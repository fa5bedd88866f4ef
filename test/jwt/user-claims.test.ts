import vm from "node:vm";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { assertUserClaims, reservedClaimNames } from "../../src/jwt/claims.ts";
import { parseStrictObject } from "../../src/jwt/strict-parse.ts";

const shared = { c: 1 };
const cyclic: { self?: unknown } = {};
cyclic.self = { again: [cyclic] };
const nest = (levels: number): object => (levels === 1 ? {} : { a: nest(levels - 1) });
const nestArrays = (levels: number): unknown => (levels === 1 ? [] : [nestArrays(levels - 1)]);

describe("assertUserClaims", () => {
  it.each([
    ["nothing", {}],
    ["every kind of value", { a: "x", b: 1, c: -0.5, d: true, e: null, f: [1, [2]], g: { h: {} } }],
    ["an object without a prototype", Object.assign(Object.create(null), { a: 1 })],
    ["an object of another realm", vm.runInNewContext("({ a: { b: [1] } })")],
    ["reserved names further in", { a: { sub: "x", constructor: 1 } }],
    ["the deepest objects", nest(8)],
    ["the deepest arrays", { a: nestArrays(7) }],
    ["the same object twice", { a: shared, b: [shared, shared] }],
    ["safe integers", { a: Number.MAX_SAFE_INTEGER, b: Number.MIN_SAFE_INTEGER }],
    ["a pair of surrogates", { "\ud83d\ude00": "\ud83d\ude00" }],
  ])("accepts %s", (_, claims) => {
    expect(() => assertUserClaims(claims)).not.toThrow();
  });

  it.each([...reservedClaimNames])("refuses the reserved name %s", (name) => {
    const claims = JSON.parse(`{${JSON.stringify(name)}:1}`);
    expect(() => assertUserClaims(claims)).toThrow(
      new TypeError(`claims.${name}: the name is reserved; choose another`),
    );
  });

  it.each([
    ["null", null, "claims must be a plain object"],
    ["undefined", undefined, "claims must be a plain object"],
    ["a string", "x", "claims must be a plain object"],
    ["an array", [], "claims must be a plain object"],
    ["a Map", new Map(), "claims must be a plain object"],
    ["a symbol as name", { [Symbol("a")]: 1 }, "claims must be a plain object"],
    [
      "undefined within",
      { a: undefined },
      "claims.a: a token cannot contain a value of type undefined; omit it or use null",
    ],
    [
      "a hole",
      { a: new Array(1) },
      "claims.a[0]: a token cannot contain a value of type undefined",
    ],
    [
      "a function",
      { a: { b: () => 1 } },
      "claims.a.b: a token cannot contain a value of type function",
    ],
    [
      "toJSON",
      { a: { toJSON: () => 1 } },
      "claims.a.toJSON: a token cannot contain a value of type function",
    ],
    ["a symbol", { a: Symbol("a") }, "claims.a: a token cannot contain a value of type symbol"],
    [
      "a bigint",
      { a: [1n] },
      "claims.a[0]: a token cannot contain a bigint; convert it to a string",
    ],
    ["NaN", { a: Number.NaN }, "claims.a: a token cannot contain NaN"],
    ["Infinity", { a: [0, -Infinity] }, "claims.a[1]: a token cannot contain -Infinity"],
    ["an unsafe integer", { a: 2 ** 53 }, "claims.a: a whole number beyond 2^53 - 1"],
    ["1e308", { a: -1e308 }, "claims.a: a whole number beyond"],
    ["a lone surrogate", { a: "\ud83d" }, "claims.a: a token cannot contain a lone surrogate"],
    [
      "a lone surrogate in a name",
      { a: { "\ud83d": 1 } },
      "(its name): a token cannot contain a lone surrogate",
    ],
    ["a Date", { a: new Date(0) }, "claims.a: a token cannot contain an instance of a class"],
    [
      "an instance",
      { a: [new (class A {})()] },
      "claims.a[0]: a token cannot contain an instance of a class",
    ],
    [
      "a boxed string",
      { a: Object("x") },
      "claims.a: a token cannot contain an instance of a class",
    ],
    ["bytes", { a: new Uint8Array(1) }, "claims.a: a token cannot contain an instance of a class"],
    ["objects too deep", nest(9), "is nested deeper than 8 levels"],
    ["arrays too deep", { a: nestArrays(8) }, "is nested deeper than 8 levels"],
    ["a cycle", cyclic, "claims.self.again[0] contains itself"],
    ["__proto__ within", { a: JSON.parse('{"__proto__":1}') }, "claims.a.__proto__: the name is"],
    [
      "an odd name",
      { "a b": undefined },
      'claims["a b"]: a token cannot contain a value of type undefined',
    ],
  ])("refuses %s", (_, claims, message) => {
    expect(() => assertUserClaims(claims)).toThrow(TypeError);
    expect(() => assertUserClaims(claims)).toThrow(message);
  });

  it("never puts a value into a message", () => {
    expect(() => assertUserClaims({ a: "secret\ud83d" })).not.toThrow("secret");
    expect(() => assertUserClaims({ a: 2 ** 60 })).not.toThrow(String(2 ** 60));
  });

  it("accepts exactly the claims that the strict parser reads back", () => {
    const claims = fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue({ maxDepth: 9 }));
    fc.assert(
      fc.property(claims, (candidate) => {
        fc.pre(Object.keys(candidate).every((name) => !reservedClaimNames.has(name)));
        const text = JSON.stringify(candidate);
        const readBack = parseStrictObject(text);
        expect(accepts(candidate)).toBe(readBack !== undefined);
        expect(readBack ?? JSON.parse(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  });
});

function accepts(claims: unknown): boolean {
  try {
    assertUserClaims(claims);
    return true;
  } catch {
    return false;
  }
}
