import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { maxDepth, parseStrictObject } from "../../src/jwt/strict-parse.ts";

const nest = (levels: number): string => `${'{"a":'.repeat(levels - 1)}{}${"}".repeat(levels - 1)}`;
const nestArrays = (levels: number): string =>
  `{"a":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`;

describe("parseStrictObject", () => {
  it.each([
    ["no member", "{}"],
    ["white space", ' { "a" : [ 1 , 2 ] } '],
    ["punctuation in strings", '{"a:b":":{[,]}:","c":["\\":","\\\\"],"\\"d\\\\":1}'],
    ["the same name in different objects", '{"a":{"a":1},"b":{"a":[{"a":2},{"a":3}]}}'],
    ["names that differ by case", '{"a":1,"A":2}'],
    ["a pair of surrogates, escaped", '{"a":"\\ud83d\\ude00"}'],
    ["the largest safe integer", '{"a":9007199254740991,"b":-9007199254740991}'],
    ["fractions", '{"a":0.5,"b":1e-7,"c":-1.25}'],
    ["literals", '{"a":null,"b":true,"c":false}'],
    ["__proto__ as a value", '{"a":"__proto__"}'],
    ["constructor as a name", '{"constructor":1}'],
    ["the deepest objects", nest(maxDepth)],
    ["the deepest arrays", nestArrays(maxDepth)],
    ["many objects side by side", `{"a":[${"{},[],".repeat(50)}{"b":{}}]}`],
    ["brackets in a string beyond the depth", `{"a":"${"[{".repeat(50)}"}`],
  ])("reads %s", (_, text) => {
    expect(parseStrictObject(text)).toEqual(JSON.parse(text));
  });

  it.each([
    ["sec:J08 a name twice", '{"a":1,"a":2}'],
    ["sec:J08 a name twice with the same value", '{"a":1,"a":1}'],
    ["sec:J08 a name twice, once escaped", '{"a":1,"\\u0061":1}'],
    ["sec:J08 a name twice, both escaped differently", '{"\\u006a":1,"\\u006A":1}'],
    ["sec:J08 the empty name twice", '{"":1,"":2}'],
    ["sec:J08 a name twice in an inner object", '{"a":{"b":1,"b":1}}'],
    ["sec:J08 a name twice in an object in an array", '{"a":[[{"b":1,"b":1}]]}'],
    ["sec:J08 a name twice, in the value that is dropped", '{"a":{"b":1,"b":2},"a":1}'],
    ["sec:J08 a name twice, whose dropped value has members", '{"a":{"b":1},"a":{"b":1}}'],
    ["sec:J08 __proto__", '{"__proto__":{"admin":true}}'],
    ["sec:J08 __proto__, escaped", '{"\\u005f_proto__":1}'],
    ["sec:J08 __proto__ within", '{"a":[{"__proto__":1}]}'],
    ["sec:J08 a byte order mark", '\ufeff{"a":1}'],
    ["sec:J08 a lone high surrogate", '{"a":"\\ud83d"}'],
    ["sec:J08 a lone low surrogate", '{"a":["\\ude00"]}'],
    ["sec:J08 surrogates in the wrong order", '{"a":"\\ude00\\ud83d"}'],
    ["sec:J08 a lone surrogate in a name", '{"\\ud83d":1}'],
    ["sec:J08 one object too deep", nest(maxDepth + 1)],
    ["sec:J08 one array too deep", nestArrays(maxDepth + 1)],
    ["sec:J08 nesting of 10^5", "[".repeat(100_000)],
    ["sec:J08 nesting of 10^5 in an object", nestArrays(100_000)],
    ["sec:J08 1e308", '{"a":1e308}'],
    ["sec:J08 1e400", '{"a":1e400}'],
    ["sec:J08 -1e400", '{"a":[-1e400]}'],
    ["sec:J08 2^53", '{"a":9007199254740992}'],
    ["sec:J08 -2^53", '{"a":-9007199254740992}'],
    ["sec:J08 a huge integer", `{"a":1${"0".repeat(400)}}`],
    ["an array", "[1]"],
    ["null", "null"],
    ["a string", '"a"'],
    ["a number", "1"],
    ["nothing", ""],
    ["text after the object", '{"a":1}x'],
    ["two objects", "{}{}"],
    ["a trailing comma", '{"a":1,}'],
    ["a comment", '{"a":1/**/}'],
    ["single quotes", "{'a':1}"],
    ["a bare name", "{a:1}"],
    ["NaN", '{"a":NaN}'],
    ["a leading zero", '{"a":01}'],
    ["a control character", '{"a":"\n"}'],
    ["no-break space", '\u00a0{"a":1}'],
  ])("%s: refused", (_, text) => {
    expect(parseStrictObject(text)).toBeUndefined();
  });

  it("removes the prototype of every object within", () => {
    const value = parseStrictObject('{"a":{"b":[{}]}}') as { a: { b: object[] } };
    for (const object of [value.a, value.a.b[0]]) {
      expect(Object.getPrototypeOf(object)).toBeNull();
    }
  });

  it("finds no member that somebody has added to the prototype of all objects", () => {
    const members = { tid: "evil", iss: "evil" };
    Object.assign(Object.prototype, members);
    try {
      const value = parseStrictObject('{"a":{"b":[{}]}}') as { a: { b: object[] } };
      for (const object of [value, value.a, value.a.b[0]] as Partial<typeof members>[]) {
        expect([object.tid, object.iss]).toEqual([undefined, undefined]);
      }
    } finally {
      for (const name of Object.keys(members)) {
        Reflect.deleteProperty(Object.prototype, name);
      }
    }
  });

  it("agrees with JSON.parse on every accepted text, and accepts all JSON that follows its rules", () => {
    const strict = fc.jsonValue({ maxDepth: 4, noUnicodeString: false });
    fc.assert(
      fc.property(strict, fc.integer({ min: 0, max: 2 }), (inner, space) => {
        const text = JSON.stringify({ inner }, undefined, space);
        const read = parseStrictObject(text);
        expect(read ?? JSON.parse(text)).toEqual(JSON.parse(text));
        expect(read !== undefined).toBe(obeys(JSON.parse(text)));
      }),
      { numRuns: 1000 },
    );
  });

  it("never accepts an object with a duplicate name", () => {
    const name = fc.constantFrom("a", "\\u0061", "b", "a:", 'a\\"', "\\u005f");
    const value = fc.constantFrom("1", '":"', "{}", '{"a":1}', '[{"b":2}]', '"\\\\"');
    const members = fc.array(fc.tuple(name, value), { maxLength: 5 });
    fc.assert(
      fc.property(members, (list) => {
        const text = `{${list.map(([n, v]) => `"${n}":${v}`).join(",")}}`;
        const names = list.map(([n]) => JSON.parse(`"${n}"`) as string);
        const unique = new Set(names).size === names.length;
        expect(parseStrictObject(text) !== undefined).toBe(unique);
      }),
      { numRuns: 2000 },
    );
  });
});

function obeys(value: unknown): boolean {
  if (typeof value === "number") {
    return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value));
  }
  if (typeof value === "string") {
    return !/\p{Surrogate}/u.test(value);
  }
  if (typeof value !== "object" || value === null) {
    return true;
  }
  return Object.entries(value).every(
    ([name, inner]) => name !== "__proto__" && obeys(name) && obeys(inner),
  );
}
