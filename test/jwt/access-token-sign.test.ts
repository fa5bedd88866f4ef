import fc from "fast-check";
import { decodeProtectedHeader, jwtVerify } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import type { TokenClaims } from "../../src/jwt/claims.ts";
import { signAccessToken } from "../../src/jwt/keys.ts";
import { parseCompact } from "../../src/jwt/strict-parse.ts";
import {
  accessClaims,
  accessPayload,
  issuedAt,
  type Keys,
  makeKeys,
  now,
  verifierOf,
} from "./fixture.ts";

let keys: Keys;
let token: string;

beforeAll(async () => {
  keys = await makeKeys();
  token = await signAccessToken(accessClaims, keys.signing);
});

describe("signAccessToken", () => {
  it("feat:H1 signs with the key's algorithm and id, as at+jwt", async () => {
    const header = { alg: "ES256", kid: keys.signing.kid, typ: "at+jwt" };
    expect(decodeProtectedHeader(token)).toEqual(header);
    const { payload } = await jwtVerify(token, keys.verification.key, {
      currentDate: new Date(now),
    });
    expect(payload).toEqual(accessPayload);
  });

  it.each<[string, Partial<TokenClaims> | { claims: unknown }, RegExp]>([
    ["a reserved name", { claims: { sub: "mallory" } }, /^claims\.sub: the name is reserved/],
    ["cnf", { claims: { cnf: {} } }, /^claims\.cnf: the name is reserved/],
    [
      "undefined",
      { claims: { role: undefined } },
      /^claims\.role: a token cannot contain a value of type undefined/,
    ],
    ["an empty subject", { sub: "" }, /^access token: a claim is missing or has the wrong type/],
    ["a fraction of a second", { exp: issuedAt + 0.5 }, /wrong type/],
    ["a negative generation", { gen: -1 }, /wrong type/],
    ["half a surrogate pair as subject", { sub: "\ud800" }, /wrong type/],
    [
      "too much",
      { claims: { text: "x".repeat(6000) } },
      /^claims: the access token has \d+ characters/,
    ],
  ])("refuses %s", async (_, change, message) => {
    const signed = signAccessToken({ ...accessClaims, ...change } as TokenClaims, keys.signing);
    await expect(signed).rejects.toThrow(TypeError);
    await expect(signed).rejects.toThrow(message);
  });

  it("makes only tokens that the verifier reads back", async () => {
    const name = fc.string({ unit: "binary", maxLength: 8 }).map((text) => `_${text}`);
    const value = fc.jsonValue({ maxDepth: 5 });
    const verify = verifierOf([keys.verification]);
    await fc.assert(
      fc.asyncProperty(fc.dictionary(name, value), async (candidate) => {
        const claims = JSON.parse(JSON.stringify(candidate)) as TokenClaims["claims"];
        const all = { ...accessClaims, claims };
        const signed = await signAccessToken(all, keys.signing).catch(() => undefined);
        fc.pre(signed !== undefined);
        expect(await verify(signed, now)).toEqual({ status: "valid", claims: all });
      }),
    );
  });
});

describe("mutations of a valid token", () => {
  it("are never valid", async () => {
    const verify = verifierOf([keys.verification]);
    const char = fc.constantFrom(...Array.from("ABQgwxyz019-_+/=. \n"));
    const edits = fc.array(fc.tuple(fc.nat(), char, fc.constantFrom(0, 1)), {
      minLength: 1,
      maxLength: 3,
    });
    await fc.assert(
      fc.asyncProperty(edits, fc.boolean(), async (list, cut) => {
        let mutant = token;
        for (const [place, other, insert] of list) {
          const at = place % mutant.length;
          mutant = mutant.slice(0, at) + other + mutant.slice(at + 1 - insert);
        }
        mutant = cut ? mutant.slice(0, -1) : mutant;
        fc.pre(mutant !== token);
        expect((await verify(mutant, now)).status).not.toBe("valid");
      }),
      { numRuns: 1000 },
    );
  });

  it("sec:J13 refuses a token made of the parts of two tokens", async () => {
    const later = await signAccessToken({ ...accessClaims, sub: "bob" }, keys.signing);
    const [header, , signature] = token.split(".");
    const mixed = `${header}.${later.split(".")[1]}.${signature}`;
    expect(parseCompact(mixed)).toBeDefined();
    expect(await verifierOf([keys.verification])(mixed, now)).toEqual({ status: "invalid" });
  });
});
